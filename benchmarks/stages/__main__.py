"""Decoupled stages beside one process, GPipe and 1F1B: ``python -m benchmarks.stages``.

Claims, for K = 2 on two cores, layers 1024 wide and batches of 256: decoupled stages do 1.3 times
the samples per second of the best of GPipe and 1F1B, and 1.7 times those of one process with one
thread; the first holds 1/K of the activations of 1F1B with M = 2K micro-batches (with its batch in
4K pieces); and the network that they train is as good, within half a point.

Columns: samples per second; that over one process's; what the model of ``model.py`` says of it,
from the schedule and the CPU time that a step of this arm was seen to cost; test error after the
same samples; seconds until it was first below ``--target``; activations that the first stage holds
at its worst, and the worst of the others, who also keep batches to rehearse; what goes over the
wire; CPU time of a step, all processes together, which says what it costs where nobody waits,
whoever else uses the machine.
"""

from __future__ import annotations

import argparse
import math
import os
import re
import statistics
from dataclasses import asdict
from pathlib import Path

from benchmarks import measure
from benchmarks.stages import baselines
from benchmarks.stages.baselines import Arm
from benchmarks.stages.ours import decoupled
from benchmarks.stages.processes import Outcome, Setting
from examples.data import load

HEAD = f"{'arm':24s} {'samples/s':>9s} {'of one':>6s} {'model':>5s} {'error, %':>8s} "
HEAD += f"{'target, s':>9s} {'held, MiB':>9s} {'others':>6s} {'MiB/step':>8s} {'CPU ms/step':>11s}"


def arms(stages: int, micro_batches: list[int]) -> dict[str, Arm]:
    """All of them."""
    made = baselines.arms(stages, micro_batches)
    for pieces in (1, 2 * stages, 4 * stages):
        made[f"decoupled {pieces}"] = lambda s, d, pieces=pieces: decoupled(s, d, pieces)
    return made


def reached(run: Outcome, target: float) -> float:
    """Seconds until the test error was first at most ``target``."""
    return min((at for at, error in run.curve if error <= target), default=math.inf)


def line(runs: list[Outcome], one: list[Outcome], target: float) -> str:
    """A row of the table: medians over the turns, ratios from within each."""
    cpu = statistics.median(run.cpu_per_step for run in runs)
    its_cpu = statistics.median(run.cpu_per_step for run in one)
    target_at = statistics.median(reached(run, target) for run in runs)
    values = {
        "speed": statistics.median(run.samples_per_second for run in runs),
        "ratio": measure.ratio(
            (run.samples_per_second for run in runs), (run.samples_per_second for run in one)
        ),
        "model": min(runs[0].at_most, os.cpu_count() or 1) * its_cpu / cpu,
        "error": statistics.median(run.test_error for run in runs),
        "target": "never" if math.isinf(target_at) else f"{target_at:.1f}",
        "held": runs[0].activation_bytes[0] / 2**20,
        "others": max(runs[0].activation_bytes[1:], default=0) / 2**20,
        "sent": runs[0].bytes_per_step / 2**20,
        "cpu": 1000 * cpu,
    }
    form = "{speed:9.0f} {ratio:6.2f} {model:5.2f} {error:8.2f} {target:>9s} {held:9.2f} "
    form += "{others:6.2f} {sent:8.2f} {cpu:11.0f}"
    return f"{runs[0].arm:24s} " + form.format(**values)


def options() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", help="digits (default), mnist, or a folder of IDX files")
    for name, default in vars(Setting()).items():
        if isinstance(default, bool):
            parser.add_argument(f"--{name}", default=default, action=argparse.BooleanOptionalAction)
        elif name != "data":
            parser.add_argument(f"--{name}", type=type(default), default=default)
    parser.add_argument("--micro-batches", type=int, nargs="+", default=[2, 4, 8])
    parser.add_argument("--turns", type=int, default=3, help="runs of each arm, in turn")
    parser.add_argument("--target", type=float, default=5.0, help="a test error, in per cent")
    parser.add_argument("--only", default="", help="a regular expression for names of arms")
    parser.add_argument("--json", type=Path, default=Path("results/stages.json"))
    return parser


def main() -> None:
    """Measure; print the table, write JSON after each arm."""
    arguments = options().parse_args()
    if not 0 <= arguments.warmup < arguments.steps:
        raise SystemExit("--warmup: fewer steps than --steps, and at least 0")
    setting = Setting(**{name: getattr(arguments, name) for name in vars(Setting())})
    data = load(arguments.data)
    chosen = {
        name: arm
        for name, arm in arms(setting.stages, arguments.micro_batches).items()
        if name == "one process" or re.search(arguments.only, name)
    }
    runs: dict[str, list[Outcome]] = {name: [] for name in chosen}
    if setting.stages > (os.cpu_count() or 1):
        print(f"{setting.stages} processes on {os.cpu_count()} cores: no stage has one of its own.")
    print(HEAD)
    for turn in range(arguments.turns):
        for name, arm in chosen.items():
            runs[name].append(arm(setting, data))
            one = runs["one process"][turn:]
            print(line(runs[name][turn:], one, arguments.target), flush=True)
            rows = {arm: [asdict(run) for run in made] for arm, made in runs.items()}
            measure.write(arguments.json, arguments, rows)
    print("Medians over the turns:")
    for made in runs.values():
        print(line(made, runs["one process"], arguments.target))
    print(arguments.json)


if __name__ == "__main__":
    main()
