"""How the benchmarks measure: in turns, as ratios of one run, memory from the allocator."""

from __future__ import annotations

import argparse
import gc
import itertools
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path

from torch.profiler import ProfilerActivity, profile

from examples.training import environment


def in_turns(steps: dict[str, Callable[[], object]], turns: int, count: int) -> dict[str, list]:
    """Median ms of each arm's step, ``count`` steps at a time: a noisy neighbour hits all."""
    times: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(turns):
        for name, step in steps.items():
            taken = []
            for _ in range(count):
                start = time.perf_counter()
                step()
                taken.append(1000 * (time.perf_counter() - start))
            times[name].append(statistics.median(taken))
    return times


def ratio(mine: Iterable[float], other: Iterable[float]) -> float:
    """Median over the turns."""
    return statistics.median(a / b for a, b in zip(mine, other, strict=True))


def peak_memory(step: Callable[[], object]) -> float:
    """MiB that a step adds at its worst, gradients and all: from the allocator's log."""
    gc.collect()  # what is there already must not be freed within the step
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True, acc_events=True) as log:
        step()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "trace.json"
        log.export_chrome_trace(str(path))
        events = json.loads(path.read_text())["traceEvents"]
    allocations = [event for event in events if event["name"] == "[memory]"]
    sizes = (event["args"]["Bytes"] for event in sorted(allocations, key=lambda e: e["ts"]))
    return max(itertools.accumulate(sizes), default=0) / 2**20


def write(path: Path, arguments: argparse.Namespace, rows: object) -> None:
    """The rows, with the arguments and the environment that made them."""
    path.parent.mkdir(parents=True, exist_ok=True)
    settings = {name: str(value) for name, value in vars(arguments).items()}
    content = {"arguments": settings, "environment": environment(), "rows": rows}
    path.write_text(json.dumps(content, indent=2) + "\n")
