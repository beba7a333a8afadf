"""The way back from a line of the source to its entry.

Viewcode takes it that a page names all objects of a file alike. Here ``windows`` is ``dni.windows``
and what it yields is ``dni.recurrent.Window``, from one file; the index of objects knows better.
"""

from __future__ import annotations

import re
from typing import Any

LINK = re.compile(r'(<a class="viewcode-back" href="[^"#]*#)([^"]+)')


def mend(app: Any, pagename: str, templatename: str, context: dict[str, Any], doctree: Any) -> None:
    """Correct the addresses on a page of source."""
    if not pagename.startswith("_modules/"):
        return
    names = app.env.get_domain("py").objects

    def known(name: str) -> str:
        parts = name.split(".")
        tails = [".".join(parts[start:]) for start in range(1, len(parts))]
        found = [one for tail in tails for one in names if one.endswith(f".{tail}")]
        return name if name in names or not found else found[0]

    context["body"] = LINK.sub(lambda link: link[1] + known(link[2]), context.get("body", ""))


def setup(app: Any) -> dict[str, bool]:
    """Called by Sphinx."""
    app.connect("html-page-context", mend)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
