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

TRIED = (
    (["fc3"], ["DNI", *TRIALS, "DNI replay"], 1),
    (["fc6"], ["backprop", "cDNI", *TOLD_TRIALS], 1),
)


def main() -> None:
    """Run and print what the command line asks for."""
    parser = argparse.ArgumentParser(description="Do synthetic gradients learn?")
    parser.add_argument("--data", help="digits (default), mnist, or a folder: see examples.data")
    parser.add_argument("--networks", nargs="+", choices=SUBJECTS, default=list(SUBJECTS)[:4])
    parser.add_argument("--arms", nargs="+", metavar="ARM", help="others than the table's")
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
        help="draw the curves into FILE.png, the scores at the end into FILE-depth.png",
        metavar="FILE.png",
    )
    parser.add_argument("--table", action="store_true", help="print what is there, run nothing")
    parser.add_argument("--smoke", action="store_true", help="six steps of each arm, one seed")
    arguments = parser.parse_args()
    folder = arguments.results or RESULTS
    if arguments.smoke:
        arguments.steps, arguments.batch, arguments.seeds = 6, 32, 1
        folder = arguments.results or Path("results/smoke")
    if arguments.trials and arguments.arms:
        parser.error("--trials says which arms: leave out one of --trials and --arms")
    everything = {}
    tables = TRIED if arguments.trials else [(arguments.networks, arguments.arms, arguments.seeds)]
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
