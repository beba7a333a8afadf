"""The check of the built pages finds what is broken; equations and links need no network."""

from __future__ import annotations

import io
import json
import operator
import subprocess
import sys
from pathlib import Path

import pytest

english = pytest.importorskip("sphinx.search.en", reason="the extra docs")
DOCS = Path(__file__).parents[1] / "docs"
sys.path[:0] = [str(DOCS), str(DOCS / "_extensions")]
check, formulas, inventories = map(__import__, ("check", "formulas", "inventories"))

SOUND = """<a href="#top"></a><a href="./#top"></a><a href="https://elsewhere.org/x"></a>
<link href="style.css?v=1"><div id="top" class="highlight"></div>
<img src="a%20b.png" alt="a curve">"""
BROKEN = {
    '<a href="gone.html"></a>': "gone.html is not there",
    '<a href="index.html#nowhere"></a>': "index.html#nowhere: no such place on that page",
    '<a href="#nowhere"></a>': "#nowhere: no such place on that page",
    '<link href="gone.css">': "gone.css is not there",
    '<script src="gone.js"></script>': "gone.js is not there",
    '<img src="gone.png" alt="a curve">': "gone.png is not there",
    '<img src="a%20b.png">': "a%20b.png has no alternative text",
    '<img src="a%20b.png" alt="images/a%20b.png">': "a%20b.png has no alternative text",
}


@pytest.fixture
def site(tmp_path: Path) -> Path:
    stem = english.SearchEnglish({}).stem
    index = {"terms": {stem(word): 0 for word in check.WORDS.split()}, "titleterms": {}}
    (tmp_path / "searchindex.js").write_text(f"Search.setIndex({json.dumps(index)})")
    (tmp_path / "index.html").write_text(SOUND)
    for name in ("style.css", "a b.png"):
        (tmp_path / name).touch()
    return tmp_path


def test_a_sound_site_passes(site):
    assert list(check.problems(site)) == []


@pytest.mark.parametrize(("tag", "said"), BROKEN.items())
def test_what_is_broken_is_found(site, tag, said):
    (site / "page.html").write_text(f'<p class="highlight"></p>{tag}')
    assert list(check.problems(site)) == [f"page.html: {said}"]


def test_a_page_with_nothing_to_see_is_found(site):
    for name in ("page.html", "search.html"):
        (site / name).write_text("<p>Words.</p>")
    assert list(check.problems(site)) == ["page.html: neither code nor a picture"]


def test_a_word_that_the_search_does_not_know_is_found(site):
    (site / "searchindex.js").write_text('Search.setIndex({"terms":{"label":0},"titleterms":{}})')
    assert "searchindex.js: no page for 'synthesizer'" in list(check.problems(site))
    (site / "searchindex.js").unlink()
    assert "searchindex.js" in "".join(check.problems(site))


def test_the_command_line_names_page_and_problem_and_fails(site):
    (site / "page.html").write_text(f'{SOUND}<a href="gone.html"></a>')
    command = [sys.executable, str(DOCS / "check.py"), str(site)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (1, "page.html: gone.html is not there\n")


@pytest.mark.parametrize(
    ("tex", "part"),
    {
        r"\frac{\partial L}{\partial h}": "<mfrac>",
        r"\sum_{k=1}^{B} \hat h": '<mover accent="true">',
        r"\Big(\frac{a}{b}\Big)^2": 'minsize="1.623em"',
        r"\lVert m \rVert": 'rspace="0">‖</mo>',
        r"|x| + \|y\|": 'rspace="0">|</mo>',
        r"\left\lVert m \right\rVert": "<mo>‖</mo>",
        r"q(y \mid h')": chr(0x2032),
        r"\operatorname{mean}_b h, \dots": ">mean</mi>",
        r"\hat h_i + \hat{h}_i + \bar\theta_k": "<msub>",
        r"\text{norm\_ratio}": "<mtext>norm_ratio</mtext>",
        r"\begin{aligned} a &= b \\ c &= d \end{aligned}": "<mtable",
    }.items(),
)
def test_formulas_become_mathml(tex, part):
    made = formulas.mathml(tex, block=True)
    assert part in made
    assert not set(made) & set(formulas.STANDING.values())


def test_an_inventory_is_what_sphinx_reads():
    from sphinx.util.inventory import InventoryFile

    data = inventories.packed("torch", "# $ is the name\n\ntorch.Tensor py:class tensors.html#$\n")
    read = InventoryFile.load(io.BytesIO(data), "https://here.org/", operator.add)
    found = read["py:class"]["torch.Tensor"]
    uri = found.uri if hasattr(found, "uri") else found[2]  # a tuple before Sphinx 8.2
    assert uri == "https://here.org/tensors.html#torch.Tensor"


@pytest.mark.parametrize("path", sorted((DOCS / "inventories").glob("*.txt")), ids=lambda p: p.stem)
def test_the_lines_of_an_inventory_are_whole(path):
    for line in path.read_text().splitlines():
        if not line.startswith("#"):
            name, role, uri = line.split()
            assert (role[:3], ".html" in uri) == ("py:", True), name
