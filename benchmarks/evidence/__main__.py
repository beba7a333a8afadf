"""``python -m benchmarks.evidence``: run what is missing, then print the table."""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
from pathlib import Path

from benchmarks.evidence.arms import ARMS
from benchmarks.evidence.networks import NETWORKS
from benchmarks.evidence.run import Run, run_all


def table(runs: list[Run], folder: Path) -> str:
    """Mean test error, and the spread over the seeds, of every arm on every network."""
    networks = list(dict.fromkeys(run.network for run in runs))
    lines = [f"{'test error, %':14s}" + "".join(f"{network:>16s}" for network in networks)]
    for arm in dict.fromkeys(run.arm for run in runs):
        cells = []
        for network in networks:
            files = [r.file(folder) for r in runs if (r.network, r.arm) == (network, arm)]
            errors = [json.loads(f.read_text())["error"] for f in files if f.is_file()]
            cells.append(cell(errors))
        lines.append(f"{arm:14s}" + "".join(f"{one:>16s}" for one in cells))
    return "\n".join(lines)


def cell(errors: list[float]) -> str:
    """``1.70 +- 0.10 (3)``: mean, half the range, seeds."""
    if not errors:
        return "not run"
    spread = (max(errors) - min(errors)) / 2
    return f"{statistics.mean(errors):.2f} +-{spread:.2f} ({len(errors)})"


def main() -> None:
    """Run and print what the command line asks for."""
    parser = argparse.ArgumentParser(description="Do synthetic gradients learn?")
    parser.add_argument("--data", help="digits (default), mnist, or a folder of IDX files")
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=list(NETWORKS)[:4])
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=list(ARMS))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=3000)
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--processes", type=int, default=2, help="runs at a time")
    parser.add_argument("--results", type=Path, default=Path("results/evidence"))
    parser.add_argument("--table", action="store_true", help="print what is there, run nothing")
    parser.add_argument("--smoke", action="store_true", help="six steps of each arm, one seed")
    arguments = parser.parse_args()
    if arguments.smoke:
        arguments.steps, arguments.batch, arguments.seeds = 6, 32, 1
    cells = itertools.product(range(arguments.seeds), arguments.networks, arguments.arms)
    runs = [
        Run(network, arm, seed, arguments.steps, arguments.batch, arguments.data)
        for seed, network, arm in cells
    ]
    if not arguments.table:
        run_all(runs, arguments.results, arguments.processes)
    print(table(runs, arguments.results))


if __name__ == "__main__":
    main()
