"""Links to the documentation of Python and PyTorch, built without network.

Intersphinx downloads a project's whole inventory. Here ``docs/inventories`` lists, in plain text,
only the names that these pages use, one ``name role uri`` a line; ``$`` in an uri is the name.
What is not listed is a warning of Sphinx's (``nitpicky``), and so an error.
"""

from __future__ import annotations

import zlib
from pathlib import Path
from typing import Any

HEADER = "# Sphinx inventory version 2\n# Project: {}\n# Version: \n"
HEADER += "# The remainder of this file is compressed using zlib.\n"


def packed(name: str, text: str) -> bytes:
    """An ``objects.inv`` of what ``text`` lists."""
    entries = [line.split() for line in text.splitlines() if line and not line.startswith("#")]
    lines = [f"{target} {role} 1 {uri.replace('$', target)} -\n" for target, role, uri in entries]
    return HEADER.format(name).encode() + zlib.compress("".join(lines).encode())


def write(app: Any, config: Any) -> None:
    """Write the inventories to where Sphinx keeps its own files; tell intersphinx of them."""
    folder = Path(app.doctreedir)
    folder.mkdir(parents=True, exist_ok=True)
    for name, base in config.inventories.items():
        source = Path(app.confdir, "inventories", f"{name}.txt")
        target = folder / f"{name}.inv"
        target.write_bytes(packed(name, source.read_text()))
        config.intersphinx_mapping[name] = (base, str(target))


def setup(app: Any) -> dict[str, bool]:
    """Called by Sphinx."""
    app.add_config_value("inventories", {}, "env")
    app.connect("config-inited", write, priority=100)  # intersphinx checks its mapping at 800
    return {"parallel_read_safe": True, "parallel_write_safe": True}
