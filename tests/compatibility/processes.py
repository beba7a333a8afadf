"""The rows that need two processes: each trains every subject on its half of a batch."""

from __future__ import annotations

import tempfile
import traceback
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel

from tests.compatibility.rows import batches, same
from tests.compatibility.subjects import SUBJECTS, Subject, Wrap

WORLD = 2
Outcomes = dict[tuple[str, str], str]  # of (row, subject): "" or a traceback


def replicated(module: nn.Module) -> nn.Module:
    return DistributedDataParallel(module, find_unused_parameters=True)


def sharded(module: nn.Module) -> nn.Module:
    made: nn.Module = fully_shard(module, mesh=init_device_mesh("cpu", (WORLD,)))
    return made


ROWS: dict[str, Wrap] = {
    "DDP": replicated,
    "FSDP2": sharded,
}


def averages(wrap: Wrap, subject: Subject, rank: int) -> None:
    """Every rank has the mean of both ranks' gradients."""
    x, y = next(batches(1, rows=4 * WORLD))
    halves = list(zip(x.chunk(WORLD), y.chunk(WORLD), strict=True))
    expected: dict[str, Tensor] = {}
    for half in halves:
        alone = subject.build()
        subject.step(alone, *half)
        for name, gradient in gradients(alone).items():
            expected[name] = expected.get(name, 0) + gradient / WORLD
    model = subject.build()
    subject.step(subject.wrapped(model, wrap), *halves[rank])
    same(gradients(model), expected)


def gradients(model: nn.Module) -> dict[str, Tensor]:
    """Whole ones, under the names of the plain network."""
    found = {
        name.replace(".module.", "."): parameter.grad
        for name, parameter in model.named_parameters()
        if parameter.grad is not None
    }
    return {n: g.full_tensor() if isinstance(g, DTensor) else g for n, g in found.items()}


def work(rank: int, folder: str, results: Any) -> None:
    """Each cell in a group of its own: one that is refused leaves half a pass behind."""
    torch.set_num_threads(1)
    found: Outcomes = {}
    for row, wrap in ROWS.items():
        for subject in SUBJECTS:
            file = f"file://{folder}/{row} {subject.name}"
            dist.init_process_group("gloo", file, rank=rank, world_size=WORLD)
            try:
                averages(wrap, subject, rank)
                found[row, subject.name] = ""
            except Exception:
                found[row, subject.name] = traceback.format_exc()
            dist.destroy_process_group()
    results.put(found)


def outcomes() -> list[Outcomes]:
    """Of each rank."""
    context = mp.get_context("spawn")
    results = context.Queue()
    with tempfile.TemporaryDirectory() as folder:
        processes = [
            context.Process(target=work, args=(rank, folder, results), daemon=True)
            for rank in range(WORLD)
        ]
        for process in processes:
            process.start()
        found = [results.get(timeout=180) for _ in processes]
        for process in processes:
            process.join(timeout=60)
    return found


if __name__ == "__main__":
    for one in outcomes():
        for place, said in one.items():
            print(*place, said[-300:] or "ok", sep=": ")
