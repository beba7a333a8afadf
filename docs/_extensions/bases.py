"""Base classes as a reader meets them: in the place of a hidden one stand its own bases."""

from __future__ import annotations

from typing import Any

HIDDEN = ("dni.synthesizers.layers.Layers", "dni.distributed.complete._Complete")


def replace(app: Any, name: str, obj: Any, options: Any, bases: list[Any]) -> None:
    """Change ``bases``; what another base derives from anyway is not repeated."""
    for base in [one for one in bases if f"{one.__module__}.{one.__qualname__}" in HIDDEN]:
        others = tuple(one for one in bases if one is not base)
        at = bases.index(base)
        bases[at : at + 1] = [
            above for above in base.__bases__ if not any(issubclass(one, above) for one in others)
        ]


def setup(app: Any) -> dict[str, bool]:
    """Called by Sphinx."""
    app.connect("autodoc-process-bases", replace)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
