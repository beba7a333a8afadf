"""Equations as MathML, made when the pages are built.

Sphinx hands TeX to a script from another server, and without network shows its source. Every
browser of today draws MathML by itself, docutils translates to it, and nothing is loaded but a
font (``_static/math.woff2``), without which each system would look different.
"""

from __future__ import annotations

import re
from typing import Any

from docutils import nodes
from docutils.utils.math import MathError, toplevel_code
from docutils.utils.math.latex2mathml import tex2mathml
from sphinx.util import logging

OPENING = r"\(|\[|\\\{|\\l[A-Za-z]"
SIZED = re.compile(rf"\\(big|Big|bigg|Bigg)(?![A-Za-z])\s*(?=({OPENING})?)")
# Fences that no \left, \big or the like precedes; each has a letter to stand for it in docutils.
FENCES = {r"\langle": "⟨", r"\rangle": "⟩", r"\lVert": "‖", r"\rVert": "‖", r"\lvert": "|"}
FENCES |= {r"\rvert": "|", r"\|": "‖", "|": "|", r"\uparrow": "↑", r"\downarrow": "↓"}
PLAIN = re.compile(
    r"(?P<grown>\\(?:left|right|middle|[bB]igg?[lrm]?)\s*(?:\\[A-Za-z]+|\\.|.))|"
    r"(?P<fence>(?:\\[lr][Vv]ert|\\[lr]angle|\\(?:up|down)arrow)(?![A-Za-z])|\\?\|)"
)
STANDING = dict(zip(FENCES, map(chr, range(0x13A0, 0x13F0)), strict=False))
# docutils puts the index of an accented letter below it.
ACCENT = re.compile(
    r"\\(?:hat|tilde|bar|vec|dot|check)(?:\s*\{[^{}]*\}|\s*\\[A-Za-z]+|\s+[A-Za-z])(?=\s*_)"
)
PAIRS = {"{": "}", r"\left": r"\right"}  # and environments
PAIRS |= {rf"\{size}l": rf"\{size}r" for size in ("big", "Big", "bigg", "Bigg")}
NESTED = re.compile(
    r"\\(?:left|right|[bB]igg?[lr])(?![A-Za-z])|\\(?:begin|end)\{[^{}]*\}|[{}&]|\\\\|\\."
)
PRIMES = re.compile("<mo>('+)</mo>")
SLASH = re.compile("<mo[^>]*>/</mo>")


def mathml(tex: str, block: bool) -> str:
    """``tex`` in MathML, with what docutils does not know or does not space as TeX does."""
    tex = SIZED.sub(lambda found: f"\\{found[1]}{'l' if found[2] else 'r'}", tex)
    check(tex, rows=block and r"\\" in toplevel_code(tex))
    tex = ACCENT.sub(r"\g<0>{}", tex)
    tex = PLAIN.sub(lambda found: found["grown"] or STANDING[found["fence"]], tex)
    made = str(tex2mathml(re.sub(r"\\dots(?![a-z])", r"\\dotso", tex), as_block=block))
    made = PRIMES.sub(lambda found: tight(chr(0x2032) * len(found[1])), made)
    for fence, character in STANDING.items():
        made = re.sub(f"<mi[^>]*>{character}</mi>", tight(FENCES[fence]), made)
        made = made.replace(character, FENCES[fence])  # within \text
    return SLASH.sub(tight("/"), made).replace(r"\_", "_")


def check(tex: str, rows: bool) -> None:
    """Refuse what does not nest: docutils draws it somehow, or fails. ``rows``: it is a table."""
    missing: list[str] = []
    for token in NESTED.findall(tex):
        if token in PAIRS or token.startswith(r"\begin"):
            missing.append(PAIRS.get(token) or token.replace("begin", "end"))
        elif token in PAIRS.values() or token.startswith(r"\end"):
            if not missing or missing.pop() != token:
                raise MathError(f"{token} closes nothing")
        elif token in ("&", r"\\") and not (missing[-1].startswith(r"\end") if missing else rows):
            raise MathError(f"{token} outside of a table")
    if missing:
        raise MathError(f"{missing[-1]} is missing")


def tight(character: str) -> str:
    """An operator that neither grows nor keeps others away."""
    return f'<mo stretchy="false" lspace="0" rspace="0">{character}</mo>'


def translated(writer: Any, node: nodes.Node, block: bool) -> str:
    """As above; what cannot be translated is a warning, and so an error, and stays TeX."""
    try:
        return mathml(node.astext(), block)
    except Exception as error:  # docutils fails in many ways
        logging.getLogger(__name__).warning("formula: %s", error or repr(error), location=node)
        return str(writer.encode(node.astext()))


def inline(writer: Any, node: nodes.math) -> None:
    """A formula in a line."""
    writer.body.append(translated(writer, node, block=False))
    raise nodes.SkipNode


def display(writer: Any, node: nodes.math_block) -> None:
    """A formula of its own, with its number if it has a label."""
    writer.body.append(writer.starttag(node, "div", CLASS="math"))
    if node["number"]:
        writer.body.append(f'<span class="eqno">({node["number"]})')
        writer.add_permalink_ref(node, "Link to this equation")
        writer.body.append("</span>")
    writer.body.append(translated(writer, node, block=True) + "</div>\n")
    raise nodes.SkipNode


def setup(app: Any) -> dict[str, bool]:
    """Called by Sphinx."""
    app.add_html_math_renderer("mathml", (inline, None), (display, None))
    return {"parallel_read_safe": True, "parallel_write_safe": True}
