"""``python -m benchmarks.evidence``: run what is missing, then print the table.

Finished runs are files in ``results/`` beside this one, under the name of their network, arm,
steps, data and seed; what is there is not run again.
"""

from __future__ import annotations

import argparse
import itertools
from pathlib import Path

from benchmarks.evidence.arms import ALL, ARMS, TOLD_TRIALS, TRIALS
from benchmarks.evidence.networks import NETWORKS
from benchmarks.evidence.report import depth, outcomes, picture, table
from benchmarks.evidence.run import Run, run_all
from examples.data import name_of

RESULTS = Path(__file__).parent / "results"
TRIED = (
    (["fc3"], ["DNI", *TRIALS, "DNI replay"], 1),
    (["fc6"], ["backprop", "cDNI", *TOLD_TRIALS], 1),
)


def main() -> None:
    """Run and print what the command line asks for."""
    parser = argparse.ArgumentParser(description="Do synthetic gradients learn?")
    parser.add_argument("--data", help="digits (default), mnist, or a folder: see examples.data")
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=list(NETWORKS)[:4])
    parser.add_argument("--arms", nargs="+", choices=ALL, default=list(ARMS))
    parser.add_argument("--seeds", type=positive, default=3)
    parser.add_argument("--steps", type=positive, default=3000)
    parser.add_argument("--batch", type=positive, default=256)
    parser.add_argument("--processes", type=positive, default=2, help="runs at a time")
    parser.add_argument("--results", type=Path, help="instead of the folder beside this file")
    parser.add_argument(
        "--trials", action="store_true", help="what was tried; sets networks, arms and seeds"
    )
    parser.add_argument(
        "--picture",
        type=Path,
        help="draw the curves into FILE.png, the errors against the depth into FILE-depth.png",
        metavar="FILE.png",
    )
    parser.add_argument("--table", action="store_true", help="print what is there, run nothing")
    parser.add_argument("--smoke", action="store_true", help="six steps of each arm, one seed")
    arguments = parser.parse_args()
    folder = arguments.results or RESULTS
    if arguments.smoke:
        arguments.steps, arguments.batch, arguments.seeds = 6, 32, 1
        folder = arguments.results or Path("results/smoke")
    tables = [grid(arguments.networks, arguments.arms, arguments.seeds)]
    if arguments.trials:
        tables = [grid(*of) for of in TRIED]
    size = (arguments.steps, arguments.batch, name_of(arguments.data))
    everything = {}
    for number, cells in enumerate(tables):
        runs = [Run(network, arm, seed, *size) for seed, network, arm in cells]
        if not arguments.table:
            run_all(runs, arguments.data, folder, arguments.processes)
        found = outcomes(runs, folder)
        print("\n" * bool(number) + table(found))
        everything |= found
    if path := arguments.picture:
        picture(everything, path)
        depth(everything, path.with_name(f"{path.stem}-depth{path.suffix}"))
        print(path)


def positive(text: str) -> int:
    """A number from 1 on."""
    if int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a number from 1 on, got {text}")
    return int(text)


def grid(networks: list[str], arms: list[str], seeds: int) -> list[tuple[int, str, str]]:
    """Seed by seed, so that a first one is there soon."""
    return list(itertools.product(range(seeds), networks, arms))


if __name__ == "__main__":
    main()
