"""The stage that this process is: which one, between which others, and where it resumes.

All processes run the same script and build the same model. Each finds in its environment which
stage it is, keeps that part, and meets its neighbours in the store::

    DNI_STAGE      its number, from 0            else RANK
    DNI_STAGES     how many there are            else WORLD_SIZE
    DNI_STORE      where they meet: a URL        else tcp://MASTER_ADDR:MASTER_PORT
    DNI_RUN        which run, in a store of many
    DNI_INTERFACE  the network's, as in eth0     else the loopback one
    DNI_STATUS     where to write how it goes    else nowhere

``python -m dni.distributed.launch`` sets the left column, torchrun the right one.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.distributed import PrefixStore  # type: ignore[attr-defined]

from dni import _checks, _trees
from dni.decoupling.shapes import call
from dni.distributed.c10d import C10dChannel
from dni.distributed.channels import Channel
from dni.distributed.checkpoints import Checkpoints
from dni.distributed.complete import CompleteA, CompleteB
from dni.distributed.ends import EndA, EndB
from dni.distributed.parts import split
from dni.distributed.stage import Optimizer, Stage
from dni.distributed.stores import open_store
from dni.distributed.update import UpdateA, UpdateB
from dni.interfaces import BackwardInterface, BidirectionalInterface
from dni.synthesizers import synthesizer_for

__all__ = ["Place", "this_stage"]

WHO = "dni.distributed.this_stage"
Builder = Callable[[Tensor], nn.Module]


class Place(NamedTuple):
    """Where a process stands among the stages."""

    stage: int
    stages: int
    store: str
    interface: str | None = None
    """The network interface to listen on; the loopback interface if left out."""
    run: str = "0"
    """Tells apart the runs, or restarts of all stages at once, that meet in one store."""

    @classmethod
    def of_environment(cls) -> Place:
        """The place that the environment names, as set by the launcher or by torchrun."""
        env = os.environ
        _checks.environment_says(env, WHO)
        stage = int(env.get("DNI_STAGE", env.get("RANK", "")))
        stages = int(env.get("DNI_STAGES", env.get("WORLD_SIZE", "")))
        interface = env.get("DNI_INTERFACE")
        if "DNI_STORE" in env:
            return cls(stage, stages, env["DNI_STORE"], interface, env.get("DNI_RUN", "0"))
        agents = f"tcp://{env['MASTER_ADDR']}:{env['MASTER_PORT']}"
        run = env.get("TORCHELASTIC_RESTART_COUNT", "0")  # of a node; of all stages, if it has all
        return cls(stage, stages, agents, interface, run)


def this_stage(
    model: nn.Module,
    at: list[str],
    *,
    sample: Any,
    optimizer: Optimizer,
    loss: Callable[[Any, Any], Tensor],
    synthesizer: Builder = synthesizer_for,
    input_synthesizer: Callable[[Any, Tensor], nn.Module] | None = None,
    queue: int = 2,
    every: int = 20,
    silence: float = 10.0,
    patience: float = 300.0,
    checkpoints: str | os.PathLike[str] | None = None,
    checkpoint_every: int = 100,
    accumulate: int = 1,
    place: Place | None = None,
) -> Stage:
    """Build the stage of ``model`` that this process runs.

    Args:
        model: an ``nn.Sequential``, built alike in all processes; see :func:`split`.
        at: names of the modules after which it is cut, one fewer than there are stages.
        sample: an input of the network, for the shapes; its values do not matter.
        optimizer: see :class:`Stage`.
        loss: for the last stage: ``loss(output, target)``.
        synthesizer: a function that makes a synthesizer for the gradient of the activation that
            it is given.
        input_synthesizer: for a *complete* unlock, a function that is given the network's input and
            an activation, and makes a synthesizer that predicts the latter from the former. Without
            it, activations travel.
        queue: if activations travel, how many batches may be unanswered; 0 is lock-step.
        every: in a complete unlock, how many steps lie between two exchanges of synthesizers; 0
            is lock-step.
        silence: seconds without a sign of life after which a neighbour is taken for dead.
        patience: how many seconds a neighbour may be away.
        checkpoints: a folder; the stage resumes from what is there already.
        checkpoint_every: how many batches lie between two checkpoints.
        accumulate: how many batches make one step of the optimiser; see :class:`Stage`.
        place: where this process stands; if left out, the environment says so.

    On SIGTERM and SIGINT the run ends: the first stage stops at its next step, the others when they
    have trained on all that it sent. A second signal interrupts the stage.
    """
    place = place or Place.of_environment()
    parts = split(model, at)
    n = _checks.which_stage(place.stage, place.stages, len(parts), WHO)
    shapes = _shapes(parts, sample)
    model_id = _fingerprint(model, at, input_synthesizer is not None)

    def channel(cut: int, end: str) -> Channel:
        store = PrefixStore(place.run, open_store(place.store))
        options: dict[str, Any] = {"silence": silence, "interface": place.interface}
        return C10dChannel(store, f"edge {cut}", end, model=model_id, **options)

    if input_synthesizer is None:
        ends = _update(synthesizer, queue, patience)
    else:
        ends = _complete(synthesizer, partial(input_synthesizer, sample), every, patience)
    with random_alike(n):
        downstream = ends.a(channel(n, "A"), shapes[n]) if n < len(at) else None
    with random_alike(n - 1):
        upstream = ends.b(channel(n - 1, "B"), shapes[n - 1]) if n > 0 else None
    if checkpoints is not None:
        _checks.no_other_stages(Path(checkpoints), place.stages, WHO)
    _checks.begins_anew(os.environ.get("DNI_LIFE", "1"), checkpoints is None)
    kept = None if checkpoints is None else Checkpoints(checkpoints, n)
    stage = Stage(
        parts[n], optimizer, loss=loss, upstream=upstream, downstream=downstream,
        checkpoints=kept, every=checkpoint_every, accumulate=accumulate,
    )  # fmt: skip
    if "DNI_STATUS" in os.environ:
        stage.status.file = Path(os.environ["DNI_STATUS"])
        stage.status.report()
    stage.heeds_signals = True
    return stage


class _Ends(NamedTuple):
    """How to make the two ends of an edge, for a channel and an activation."""

    a: Callable[[Channel, Tensor], EndA]
    b: Callable[[Channel, Tensor], EndB]


def _update(build: Builder, queue: int, patience: float) -> _Ends:
    return _Ends(
        a=lambda channel, h: UpdateA(channel, BackwardInterface(build(h)), queue, patience),
        b=lambda channel, h: UpdateB(channel, patience=patience),
    )


def _complete(build: Builder, build_input: Builder, every: int, patience: float) -> _Ends:
    options: dict[str, Any] = {"every": every or 1, "lock_step": every == 0, "patience": patience}

    def interface(h: Tensor) -> BidirectionalInterface:
        return BidirectionalInterface(build_input(h), build(h))

    return _Ends(
        a=lambda channel, h: CompleteA(channel, interface(h), **options),
        b=lambda channel, h: CompleteB(channel, interface(h), **options),
    )


@contextmanager
def random_alike(cut: int) -> Iterator[None]:
    """Make both ends of an edge build the same synthesizers, if their processes share a seed."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(torch.initial_seed() + 1 + cut)
        yield


def _shapes(parts: list[nn.Sequential], sample: Any) -> list[Any]:
    """The activations after all parts but the last, for ``sample``."""
    shapes = []
    for part in parts[:-1]:
        sample = _trees.map_tensors(lambda _, h: h.detach(), call(part, (sample,), WHO))
        shapes.append(sample)
    return shapes


def _fingerprint(model: nn.Module, at: list[str], complete: bool) -> bytes:
    """16 bytes that only peers of the same model, cut in the same places, have."""
    tensors = {name: [str(t.dtype), list(t.shape)] for name, t in model.state_dict().items()}
    said = json.dumps([tensors, at, complete])
    return hashlib.blake2b(said.encode(), digest_size=16).digest()
