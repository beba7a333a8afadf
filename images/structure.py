"""What stands where: the swap in the graph, the synthesizers, a network before and after."""

from __future__ import annotations

import torch
from matplotlib.patches import Rectangle
from torch import nn

import dni
from examples.pictures import BLACK, BLUE, GRAY, GREEN
from images.sheet import CUT, PART, SYNTHESIZER, Sheet

MONO = "DejaVu Sans Mono"


def swap() -> None:
    """The first drawing of ``dni/_autograd.py``: its labels, its steps."""
    sheet = Sheet(16.7, 7.4)
    sheet.box((1.6, 4.1), "part A", width=2.0, height=5.8)
    sheet.box((10.0, 4.1), "Cut", CUT, width=1.7, height=5.8, weight="bold")
    sheet.box((13.7, 5.5), "part B", width=1.8, height=3.0)
    sheet.text((16.2, 6.4), "loss")
    # forward
    sheet.arrow((2.65, 6.4), (9.1, 6.4))
    sheet.text((7.3, 6.68), "h")
    sheet.arrow((10.9, 6.4), (12.75, 6.4))
    sheet.text((11.8, 6.68), "h")
    sheet.arrow((14.65, 6.4), (15.75, 6.4))
    sheet.arrow((5.3, 6.4), (5.3, 4.75))
    sheet.step((3.8, 5.7), 1)
    sheet.text((4.2, 5.7), "detach", ha="left", family=MONO, fontsize=8.5)
    sheet.box((5.3, 4.2), "synthesizer", SYNTHESIZER, width=2.6)
    sheet.arrow((6.65, 4.4), (9.1, 4.4), BLUE)
    sheet.text((7.85, 4.68), "u", BLUE)
    # backward
    sheet.arrow((12.75, 4.6), (10.9, 4.6), GREEN)
    sheet.text((11.8, 4.88), "g", GREEN)
    sheet.step((11.55, 3.4), 2)
    sheet.text((11.95, 3.4), "loss.backward()", ha="left", family=MONO, fontsize=8.5)
    sheet.route((9.1, 2.9), (5.3, 2.9), (5.3, 3.65), color=GREEN)
    sheet.text((7.85, 3.2), "dL(u, g)/du", GREEN)
    sheet.step((3.3, 2.35), 3)
    sheet.text((3.7, 2.35), "the synthesizer learns from g", ha="left")
    sheet.arrow((9.1, 1.6), (2.65, 1.6), BLUE)
    sheet.text((7.1, 1.88), "mix g + (1 - mix) factor s", BLUE)
    sheet.step((3.3, 1.05), 4)
    sheet.text((3.7, 1.05), "part A learns from s", ha="left")
    sheet.text(
        (8.35, 0.3), "s = r u        u: what the synthesizer says        "
        "r: the running root mean square of g        L: its objective", fontsize=8.5,
    )  # fmt: skip
    sheet.save("autograd-swap")


KINDS = (
    ("vectors", "(B, F)", {"BasicSynthesizer": "a perceptron over the features"}),
    ("tokens", "(B, T, F)", {"TokenSynthesizer": "the same for every token"}),
    (
        "maps",
        "(B, C, H, W)",
        {
            "LossSynthesizer": "told the labels: predicts the loss",
            "MapSynthesizer": "knows what is where",
            "ConvSynthesizer": "the same at every place",
        },
    ),
    (
        "recurrent states",
        "h, (h, c)",
        {
            "Centered(BasicSynthesizer)": "all tensors joined; the mean of its\n"
            "messages over the batch taken off",
        },
    ),
)


def synthesizers() -> None:
    """Which one serves which activation."""
    sheet = Sheet(16.7, 11.8)
    # the contract
    sheet.text((3.0, 11.1), "trigger")
    sheet.text((3.0, 10.4), "context")
    sheet.box((9.0, 10.75), "synthesizer", SYNTHESIZER, width=4.8)
    sheet.arrow((3.9, 11.1), (6.5, 10.9))
    sheet.arrow((3.9, 10.4), (6.5, 10.6))
    sheet.arrow((11.5, 10.75), (12.5, 10.75), BLUE)
    sheet.text((12.65, 10.75), "message", BLUE, ha="left")
    sheet.axes.plot((0.3, 16.4), (9.75, 9.75), color=GRAY, linewidth=0.8)
    for row, ((kind, shape, names), glyph) in enumerate(zip(KINDS, GLYPHS, strict=True)):
        y = 8.6 - 2.1 * row
        glyph(sheet, y)
        sheet.text((2.75, y + 0.28), kind, ha="left", weight="bold")
        sheet.text((2.75, y - 0.28), shape, ha="left", family=MONO)
        sheet.arrow((5.75, y), (6.5, y))
        for place, (name, note) in enumerate(names.items()):
            height = y + 0.85 * (0.5 * (len(names) - 1) - place)
            sheet.box((9.0, height), name, SYNTHESIZER, 4.8, 0.72, family=MONO, fontsize=8.5)
            sheet.text((11.7, height), note, ha="left", fontsize=8.5)
    chosen = (
        "dni.decouple chooses by the shape, for maps the first with labels and the second without"
    )
    sheet.text((8.35, 0.75), f"{chosen}, always in Centered.", fontsize=8.5)
    sheet.save("synthesizers")


def _cells(sheet: Sheet, left: float, low: float, columns: int, rows: int, fill: str) -> None:
    for column in range(columns):
        for row in range(rows):
            shape = Rectangle(
                (left + 0.3 * column, low + 0.3 * row), 0.3, 0.3,
                facecolor=fill, edgecolor=BLACK, linewidth=0.8,
            )  # fmt: skip
            sheet.axes.add_patch(shape)


def _vectors(sheet: Sheet, y: float) -> None:
    for row in range(3):
        _cells(sheet, 0.5, y + 0.35 - 0.5 * row, 5, 1, PART)


def _tokens(sheet: Sheet, y: float) -> None:
    for depth in (1, 0):
        _cells(sheet, 0.45 + 0.22 * depth, y - 0.68 + 0.22 * depth, 5, 4, PART)


def _maps(sheet: Sheet, y: float) -> None:
    for depth in (2, 1, 0):
        _cells(sheet, 0.5 + 0.2 * depth, y - 0.75 + 0.2 * depth, 4, 4, PART)


def _states(sheet: Sheet, y: float) -> None:
    for column in range(2):
        sheet.box((0.65 + 1.0 * column, y), "", width=0.45, height=0.6)
    sheet.arrow((0.92, y), (1.38, y))
    sheet.arrow((1.92, y), (2.38, y))


GLYPHS = (_vectors, _tokens, _maps, _states)


def decouple() -> None:
    """A network before and after: its modules keep their names, and their places."""
    model = nn.Sequential(
        nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, 10)
    )
    sheet = Sheet(16.7, 8.2)
    before = dict(model.named_children())
    _network(sheet, 7.4, before)
    sheet.arrow((2.0, 6.5), (2.0, 5.4))
    call = "dni.decouple(model, at=torch.nn.ReLU, context_classes=10)"
    sheet.text((2.4, 5.95), call, ha="left", family=MONO)
    dni.decouple(model, at=nn.ReLU, context_classes=10, sample=torch.zeros(8, 64))
    after = dict(model.named_children())
    places = _network(sheet, 4.4, after)
    for name in dni.interfaces_of(model):
        x = places[name]
        cut = x + PITCH / 2
        sheet.axes.plot((cut, cut), (3.45, 5.2), color=BLUE, linestyle="--", linewidth=1.8)
        sheet.arrow((x, 2.6), (x, 3.8), BLUE)
        sheet.text((x - 0.2, 3.2), "s", BLUE, ha="right")
        sheet.arrow((cut - 0.28, 4.4), (cut - 0.28, 2.6))
        sheet.text((cut - 0.45, 3.2), "h", ha="right")
        sheet.arrow((x + PITCH - 0.8, 3.8), (x + PITCH - 0.8, 2.6), GREEN)
        sheet.text((x + PITCH - 0.6, 3.2), "g", GREEN, ha="left")
        sheet.box((x + 1.1, 2.1), f"{name}.dni_interface", SYNTHESIZER, 3.9, 0.8, family=MONO)
    assert after == before
    sheet.text((8.35, 0.95), "same modules, same names; dashed: a cut; h: the activation")
    sheet.text(
        (8.35, 0.4),
        "s: the synthetic gradient, for the modules before the cut; "
        "g: the real one, for the synthesizer",
    )
    sheet.save("decouple")


PITCH = 3.3


def _network(sheet: Sheet, y: float, names: dict[str, nn.Module]) -> dict[str, float]:
    """Modules in a row; returns where they are."""
    places = {name: 1.75 + PITCH * number for number, name in enumerate(names)}
    for name, x in places.items():
        label = f"{name}  {type(names[name]).__name__}"
        sheet.box((x, y), label, width=2.2, family=MONO)
        if name != list(names)[-1]:
            sheet.arrow((x + 1.15, y), (x + PITCH - 1.15, y))
    return places


FIGURES = {"autograd-swap": swap, "synthesizers": synthesizers, "decouple": decouple}
