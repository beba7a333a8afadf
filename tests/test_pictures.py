"""Pictures: every one has a twin for dark pages, and is the same each time it is drawn."""

from __future__ import annotations

import os
import re
from pathlib import Path

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pytest
from matplotlib.colors import to_rgb

from benchmarks import recurrent_report
from examples import pictures
from images import measured, schedule, sheet, structure, tables, timelines
from images.__main__ import DRAWN

ROOT = Path(__file__).parents[1]
INKS = ("BLACK", "GRAY", "GREEN", "BLUE", "RED", "ORANGE", "VIOLET", "BROWN")


def figure():
    made, axes = plt.subplots(figsize=(2, 2))
    axes.plot([0, 1], [0, 1], label="line")
    axes.fill_between([0, 1], [0, 1], [1, 2], alpha=0.2)
    axes.text(0, 0, "word", bbox={"facecolor": "white"})
    axes.legend()
    return made


def contrast(one, other):
    """Of two colours, as WCAG 2 has it: 1 to 21."""
    light = [
        float(np.dot(pictures._linear(np.array(to_rgb(color))), (0.2126, 0.7152, 0.0722)))
        for color in (one, other)
    ]
    return (max(light) + 0.05) / (min(light) + 0.05)


@pytest.mark.parametrize("kind", ["svg", "png"])
def test_a_picture_and_its_twin_are_written_and_drawn_again_the_same(tmp_path, kind):
    path = tmp_path / "folder" / f"line.{kind}"
    pictures.save(figure(), path)
    twin = path.with_name(f"line-dark.{kind}")
    first, second = path.read_bytes(), twin.read_bytes()
    assert first != second
    pictures.save(figure(), path)
    assert (path.read_bytes(), twin.read_bytes()) == (first, second)


def test_ink_becomes_light_and_paper_dark(tmp_path):
    made = figure()
    axes = made.axes[0]
    word = axes.texts[0]
    assert contrast(word.get_color(), "black") < 2
    pictures.save(made, tmp_path / "line.png")
    paper = made.get_facecolor()
    assert to_rgb(paper) == axes.get_facecolor()[:3] == to_rgb(pictures.PAPER)
    assert word.get_bbox_patch().get_facecolor()[:3] == to_rgb(paper)
    inks = [word, axes.title, axes.xaxis.label, *axes.get_xticklabels(), *axes.lines]
    inks += axes.get_legend().get_texts()
    assert all(contrast(ink.get_color(), paper) > 4.5 for ink in inks)
    (band,) = axes.collections
    assert band.get_facecolor()[0, 3] == pytest.approx(0.2)


@pytest.mark.parametrize("name", INKS)
def test_a_line_can_be_read_on_both_pages(name):
    color = getattr(pictures, name)
    assert contrast(color, "white") > 3
    assert contrast(pictures.dark(color)[0, :3], pictures.PAPER) > 6


def test_what_the_site_shows_has_a_twin():
    used = set()
    pages = [*(ROOT / "docs").rglob("*.rst"), ROOT / "benchmarks" / "README.rst"]
    for page in pages:
        found = re.findall(r"\.\. (?:image|figure):: (\S+)", page.read_text())
        used |= {(page.parent / path).resolve() for path in found if "://" not in path}
    assert used
    assert not {path.name for path in used if not pictures.twin(path).is_file()}


@pytest.fixture
def folder(monkeypatch, tmp_path):
    """Where pictures are drawn to."""
    for module in (sheet, timelines, measured):
        monkeypatch.setattr(module, "FOLDER", tmp_path)
    return tmp_path


def test_a_drawing_is_two_files(folder):
    for draw in (timelines.locks, structure.decouple, measured.limit):
        draw()
    names = sorted(os.listdir(folder))
    assert names == [
        f"{name}{end}.svg" for name in ("decouple", "limit", "locks") for end in ("-dark", "")
    ]


@pytest.mark.parametrize("name", [one for one in DRAWN if not one.startswith("recurrent-")])
def test_a_drawing_is_what_its_script_draws(folder, name):
    DRAWN[name]()
    for made in (folder / f"{name}.svg", folder / f"{name}-dark.svg"):
        new, kept = made.read_text(), (ROOT / "images" / made.name).read_text()
        if not all(f"Matplotlib v{matplotlib.__version__}," in text for text in (new, kept)):
            new, kept = (re.findall("<!-- (.*) -->", text) for text in (new, kept))  # its words
        assert new == kept, f"python -m images {name}"


@pytest.mark.parametrize(
    ("draw", "windows"), [(measured.rows, [1, 2, 7, 14]), (measured.copy, [2, 3, 4, 5])]
)
def test_windows_are_drawn_from_the_results(draw, windows, monkeypatch, tmp_path):
    drawn = []
    monkeypatch.setattr(recurrent_report, "draw_scores", lambda *given: drawn.append(given))
    draw()
    ((found, _, _, level),) = drawn
    assert (level[0], len(level[1])) == ("full unroll", 3)
    assert [list(scores) for scores in found.values()] == [windows] * 3
    monkeypatch.setattr(measured, "RESULTS", tmp_path)
    with pytest.raises(SystemExit, match="BPTT of .* has not been run"):
        draw()


def test_a_pipeline_waits_as_long_as_theory_says():
    for stages, parts in ((2, 2), (3, 4), (4, 8)):
        work = schedule.one_forward_one_backward(stages, parts, batches=3)
        until = max(one.end for one in work)
        bubble = (stages - 1) / (parts + stages - 1)
        assert schedule.idle(work, stages, until) == pytest.approx(bubble)
        ours = schedule.decoupled(stages, parts, until)
        start = sum(stage * parts for stage in range(stages))  # until the first batch is there
        assert schedule.idle(ours, stages, until) == pytest.approx(start / (stages * until))


def test_tables_are_found_by_their_columns():
    text = """
====  ===========
arm   T = 2
====  ===========
one   8 (7 to 9)
two   .. and more
====  ===========
"""
    ((head, body),) = tables.tables(text)
    assert (head, body) == ([["arm", "T = 2"]], [["one", "8 (7 to 9)"], ["two", ".. and more"]])
    assert tables.numbers("8 (7 to 9)") == [8, 7, 9]
    with pytest.raises(SystemExit, match="docs has no table with the columns nobody, knows"):
        tables.table("docs", "nobody", "knows")
