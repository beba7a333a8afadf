"""``python -m benchmarks.evidence``: run what is missing, then print the table.

Finished runs are files in ``results/`` beside this one, under the name of their network, arm,
steps, data and seed; what is there is not run again.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from benchmarks.evidence.arms import TOLD_TRIALS, TRIALS
from benchmarks.evidence.report import depth, outcomes, picture, table
from benchmarks.evidence.run import RESULTS, grid, run_all
from benchmarks.evidence.subjects import SUBJECTS

DEEP = ["fc3", "fc4", "fc5", "fc6"]
TRIED = (
    (["fc3"], ["DNI", *TRIALS, "DNI replay"], 1),
    (["fc6"], ["backprop", "cDNI", *TOLD_TRIALS], 1),
)


def main() -> None:
    """Run and print what the command line asks for."""
    parser = argparse.ArgumentParser(description="Do synthetic gradients learn?")
    names = f"{', '.join(DEEP)} (default), or any of {', '.join(SUBJECTS)}"
    parser.add_argument("--data", help="digits (default), mnist, or a folder: see examples.data")
    parser.add_argument("--networks", nargs="+", choices=SUBJECTS, metavar="NETWORK", help=names)
    parser.add_argument("--arms", nargs="+", metavar="ARM", help="others than the table's")
    parser.add_argument("--seeds", type=positive)
    parser.add_argument("--steps", type=positive, help="instead of each network's own")
    parser.add_argument("--batch", type=positive, help="likewise")
    parser.add_argument("--processes", type=positive, default=2, help="runs at a time")
    parser.add_argument("--results", type=Path, help="instead of the folder beside this file")
    parser.add_argument(
        "--trials", action="store_true", help="what was tried; sets networks, arms and seeds"
    )
    parser.add_argument(
        "--picture",
        type=Path,
        help="draw the curves into FILE.png, the scores at the end into FILE-depth.png",
        metavar="FILE.png",
    )
    parser.add_argument("--table", action="store_true", help="print what is there, run nothing")
    parser.add_argument("--smoke", action="store_true", help="six steps of each arm, one seed")
    arguments = parser.parse_args()
    if arguments.trials and (arguments.networks or arguments.arms or arguments.seeds):
        parser.error(
            "--trials says which networks, arms and seeds: leave it out, or leave out those"
        )
    folder = arguments.results or RESULTS
    if arguments.smoke and (arguments.steps or arguments.batch or arguments.seeds):
        parser.error(
            "--smoke says how many steps, rows and seeds: leave it out, or leave out those"
        )
    if arguments.batch == 1:
        parser.error(
            "expected batches of at least 2 for batch norm, got 1: choose --batch 2 or more"
        )
    if arguments.smoke:
        arguments.steps, arguments.batch, arguments.seeds = 6, 32, 1
        folder = arguments.results or Path("results/smoke")
    everything = {}
    asked = (arguments.networks or DEEP, arguments.arms, arguments.seeds or 3)
    tables = TRIED if arguments.trials else [asked]
    for number, (networks, arms, seeds) in enumerate(tables):
        subjects = [SUBJECTS[network] for network in networks]
        known = dict.fromkeys(arm for subject in subjects for arm in subject.arms)
        if unknown := set(arms or ()) - set(known):
            parser.error(
                f"expected arms of {', '.join(networks)}, got {', '.join(unknown)}: name some of "
                f"{', '.join(known)}"
            )
        units = {subject.unit for subject in subjects}
        if len(units) > 1:
            parser.error(f"expected networks of one unit, got {sorted(units)}: a table for each")
        runs = grid(networks, arms, seeds, arguments.steps, arguments.batch, arguments.data)
        if not arguments.table:
            run_all(runs, arguments.data, folder, arguments.processes)
        found = outcomes(runs, folder)
        print("\n" * bool(number) + table(found, *units))
        everything |= found
    if not any(everything.values()):
        parser.error(f"nothing of this has been run into {folder}: leave out --table")
    if path := arguments.picture:
        picture(everything, path, *units)
        depth(everything, path.with_name(f"{path.stem}-depth{path.suffix}"), *units)
        print(path)


def positive(text: str) -> int:
    """A number from 1 on."""
    if int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a number from 1 on, got {text}")
    return int(text)


if __name__ == "__main__":
    main()
