"""Pictures that follow the page: light on a light one, dark on a dark one.

Where ``picture-dark.svg`` stands beside ``picture.svg``, an image of the latter is shown on light
pages only, and the former in its place on dark ones, by the classes that furo has for this.
Pages say ``.. image:: picture.svg``.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.transforms import SphinxTransform


class DarkTwins(SphinxTransform):
    """Puts the twin behind each image that has one, before Sphinx collects the images."""

    default_priority = 500

    def apply(self, **options: Any) -> None:
        """Every image of the document, in figures and links too."""
        for image in list(self.document.findall(nodes.image)):
            path = Path(image["uri"])
            other = path.with_name(f"{path.stem}-dark{path.suffix}")
            _, there = self.env.relfn2path(other.as_posix(), self.env.docname)
            if "://" in image["uri"] or not Path(there).is_file():
                continue
            linked = isinstance(image.parent, nodes.reference)
            shown = image.parent if linked else image
            copy = shown.deepcopy()
            copy["ids"], copy["names"] = [], []
            twin = copy[0] if linked else copy
            twin["uri"] = other.as_posix()
            twin["classes"].append("only-dark")
            image["classes"].append("only-light")
            shown.parent.insert(shown.parent.index(shown) + 1, copy)


def setup(app: Sphinx) -> dict[str, bool]:
    """Called by Sphinx."""
    app.add_transform(DarkTwins)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
