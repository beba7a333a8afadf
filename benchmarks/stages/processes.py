"""The processes of an arm: what they have in common, what they bring home, what came of it.

Speed is samples per second over the steps after a warm-up: from when the last process was warm
until the last had finished. Processes agree on the clock (``time.monotonic`` is the system's); the
time to start them and to read the data is not in it. Eight times in a run each keeps its weights;
put together and tested afterwards, they say how the error fell with time.

Threads wait for one another asleep (``OMP_WAIT_POLICY``). Awake, as is the default, two threads
took four times as long as one wherever another job had one of the two cores.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.multiprocessing as mp
from torch import Tensor, nn

import dni.distributed
from benchmarks.stages import network
from examples.data import Images

PATIENCE = 120  # seconds that a message may take, and a process beyond its share of work
LOOKS = 8  # at the weights, in a run


@dataclass(frozen=True)
class Setting:
    """What all arms have in common."""

    data: str | None = None
    stages: int = 2
    layers: int = 12
    width: int = 1024
    batch: int = 256
    rate: float = 1e-3
    seed: int = 0
    steps: int = 60
    warmup: int = 10
    norm: bool = True
    hidden: int = 0
    """Of our synthesizers, where they are perceptrons; 0: they predict a loss."""
    pace: float = 1.0
    """Their rate over the network's."""

    def network(self, data: Images) -> nn.Sequential:
        """The whole of it, newly made: the same each time."""
        inputs = data.train_x[0].numel()
        return network.network(inputs, self.layers, self.width, self.seed, self.norm)

    def batch_of(self, data: Images, step: int) -> tuple[Tensor, Tensor]:
        """The samples of a step."""
        return network.batch(data, step, self.batch, self.seed)

    def optimizer(self, module: nn.Module) -> torch.optim.Optimizer:
        """For a stage, or for the whole."""
        return torch.optim.Adam(module.parameters(), self.rate, fused=True)


@dataclass
class Share:
    """What one process of an arm brings home."""

    states: dict[int, dict[str, Tensor]]
    """The weights of its part after some steps, the last of them among these."""
    stamps: list[float]
    """``time.monotonic()`` before the first step and after each; see :class:`Clock`."""
    busy: list[float]
    """Seconds of CPU until then, all threads of the process together."""
    held: int
    """Bytes of activations at its peak; see :class:`Held`."""
    sent: int
    """Bytes over the edge to the next stage, in all steps: activations down, gradients up."""


class Clock:
    """The ``states``, the ``stamps`` and the ``busy`` time of a process that trains ``part``."""

    def __init__(self, part: nn.Module, setting: Setting) -> None:
        self.part, self.steps = part, setting.steps
        self.states: dict[int, dict[str, Tensor]] = {}
        self.stamps: list[float] = []
        self.busy: list[float] = []
        self.tick()

    def tick(self) -> None:
        """Before the first step, and after each."""
        self.stamps.append(time.monotonic())
        self.busy.append(time.process_time())
        step = len(self.stamps) - 1
        if step and (step % max(1, self.steps // LOOKS) == 0 or step == self.steps):
            state = self.part.state_dict()
            self.states[step] = {name: tensor.clone() for name, tensor in state.items()}


@dataclass
class Outcome:
    """A row of the table."""

    arm: str
    samples_per_second: float
    """After the warm-up."""
    seconds: float
    """Of all steps, from the first process's start to the last one's end."""
    test_error: float
    """Per cent, of the parts put together again, after the same samples in every arm."""
    activation_bytes: list[int]
    """At the peak, in the process of each stage."""
    bytes_per_step: float
    """Between all processes."""
    cpu_per_step: float
    """Seconds of CPU, of all processes together, after the warm-up."""
    curve: list[tuple[float, float]] = field(default_factory=list)
    """Seconds since the start, and the test error then."""
    at_most: float = field(default=float("nan"))
    """How many times one process's speed the schedule allows."""


def outcome(arm: str, shares: list[Share], setting: Setting, data: Images) -> Outcome:
    """What the processes of an arm have done together; ``shares`` in the order of the stages."""
    whole = setting.network(data)
    first = min(share.stamps[0] for share in shares)
    curve = []
    for step in shares[0].states:
        whole.load_state_dict(dni.distributed.merge(share.states[step] for share in shares))
        seconds = max(share.stamps[step] for share in shares) - first
        curve.append((seconds, network.error(whole, data)))
    warm = max(share.stamps[setting.warmup] for share in shares)
    last = max(share.stamps[-1] for share in shares)
    measured = setting.steps - setting.warmup
    return Outcome(
        arm,
        setting.batch * measured / (last - warm),
        last - first,
        curve[-1][1],
        [share.held for share in shares],
        sum(share.sent for share in shares) / setting.steps,
        sum(share.busy[-1] - share.busy[setting.warmup] for share in shares) / measured,
        curve,
    )


Work = Callable[..., Share]
"""What a process does: ``work(rank, folder, setting, *arguments)``, from a module's top level."""


def launch(work: Work, count: int, setting: Setting, *arguments: Any) -> list[Share]:
    """The shares of ``count`` new processes, which are gone when this returns or raises.

    The first traceback of theirs is raised here, and ends the others.
    """
    allowed = time.monotonic() + PATIENCE + 2 * setting.steps
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # read when a process loads OpenMP
    with tempfile.TemporaryDirectory() as folder:
        context = mp.spawn(
            _run, (work, folder, setting, arguments), nprocs=count, join=False, daemon=True
        )
        try:
            while not context.join(timeout=max(0.0, allowed - time.monotonic())):
                if time.monotonic() >= allowed:
                    raise TimeoutError(f"{work.__name__}: no end after {PATIENCE} s and the work.")
        finally:
            for process in context.processes:
                if process.is_alive():
                    process.kill()
                process.join()
        files = [Path(folder, f"{rank}.pt") for rank in range(count)]
        return [Share(**torch.load(file, weights_only=True)) for file in files]


def _run(rank: int, work: Work, folder: str, setting: Setting, arguments: tuple[Any, ...]) -> None:
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    torch.set_num_threads(1)
    share = work(rank, folder, setting, *arguments)
    torch.save(vars(share), Path(folder, f"{rank}.pt"))
