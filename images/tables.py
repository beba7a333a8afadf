"""Numbers out of the documents: tables of reStructuredText that a picture is drawn from."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
RULE = re.compile(r"=+( +=+)+")
NUMBER = re.compile(r"-?\d+(?:\.\d+)?")
Rows = list[list[str]]


def table(name: str, *headers: str) -> tuple[Rows, Rows]:
    """The lines above and below the middle rule of the first table that has all ``headers``.

    ``name`` is a document, or a folder of them.
    """
    place = ROOT / name
    for path in [place] if place.is_file() else sorted(place.rglob("*.rst")):
        for head, body in tables(path.read_text()):
            if set(headers) <= {cell for row in head for cell in row}:
                return head, body
    raise SystemExit(f"{name} has no table with the columns {', '.join(headers)}.")


def tables(text: str) -> Iterator[tuple[Rows, Rows]]:
    """All simple tables that have a head."""
    lines = text.splitlines()
    rules = [number for number, line in enumerate(lines) if RULE.fullmatch(line)]
    while len(rules) >= 3:
        top, middle, end = rules[:3]
        if lines[top] == lines[middle] == lines[end] and middle > top + 1:
            spans = [match.span() for match in re.finditer("=+", lines[top])]
            spans[-1] = (spans[-1][0], 1000)  # the last column may be longer than its rule
            cells = [[line[a:b].strip() for a, b in spans] for line in lines[top + 1 : end]]
            yield cells[: middle - top - 1], cells[middle - top :]
            del rules[:3]
        else:
            del rules[0]


def numbers(cell: str) -> list[float]:
    """All numbers in a cell: ``65.2 (64.3 to 66.5)`` has three."""
    return [float(found) for found in NUMBER.findall(cell)]
