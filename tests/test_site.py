"""The check of the built pages finds what is broken; equations and links need no network."""

from __future__ import annotations

import importlib.util
import io
import json
import operator
import pkgutil
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

english = pytest.importorskip("sphinx.search.en", reason="the extra docs")
DOCS = Path(__file__).parents[1] / "docs"


def load(path):
    """A file as a module that nobody else can import by its plain name."""
    spec = importlib.util.spec_from_file_location(f"docs_{path.stem}", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


check = load(DOCS / "check.py")
back, bases, formulas, inventories = (
    load(DOCS / "_extensions" / f"{name}.py")
    for name in ("back", "bases", "formulas", "inventories")
)

SOUND = """<a href="#top"></a><a href="./#top"></a><a href="https://elsewhere.org/x"></a>
<link href="style.css?v=1"><div id="top" class="highlight"></div>
<a href="a, b.html"></a><a href="mailto:one@elsewhere.org"></a><meta name="nowhere">
<img src="a%20b.png" alt="a curve" srcset="a%20b.png 1x, style.css 2x">
<div class="table-wrapper" id="furo"><table id="furo"></table></div>"""
BROKEN = {
    '<a href="gone.html"></a>': "gone.html is not there",
    '<a href="index.html#nowhere"></a>': "index.html#nowhere: no such place on that page",
    '<a href="#nowhere"></a>': "#nowhere: no such place on that page",
    '<link href="gone.css">': "gone.css is not there",
    '<script src="gone.js"></script>': "gone.js is not there",
    '<img src="gone.png" alt="a curve">': "gone.png is not there",
    '<img src="a%20b.png" alt="a curve" srcset="a%20b.png, gone.png 2x">': "gone.png is not there",
    '<source src="gone.mp4">': "gone.mp4 is not there",
    '<iframe src="gone.html"></iframe>': "gone.html is not there",
    '<object data="gone.svg"></object>': "gone.svg is not there",
    '<script src="https://cdn.org/a.js"></script>': "https://cdn.org/a.js is loaded from elsewhere",
    '<link href="//cdn.org/a.css">': "//cdn.org/a.css is loaded from elsewhere",
    '<img src="https://a.org/b.png" alt="b">': "https://a.org/b.png is loaded from elsewhere",
    '<a href="/etc/passwd"></a>': "/etc/passwd leads out of the site",
    '<a href="../secret.html"></a>': "../secret.html leads out of the site",
    '<p id="one"></p><p id="one"></p>': "the id one stands 2 times",
    '<a href="index.html"': "the page ends within a tag",
    '<img src="a%20b.png">': "a%20b.png has no alternative text",
    '<img src="a%20b.png" alt="images/a%20b.png">': "a%20b.png has no alternative text",
}


@pytest.fixture
def site(tmp_path: Path) -> Path:
    (tmp_path / "secret.html").touch()
    tmp_path = tmp_path / "site"
    tmp_path.mkdir()
    stem = english.SearchEnglish({}).stem
    index = {"terms": {stem(word): 0 for word in check.WORDS.split()}, "titleterms": {}}
    (tmp_path / "searchindex.js").write_text(f"Search.setIndex({json.dumps(index)})")
    (tmp_path / "index.html").write_text(SOUND)
    style = 'a { b: url(a%20b.png); c: url( "a b.png" ); d: url("data:image/png;base64,A=") }'
    (tmp_path / "style.css").write_text(style)
    (tmp_path / "a b.png").touch()
    (tmp_path / "a, b.html").write_text('<p class="highlight"></p>')
    return tmp_path


def test_a_sound_site_passes(site):
    assert list(check.problems(site)) == []


@pytest.mark.parametrize(("tag", "said"), BROKEN.items())
def test_what_is_broken_is_found(site, tag, said):
    (site / "page.html").write_text(f'<p class="highlight"></p>{tag}')
    assert list(check.problems(site)) == [f"page.html: {said}"]


@pytest.mark.parametrize(
    ("style", "said"),
    {
        "url(gone.woff2)": "gone.woff2 is not there",
        'url( "gone.woff2" )': "gone.woff2 is not there",
        "url('../gone.woff2')": "../gone.woff2 leads out of the site",
        '@import "https://cdn.org/a.css";': "https://cdn.org/a.css is loaded from elsewhere",
    }.items(),
)
def test_what_a_style_loads_is_looked_for(site, style, said):
    (site / "other.css").write_text(f"@font-face {{ src: {style} }}")
    assert list(check.problems(site)) == [f"other.css: {said}"]


def test_a_page_with_nothing_to_see_is_found(site):
    for name in ("page.html", "search.html"):
        (site / name).write_text("<p>Words.</p>")
    assert list(check.problems(site)) == ["page.html: neither code nor a picture"]


def test_a_word_that_the_search_does_not_know_is_found(site):
    (site / "searchindex.js").write_text('Search.setIndex({"terms":{"label":0},"titleterms":{}})')
    assert "searchindex.js: no page for 'synthesizer'" in list(check.problems(site))
    (site / "searchindex.js").write_text("Search.setIndex({})")
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


@pytest.mark.parametrize(
    ("tex", "block", "said"),
    [
        ("a & b", True, "& outside of a table"),
        (r"a \\ b", False, r"\\ outside of a table"),
        (r"\frac{a}{b", True, "} is missing"),
        (r"a} + b", True, "} closes nothing"),
        (r"\left( a", True, r"\right is missing"),
        (r"\left( a \bigr)", True, r"\bigr closes nothing"),
        (r"\begin{cases} a & b", True, r"\end{cases} is missing"),
        (r"\begin{cases} a \end{aligned}", True, r"\end{aligned} closes nothing"),
        (r"a \right)", True, r"\right closes nothing"),
        (r"\nothing", True, r'Unknown LaTeX command "\nothing"'),
    ],
)
def test_formulas_that_do_not_nest_are_refused(tex, block, said):
    with pytest.raises(ValueError, match=re.escape(said)):
        formulas.mathml(tex, block)


PROJECT = {
    "conf.py": f"""
import sys
sys.path.insert(0, {str(DOCS / "_extensions")!r})
extensions = ["sphinx.ext.intersphinx", "dark", "formulas", "inventories"]
html_math_renderer, html_theme, nitpicky = "mathml", "basic", True
inventories = {{"torch": "https://here.org/"}}
""",
    "inventories/torch.txt": "torch.Tensor py:class tensors.html#$\n",
    "index.rst": r"""
Title
=====

.. image:: both.svg
   :alt: a curve

.. image:: both.svg
   :alt: a linked curve
   :target: https://here.org/

.. image:: one.svg
   :alt: a circle

:class:`torch.Tensor` :class:`torch.Unlisted` :math:`h_t` :math:`\nothing` :math:`^2`

.. math:: a & b
""",
}


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """A page, and the warnings of its build, in a process of its own."""
    folder = tmp_path_factory.mktemp("project")
    (folder / "inventories").mkdir()
    for name, text in PROJECT.items():
        (folder / name).write_text(text)
    for name in ("both", "both-dark", "one"):
        (folder / f"{name}.svg").write_text('<svg xmlns="http://www.w3.org/2000/svg"/>')
    command = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", "--no-color"]
    done = subprocess.run([*command, ".", "site"], cwd=folder, capture_output=True, timeout=60)
    assert done.returncode == 1
    return (folder / "site" / "index.html").read_text(), done.stderr.decode()


def test_a_picture_with_a_twin_is_shown_by_the_page(built):
    tags = re.findall("<img[^>]*>", built[0])
    shown = [
        (re.search(r"([\w-]+)\.svg", tag)[1], *re.findall("only-(?:dark|light)", tag))
        for tag in tags
    ]
    pair = [("both", "only-light"), ("both-dark", "only-dark")]
    assert shown == [*pair, *pair, ("one",)]
    assert [re.search('alt="([^"]*)"', tag)[1] for tag in tags[1::2]] == [
        "a curve",
        "a linked curve",
    ]
    assert built[0].count('href="https://here.org/"><img') == 2


def test_a_warning_says_what_is_unknown_and_where(built):
    page, warnings = built
    assert 'href="https://here.org/tensors.html#torch.Tensor"' in page
    assert "<msub>" in page
    place = re.escape("index.rst:")
    assert re.search(rf"{place}15: .*torch\.Unlisted", warnings)
    assert re.search(rf'{place}15: .*formula: Unknown LaTeX command "\\nothing"', warnings)
    assert re.search(rf"{place}17: .*formula: & outside of a table", warnings)
    assert len(re.findall("WARNING", warnings)) == 4, warnings


def test_a_hidden_base_is_replaced_by_its_own():
    root = type("Root", (), {})
    other = type("Other", (root,), {})
    module, _, name = bases.HIDDEN[0].rpartition(".")
    hidden = type(name, (root,), {"__module__": module})
    for given, shown in (([hidden], [root]), ([hidden, other], [other]), ([other], [other])):
        bases.replace(None, "", None, None, given)
        assert given == shown
    assert all(isinstance(pkgutil.resolve_name(name), type) for name in bases.HIDDEN)


def test_the_way_back_leads_to_the_entry_that_there_is():
    names = {"dni.windows": 0, "dni.recurrent.Window": 0}
    app = SimpleNamespace(env=SimpleNamespace(get_domain=lambda _: SimpleNamespace(objects=names)))
    link = '<a class="viewcode-back" href="../api.html#{}">'
    for found, mended in (
        ("dni.windows", "dni.windows"),
        ("dni.Window", "dni.recurrent.Window"),
        ("dni.recurrent.windows.windows", "dni.windows"),
        ("dni.unknown", "dni.unknown"),
    ):
        context = {"body": link.format(found)}
        back.mend(app, "_modules/dni/windows", "", context, None)
        assert context["body"] == link.format(mended)
    back.mend(app, "index", "", context := {}, None)
    assert context == {}


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
