"""Every cell of the matrix."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.cases import compiles
from tests.compatibility import processes
from tests.compatibility.matrix import REFUSED, ROWS, UNSEEN, page
from tests.compatibility.rows import ROWS as ALONE
from tests.compatibility.subjects import SUBJECTS


def compiling(test: Any) -> Any:
    """What torch itself warns of while it traces."""
    for mark in compiles:
        test = mark(test)
    return test


SUBJECT = {subject.name: subject for subject in SUBJECTS}
HERE = [row for row in ALONE if row != "torch.compile, inductor" or shutil.which("c++")]
CELLS = [(row, name) for row in HERE for name in SUBJECT if (row, name) not in UNSEEN]


@compiling
@pytest.mark.parametrize(("row", "name"), CELLS)
def test_a_cell(row: str, name: str) -> None:
    if (row, name) not in REFUSED:
        ALONE[row](SUBJECT[name])
        return
    with pytest.raises(RuntimeError, match=REFUSED[row, name]):
        ALONE[row](SUBJECT[name])


@pytest.fixture(scope="module")
def ranks() -> list[processes.Outcomes]:
    return processes.outcomes()


@pytest.mark.parametrize("name", SUBJECT)
@pytest.mark.parametrize("row", processes.ROWS)
def test_a_cell_of_two_processes(ranks: list[processes.Outcomes], row: str, name: str) -> None:
    for found in ranks:
        assert REFUSED.get((row, name), "") in found[row, name]
        assert bool(found[row, name]) is ((row, name) in REFUSED), found[row, name]


def test_the_page_shows_the_matrix() -> None:
    assert (Path(__file__).parents[2] / "docs" / "compatibility.rst").read_text() == page()


def test_exceptions_are_of_cells_that_there_are() -> None:
    for row, name in (*REFUSED, *UNSEEN):
        assert row in ROWS
        assert name in SUBJECT
