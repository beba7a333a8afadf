"""Copies of the repository's parts, to build and install from."""

from __future__ import annotations

import shutil
from pathlib import Path

ROOT = Path(__file__).parents[1]
PARTS = ("dni", "pyproject.toml", "setup.py", "README.rst", "LICENSE")


def clone(folder: Path) -> Path:
    """What a build needs, in ``folder``; without bytecode, which other workers may be writing."""
    folder.mkdir()
    bytecode = shutil.ignore_patterns("__pycache__")
    for part in PARTS:
        if (ROOT / part).is_dir():
            shutil.copytree(ROOT / part, folder / part, ignore=bytecode)
        else:
            shutil.copy(ROOT / part, folder / part)
    return folder
