"""Stages, the edges between them, and what they keep."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from enum import IntEnum
from pathlib import Path
from typing import Any, NoReturn, TypeVar

from torch import Tensor, nn

from dni._checks.wire import WireError
from dni._checks.words import alike, as_number, is_integer_from, kind, structure

WHO = "dni.distributed"
K = TypeVar("K", bound=IntEnum)


def count(name: str, value: Any, least: int, who: str) -> int:
    if not is_integer_from(least, value):
        raise ValueError(f"{who}: expected {name} to be an integer from {least}, got {value!r}.")
    return int(value)


def seconds(name: str, value: Any, who: str) -> float:
    number = as_number(name, value, who)
    if not 0 < number < float("inf"):
        raise ValueError(f"{who}: expected {name} to be a positive number of seconds, got {value}.")
    return number


# where stages meet


def store_url(url: str, scheme: str, path: str, host: str | None, port: int | None) -> None:
    if scheme == "file" and path.startswith("/") and not host:
        return
    if scheme == "tcp" and host and port and not path:
        return
    raise ValueError(
        f"{WHO}: expected a store such as file:///tmp/run/store or tcp://127.0.0.1:29400, "
        f"got {url!r}."
    )


def beyond_loopback(what: str) -> None:
    warnings.warn(
        f"{WHO}: {what} can be reached from other machines. c10d has neither passwords nor "
        "encryption: whoever reaches its ports can read and change what is trained. Use a network "
        "that only your machines are on.",
        stacklevel=4,
    )


def end_of_an_edge(end: Any, who: str) -> str:
    if end not in ("A", "B"):
        raise ValueError(
            f"{who}: expected end 'A' (activations leave) or 'B' (they arrive), got {end!r}."
        )
    return str(end)


# what comes over an edge


def keeps_the_rules(waiting: int, most: int) -> None:
    if waiting >= most:
        raise WireError(
            f"{WHO}: expected a peer that waits for answers, got one that has sent {waiting} "
            "messages which nobody has taken."
        )


def known_kind(number: int, kinds: type[K]) -> K:
    try:
        return kinds(number)
    except ValueError:
        names = ", ".join(f"{one.value} ({one.name})" for one in kinds)
        raise WireError(f"{WHO}: expected a kind of message in {names}; got {number}.") from None


def was_refused(reason: str) -> None:
    raise WireError(
        f"{WHO}: expected a peer that accepts this stage's messages, got a refusal: {reason}"
    )


def is_kind(got: IntEnum, expected: IntEnum) -> None:
    if got is not expected:
        raise WireError(
            f"{WHO}: expected a message of kind {expected.name}, got {got.name}. Do all stages "
            "use the same unlock?"
        )


def a_batch(message: Any, expected: IntEnum, make: Any) -> Any:
    is_kind(message.kind, expected)
    content = message.content
    if not (isinstance(content, list) and len(content) == 4 and isinstance(content[3], bool)):
        raise WireError(
            f"{WHO}: expected [activation, target, context, rehearsed], got {kind(content)}."
        )
    *parts, rehearsed = content
    return make(*parts, step=message.step, connection=message.connection, rehearsed=rehearsed)


def gradient_fits(gradient: Any, h: Any) -> Any:
    if not alike(gradient, h):
        raise WireError(
            f"{WHO}: expected a gradient like the activation, {structure(h)}, got "
            f"{structure(gradient)}."
        )
    return gradient


def state_fits(state: Any, interface: nn.Module) -> None:
    own = interface.state_dict()
    if not (isinstance(state, dict) and alike(state, dict(own))):
        raise WireError(
            f"{WHO}: expected the synthesizer that this stage has a copy of, with {len(own)} "
            f"tensors, got another. Build the same interface at both ends."
        )


def neighbour_away(how: str, waited: float, trouble: str) -> None:
    raise TimeoutError(
        f"{WHO}: expected the neighbouring stage within `patience`; it has been {how} for "
        f"{waited:.0f} seconds.{_last(trouble)} Look at its last output, or raise `patience`."
    )


def _last(trouble: str) -> str:
    return f" The last attempt to connect failed: {trouble}" if trouble else ""


def not_left(left: bool) -> None:
    if left:
        raise RuntimeError(
            f"{WHO}: the next stage has left before the data ended. Let it run until its "
            "train() is through; only the first stage decides where the data end. If it has not "
            "come yet, the store remembers an earlier run: name another, or set DNI_RUN."
        )


def not_over(over: bool) -> None:
    if over:
        raise RuntimeError(
            f"{WHO}: expected a run that begins, got a store that remembers its end: both stages "
            "of an edge have left. Name another store, or set DNI_RUN, for all stages."
        )


def is_waiting(waited: float, trouble: str) -> None:
    warnings.warn(
        f"{WHO}: this stage has waited {waited:.0f} seconds for a neighbour to come."
        f"{_last(trouble)} Are all stages started, with the same store and run?",
        stacklevel=4,
    )


# stages


def stage_is_whole(part: Any, loss: Any, upstream: Any, downstream: Any) -> None:
    if not isinstance(part, nn.Module):
        raise TypeError(f"Stage: expected part to be a Module, got {kind(part)}.")
    if upstream is None and downstream is None:
        raise ValueError(
            "Stage: expected an edge to a neighbour, upstream or downstream, got none; a network "
            "of one part needs no stages."
        )
    if downstream is None and not callable(loss):
        raise TypeError(
            f"Stage: the last stage needs loss, a function of (output, target); got {kind(loss)}."
        )


def knows_input(fed: bool, downstream: Any) -> None:
    if fed and downstream is not None and downstream.needs_data:
        raise ValueError(
            "Stage: a complete unlock predicts from the input of the network, which does not come "
            "over an edge of an update unlock; expected the same unlock at both ends, got "
            f"UpdateB and {type(downstream).__name__}."
        )


def queue(value: Any, most: int, who: str) -> int:
    if not is_integer_from(0, value) or value >= most:
        raise ValueError(
            f"{who}: expected queue to be an integer from 0 to {most - 1}, got {value!r}."
        )
    return int(value)


def trains_once(trained: bool) -> None:
    if trained:
        raise RuntimeError(
            "Stage.train: expected one call for the whole run, got a second one. Chain the epochs: "
            "train(batch for epoch in range(n) for batch in loader)."
        )


def has_data(given: bool) -> None:
    if not given:
        raise ValueError(
            "Stage.train: this stage reads the data itself; expected batches of (input, target), "
            "got none."
        )


def batch_of(item: Any, make: Any) -> Any:
    if isinstance(item, (tuple, list)) and 1 <= len(item) <= 3:
        return make(*item)
    raise TypeError(
        "Stage.train: expected batches of (input, target) or (input, target, context), got "
        f"{structure(item)}."
    )


def environment_says(env: Mapping[str, str], who: str) -> None:
    for ours, torchruns in (("DNI_STAGE", "RANK"), ("DNI_STAGES", "WORLD_SIZE")):
        value = env.get(ours, env.get(torchruns, ""))
        if not value.isdigit():
            raise RuntimeError(
                f"{who}: expected the environment to say which stage this is, in {ours} (or "
                f"{torchruns}); got {value!r}. Start the script with python -m "
                "dni.distributed.launch, or pass place=."
            )
    if "DNI_STORE" not in env and not ("MASTER_ADDR" in env and "MASTER_PORT" in env):
        raise RuntimeError(
            f"{who}: expected the environment to say where stages meet, in DNI_STORE (or "
            "MASTER_ADDR and MASTER_PORT); got neither."
        )


def begins_anew(life: str, nothing_kept: bool) -> None:
    if nothing_kept and life != "1":
        warnings.warn(
            f"{WHO}: life {life} of this stage begins with new weights. Pass checkpoints=, a "
            "folder, and it goes on where it was.",
            stacklevel=4,
        )


def which_stage(stage: int, stages: int, parts: int, who: str) -> int:
    if stages != parts:
        raise ValueError(
            f"{who}: expected {stages} stages, as many as processes; `at` makes {parts}. Name "
            f"{stages - 1} modules in it, or start {parts} processes."
        )
    if not 0 <= stage < stages:
        raise ValueError(f"{who}: expected a stage from 0 to {stages - 1}, got {stage}.")
    return stage


# checkpoints


def stages_in(folder: Path, who: str) -> list[int]:
    numbers = sorted(
        int(path.name.removeprefix("stage-"))
        for path in folder.glob("stage-*")
        if path.name.removeprefix("stage-").isdigit() and any(path.glob("[0-9]*.pt"))
    )
    if not numbers or numbers != list(range(len(numbers))):
        raise FileNotFoundError(
            f"{who}: expected checkpoints of all stages, from stage-0 on, in {folder}; got "
            f"{', '.join(f'stage-{n}' for n in numbers) or 'none'}."
        )
    return numbers


def of_this_model(theirs: Any, mine: str) -> None:
    if theirs != mine:
        raise ValueError("a model that is built, or cut, in another way.")


def one_model(models: Sequence[Any], folder: Path, who: str) -> None:
    odd = [f"stage-{n}" for n, model in enumerate(models) if model != models[0]]
    if odd:
        raise ValueError(
            f"{who}: expected checkpoints of one model, cut in one way, in {folder}; got others in "
            f"{', '.join(odd)} than in stage-0. Remove those that do not belong to it."
        )


def no_other_stages(folder: Path, stages: int, who: str) -> None:
    for path in sorted(folder.glob("stage-*/[0-9]*.pt")):
        number = path.parent.name.removeprefix("stage-")
        if number.isdigit() and int(number) >= stages:
            raise ValueError(
                f"{who}: expected checkpoints of {stages} stages in {folder}, got some of "
                f"{path.parent.name} too, of another run. Name another folder, or remove them."
            )


def resumes(folder: Path, error: Exception) -> None:
    raise ValueError(
        f"{WHO}: expected checkpoints of this model and optimiser in {folder}, got others: {error} "
        "Name another folder, or remove what is there."
    ) from error


def damaged(path: Path, error: Exception) -> None:
    warnings.warn(
        f"{WHO}: {path} cannot be read ({error}); the checkpoint before it is taken.", stacklevel=4
    )


def cannot_be_kept(names: Sequence[str]) -> NoReturn:
    raise TypeError(
        f"{WHO}: a checkpoint holds tensors, numbers and plain containers; expected only these in "
        f"the states of part and optimiser, got something that needs {', '.join(names)}. Convert "
        "it, as in float(rate) for a number of NumPy's."
    )


def a_part(content: Mapping[str, Any] | None, stage: int, who: str) -> Mapping[str, Tensor]:
    part = None if content is None else content.get("part")
    if not isinstance(part, Mapping):
        raise ValueError(
            f"{who}: expected a stage's checkpoint, got another file in stage-{stage}."
        )
    return part
