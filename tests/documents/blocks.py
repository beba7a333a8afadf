"""Code blocks of older documents, run as they were printed.

A document leaves things open: ``# ...`` where a network's own layers go, data, names that
are the reader's. A block's code is kept here as it was printed, line by line, without its
explanatory comments, and every open place is filled by a line that the test gives, in
order. Nothing else is touched; where a document has a plain misprint, the test says so and
names the line that replaces it.
"""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import Any

OPEN = "# ..."


def run(
    block: str,
    names: dict[str, Any],
    fill: Sequence[str] = (),
    misprints: dict[str, str] | None = None,
) -> dict[str, Any]:
    """Execute ``block`` and return its names."""
    for wrong, right in (misprints or {}).items():
        assert block.count(wrong) == 1, f"{wrong!r} is not in the block"
        block = block.replace(wrong, right)
    lines, given = [], list(fill)
    for line in textwrap.dedent(block).splitlines():
        if line.strip() != OPEN:
            lines.append(line)
        else:
            indent = line[: len(line) - len(line.lstrip())]
            lines.append(textwrap.indent(given.pop(0), indent))
    assert not given, "more fillings than open places"
    space = dict(names)
    exec(compile("\n".join(lines), "document", "exec"), space)
    return space
