"""Networks that are decoupled from outside."""

from __future__ import annotations

import difflib
import warnings
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, NoReturn

from torch import nn

from dni._checks.words import kind, structure


def is_model(model: Any, who: str) -> None:
    if not isinstance(model, nn.Module):
        raise TypeError(f"{who}: expected a torch.nn.Module, got {kind(model)}.")


def not_wrapped(model: Any, who: str) -> None:
    wrappers = (nn.parallel.DistributedDataParallel, nn.DataParallel)
    if isinstance(model, wrappers) or hasattr(model, "_orig_mod"):
        what = type(model).__name__ if isinstance(model, wrappers) else "torch.compile"
        raise TypeError(
            f"{who}: a wrapper looks at its network only once; expected a plain network, got one "
            f"inside {what}. Decouple first, then wrap."
        )


def places(at: Any, who: str) -> Sequence[Any]:
    listed = [at] if isinstance(at, (str, type)) else at
    if not isinstance(listed, Iterable):
        listed = [at]
    listed = list(listed)
    for one in listed:
        if not isinstance(one, str) and not (isinstance(one, type) and issubclass(one, nn.Module)):
            raise TypeError(
                f"{who}: expected at to be a name, a pattern, a type of modules, 'leaves', or a "
                f"list of these; got {one!r}."
            )
    if not listed:
        raise ValueError(f"{who}: expected at least one place in at, got an empty list.")
    return listed


def known_name(name: str, known: Collection[str], who: str) -> None:
    if name not in known:
        names = ["leaves", *(one for one in known if one)]
        near = difflib.get_close_matches(name, names, n=3, cutoff=0.4)
        hint = f"Did you mean {' or '.join(map(repr, near))}?" if near else _names(known)
        raise ValueError(
            f"{who}: expected the name of a module, as in model.named_modules(); got {name!r}, "
            f"which is none. {hint}"
        )


def found_some(found: bool, what: str, known: Collection[str], who: str) -> None:
    if not found:
        raise ValueError(f"{who}: expected to find {what}, got none in this model. {_names(known)}")


def _names(known: Collection[str], most: int = 8) -> str:
    names = [name for name in known if name]
    if not names:
        return "It has no modules inside: at='' is the model itself."
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return f"Its modules are {', '.join(names[:most])}{more}."


def not_empty(children: bool, name: str, who: str) -> None:
    if not children:
        raise ValueError(
            f"{who}: expected a module that computes something, got {name or 'the model'!r}, an "
            "empty Sequential. Cut after the module before it."
        )


def has_a_place(module: nn.Module, runs: bool, name: str, who: str) -> None:
    called = repr(name) if name else "the model"
    what = type(module).__name__
    if not runs:
        raise ValueError(
            f"{who}: expected a module that is called, got {called}, a {what} without a forward. "
            f"Cut after modules in it: at='{name}.*'."
        )
    if isinstance(module, (nn.Sequential, nn.ModuleList, nn.ModuleDict)):
        raise ValueError(
            f"{who}: an interface becomes a child of the module that it stands after; expected one "
            f"that does not loop over its children, got {called}, a {what}, which is a list of "
            "them. Cut after a module in it, or around it."
        )


def synthesizer_source(
    synthesizer: Any,
    contexts: Mapping[str, Any],
    places: Collection[str],
    model: nn.Module,
    who: str,
) -> None:
    if isinstance(synthesizer, nn.Module):
        cuts = list(places)
        if hasattr(synthesizer, "synthesizer") and hasattr(synthesizer, "objective"):
            raise TypeError(
                f"{who}: the interfaces are made here; expected a synthesizer, got a "
                f"{type(synthesizer).__name__}. Pass its .synthesizer."
            )
        if model in synthesizer.modules():
            raise ValueError(
                f"{who}: a synthesizer becomes part of the model; expected another network, got "
                "one that holds the model itself."
            )
        if len(cuts) > 1:
            raise ValueError(
                f"{who}: one synthesizer serves one cut; expected a function that builds one for "
                f"each output, got one {type(synthesizer).__name__} for {len(cuts)} cuts "
                f"({', '.join(cuts[:4])}{', ...' if len(cuts) > 4 else ''}). Pass "
                "lambda output: ..., or leave it out."
            )
    elif isinstance(synthesizer, type) or not (synthesizer is None or callable(synthesizer)):
        got = repr(synthesizer) if isinstance(synthesizer, type) else kind(synthesizer)
        raise TypeError(
            f"{who}: expected a synthesizer, or a function that builds one for an output, got "
            f"{got}. Pass lambda output: ..., or leave it out."
        )
    given = [name for name, value in contexts.items() if value is not None]
    if synthesizer is not None and given:
        raise ValueError(
            f"{who}: {given[0]} is for the synthesizers that are chosen by shape; expected it "
            "without synthesizer=, got both. Build your synthesizer with it."
        )


def name_is_free(taken: bool, name: str, who: str) -> None:
    if taken:
        raise ValueError(
            f"{who}: an interface becomes a child called dni_interface; expected that name to be "
            f"free, but {name!r} has something else called dni_interface. Rename that."
        )


def decoupled_alike(differ: Mapping[str, Any], other: bool, name: str, who: str) -> None:
    if other or differ:
        had = " and ".join(f"{key}={value}" for key, value in differ.items())
        raise ValueError(
            f"{who}: {name!r} is decoupled already; expected the same again, which changes "
            f"nothing, got other arguments: it has {had or 'another synthesizer'}. Set it on "
            "its interface in dni.interfaces_of(model), or dni.strip(model) first."
        )


def something_to_cut(found: bool, output: Any, name: str) -> None:
    if not found:
        raise ValueError(
            f"dni.decouple: expected an output with a gradient after {name or 'the model'!r}, got "
            f"{structure(output)}, none of which requires grad. Is all below it frozen? Then there "
            "is nothing to decouple; dni.validate(model, sample, at) lists all such places."
        )


def built(synthesizer: Any, name: str) -> None:
    if not isinstance(synthesizer, nn.Module):
        raise TypeError(
            f"dni.decouple: expected the function to return a synthesizer, a torch.nn.Module, for "
            f"{name!r}, got {kind(synthesizer)}."
        )


def all_called(never: Sequence[str], who: str) -> None:
    if never:
        raise ValueError(
            f"{who}: expected modules that the network calls, got {', '.join(map(repr, never))}, "
            "which the sample did not reach. Functional code may read a module's parameters "
            "without calling it: cut after a module that is called."
        )


def not_in_place(changed: Sequence[str], who: str) -> None:
    if changed:
        raise ValueError(
            f"{who}: expected modules whose output stays as it is, got "
            f"{', '.join(map(repr, changed))}, whose output is changed in place afterwards. Use "
            "the out-of-place operation there (nn.ReLU() for nn.ReLU(inplace=True)), or cut after "
            "it."
        )


def not_at_the_end(names: Sequence[str], who: str) -> None:
    if names:
        warnings.warn(
            f"{who}: the output of {', '.join(map(repr, names))} is the model's own; what the loss "
            "sends there is known at once, and a prediction of it is worse. Leave it out "
            "(at='leaves' does), or ask for it by name.",
            stacklevel=4,
        )


def called_once(names: Sequence[str], who: str) -> None:
    if names:
        warnings.warn(
            f"{who}: called several times in a forward pass: {', '.join(map(repr, names))}; one "
            "synthesizer would predict at all those places. Give each place a module of its own, "
            "cut where the network passes once, or ask for it by name.",
            stacklevel=4,
        )


def refused(error: Exception, who: str) -> NoReturn:
    raise ValueError(
        f"{who}: expected a sample that the model takes (a tensor, a tuple of arguments or a dict "
        f"of keywords), got {type(error).__name__}: {error}"
    ) from error


def shaped_before_loading(weights: bool, name: str) -> None:
    if weights:
        raise ValueError(
            f"dni: a checkpoint needs synthesizers of a known shape; expected that for "
            f"{name!r}, got a cut that waits for its first batch. Pass sample= to "
            "dni.decouple, or run a batch, before loading."
        )


def shaped_before_compiling(compiling: bool, name: str) -> None:
    if compiling:
        raise RuntimeError(
            f"dni: a compiled network does not change; expected a known shape for "
            f"{name!r}, got a cut that waits for its first batch. Pass sample= to dni.decouple, "
            "or run a batch before compiling."
        )


def shaped_before_watching(waiting: Sequence[str], who: str) -> None:
    if waiting:
        raise RuntimeError(
            f"{who}: expected interfaces, got cuts that wait for their first batch to have one "
            f"({', '.join(waiting)}). Pass sample= to dni.decouple, or run a batch first."
        )


def has_interfaces(count: int, who: str) -> None:
    if not count:
        raise ValueError(
            f"{who}: expected a model with interfaces, got one without. Call dni.decouple on it, "
            "or put interfaces into its forward."
        )


def shaped_before_use(cause: Exception) -> NoReturn:
    raise ValueError(
        "dni: expected parameters with a shape, got the place of a synthesizer that waits "
        "for its first batch (or that no batch reaches). Pass sample= to dni.decouple, run a "
        "batch first, or look at dni.base_parameters(model)."
    ) from cause


def optimizer_knows_synthesizers() -> None:
    warnings.warn(
        "dni.decouple: synthesizers have gradients, but none of the last hundred optimizer steps "
        "was one of theirs; what is below their cuts learns nothing. Make the optimizer after "
        "dni.decouple, or add dni.synthesizer_parameters(model) to it.",
        stacklevel=4,
    )
