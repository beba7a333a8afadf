"""``python -m images``: draw the pictures that are named, or all that need no training.

Every picture has a twin for dark pages; see :mod:`examples.pictures`.
"""

from __future__ import annotations

import argparse

from images import measured, runs, structure, timelines, unlocks

DRAWN = unlocks.FIGURES | timelines.FIGURES | structure.FIGURES | measured.FIGURES
FIGURES = DRAWN | runs.FIGURES


def main() -> None:
    """Draw what the command line asks for."""
    parser = argparse.ArgumentParser(prog="python -m images", description="Draw pictures.")
    trained = ", ".join(runs.FIGURES)
    parser.add_argument(
        "names", nargs="*", metavar="name",
        help=f"some of {', '.join(FIGURES)}; left out, all but those that train: {trained}",
    )  # fmt: skip
    names = parser.parse_args().names
    if unknown := set(names) - set(FIGURES):
        parser.error(f"no picture is called {', '.join(sorted(unknown))}")
    for name in names or DRAWN:
        FIGURES[name]()


if __name__ == "__main__":
    main()
