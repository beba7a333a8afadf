"""Copies of the repository's parts, to build and install from."""

from __future__ import annotations

import shutil
from pathlib import Path

ROOT = Path(__file__).parents[1]
PARTS = ("dni", "benchmarks", "pyproject.toml", "setup.py", "MANIFEST.in", "README.rst", "LICENSE")


def clone(folder: Path) -> Path:
    """What a build needs, in ``folder``; without what others may be writing meanwhile."""
    folder.mkdir()
    passing = shutil.ignore_patterns("__pycache__", "*.partial")
    for part in PARTS:
        if (ROOT / part).is_dir():
            shutil.copytree(ROOT / part, folder / part, ignore=passing)
        else:
            shutil.copy(ROOT / part, folder / part)
    return folder
