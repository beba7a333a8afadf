"""What decoupled stages have to beat: one process, and PyTorch's own pipelines.

Three ways to train the network of ``network.py``, each in fresh processes, on the same samples:

* ``one process`` with one thread, and with as many threads as there are stages: the second is
  what the same cores can do without any cut;
* ``GPipe`` and ``1F1B`` of ``torch.distributed.pipelining``: a process of one thread for each
  stage, a batch in M micro-batches, over gloo on the loopback interface. The last stage computes
  the loss; after each batch every stage steps its own Adam.

They all compute the same gradients, but for what batch norm sees, so they have to end at about the
same test error; it stands beside the speed.

A K-stage pipeline has ``K M / (M + K - 1)`` times the speed of one process at most. Micro-batches
also make small matrices, which no schedule mends.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.stages import model as paper
from benchmarks.stages import network
from benchmarks.stages.memory import Held
from benchmarks.stages.processes import PATIENCE, Clock, Outcome, Setting, Share, launch, outcome
from examples.data import Images, load

SCHEDULES = {"GPipe": "ScheduleGPipe", "1F1B": "Schedule1F1B"}


def train_alone(rank: int, folder: str, setting: Setting, threads: int) -> Share:
    """The work of a single process: plain backpropagation."""
    torch.set_num_threads(threads)
    data = load(setting.data)
    model = setting.network(data)
    optimizer = setting.optimizer(model)
    clock = Clock(model, setting)
    with Held(model) as held:
        for step in range(setting.steps):
            x, y = setting.batch_of(data, step)
            optimizer.zero_grad()
            F.cross_entropy(model(x), y).backward()
            optimizer.step()
            clock.tick()
    return Share(clock.states, clock.stamps, clock.busy, held.peak, 0)


def train_in_pipeline(
    rank: int, folder: str, setting: Setting, name: str, micro_batches: int
) -> Share:
    """The work of one stage of ``torch.distributed.pipelining``."""
    data = load(setting.data)
    part = network.parts(setting.network(data), setting.stages)[rank]
    optimizer = setting.optimizer(part)
    dist.init_process_group(
        "gloo",
        f"file://{folder}/meet",
        rank=rank,
        world_size=setting.stages,
        timeout=timedelta(seconds=PATIENCE),
    )
    try:
        schedule = _schedule(part, rank, setting, data, name, micro_batches)
        dist.barrier()
        clock, edge = Clock(part, setting), Edge(part if rank < setting.stages - 1 else None)
        with Held(part) as held:
            for step in range(setting.steps):
                x, y = setting.batch_of(data, step)
                optimizer.zero_grad()
                schedule.step(
                    *((x,) if rank == 0 else ()),
                    target=y if rank == setting.stages - 1 else None,
                    return_outputs=False,
                )
                optimizer.step()
                clock.tick()
        return Share(clock.states, clock.stamps, clock.busy, held.peak, edge.bytes)
    finally:
        dist.destroy_process_group()


def _schedule(
    part: nn.Module, rank: int, setting: Setting, data: Images, name: str, micro_batches: int
) -> Any:
    """``part`` as a stage of ``name``. Sizes are said beforehand: else pickles find them out."""
    from torch.distributed import pipelining  # imports dynamo: as long as torch itself takes

    rows, rest = divmod(setting.batch, micro_batches)
    if rest:
        raise ValueError(f"A batch of {setting.batch} is not {micro_batches} equal micro-batches.")
    inputs = data.train_x[0].numel() if rank == 0 else setting.width
    x = torch.zeros(rows, inputs, requires_grad=rank > 0)  # else no gradient would go up
    with torch.no_grad():
        y = part(x).requires_grad_()
    stage = pipelining.PipelineStage(part, rank, setting.stages, torch.device("cpu"), x, y)
    return getattr(pipelining, SCHEDULES[name])(stage, micro_batches, loss_fn=F.cross_entropy)


class Edge:
    """Counts the bytes between a stage and the next: what it puts out, and its gradient."""

    def __init__(self, part: nn.Module | None) -> None:
        self.bytes = 0
        if part is not None:
            part.register_forward_hook(self._passed)

    def _passed(self, module: nn.Module, inputs: object, output: Tensor) -> None:
        self._count(output)
        output.register_hook(self._count)

    def _count(self, tensor: Tensor) -> None:
        self.bytes += tensor.nbytes


def one_process(setting: Setting, data: Images, threads: int = 1) -> Outcome:
    """No cut: one process with ``threads`` threads."""
    shares = launch(train_alone, 1, setting, threads)
    made = outcome(f"one process, threads: {threads}", shares, setting, data)
    made.at_most = float(threads)
    return made


def pipeline(setting: Setting, data: Images, name: str, micro_batches: int) -> Outcome:
    """``GPipe`` or ``1F1B``, a process for each stage."""
    shares = launch(train_in_pipeline, setting.stages, setting, name, micro_batches)
    made = outcome(f"{name}, M = {micro_batches}", shares, setting, data)
    made.at_most = setting.stages / paper.gain(setting.stages, micro_batches)
    return made


Arm = Callable[[Setting, Images], Outcome]


def arms(stages: int, micro_batches: list[int]) -> dict[str, Arm]:
    """All baselines; 1F1B needs as many micro-batches as stages."""
    made: dict[str, Arm] = {"one process": one_process}
    made[f"{stages} threads"] = lambda setting, data: one_process(setting, data, stages)
    for name in SCHEDULES:
        for m in micro_batches:
            if name == "GPipe" or m >= stages:
                made[f"{name} {m}"] = lambda s, d, name=name, m=m: pipeline(s, d, name, m)
    return made
