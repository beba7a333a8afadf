"""Draws the figures of the README and the docs: ``make figures``.

Three places for an interface, with the words of the code. Colours follow the paper: black
is data on its way forward, dashed where the sender does not wait for an update; green a
real gradient, blue a synthetic one, red a synthetic input; a filled circle is the
objective, where a synthetic and a real message meet and the synthesizer learns.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.lines import Line2D
from matplotlib.patches import Circle, FancyArrowPatch, FancyBboxPatch

FOLDER = Path(__file__).parent
BLACK, GREEN, BLUE, RED = "#222222", "#2e8b3d", "#2a55c8", "#c83232"
PART, SYNTHESIZER = "#eceff4", "#fdf3d8"
Point = tuple[float, float]

plt.rcParams.update({"svg.hashsalt": "dni", "font.family": "DejaVu Sans", "svg.fonttype": "path"})


class Drawing:
    """A sheet in units of about a centimetre, with the few shapes the figures need."""

    def __init__(self, width: float, height: float) -> None:
        self.figure, self.axes = plt.subplots(figsize=(width / 2.2, height / 2.2))
        self.axes.set(xlim=(0, width), ylim=(0, height), aspect="equal")
        self.axes.axis("off")
        self.figure.subplots_adjust(0, 0, 1, 1)

    def box(self, center: Point, text: str, fill: str = PART, width: float = 3.0) -> None:
        """A part of the network, or a synthesizer."""
        x, y = center
        shape = FancyBboxPatch(
            (x - width / 2, y - 0.5), width, 1.0, boxstyle="round,pad=0.05,rounding_size=0.2",
            facecolor=fill, edgecolor=BLACK, linewidth=1,
        )  # fmt: skip
        self.axes.add_patch(shape)
        self.text(center, text)

    def text(self, at: Point, text: str, color: str = BLACK, **options: str) -> None:
        """A word of the code."""
        options = {"ha": "center", "va": "center"} | options
        self.axes.text(*at, text, color=color, fontsize=8.5, **options)

    def arrow(
        self, start: Point, end: Point, color: str = BLACK, style: str = "-", bend: float = 0.0
    ) -> None:
        """A message on its way."""
        shape = FancyArrowPatch(
            start, end, arrowstyle="-|>", mutation_scale=11, color=color, linestyle=style,
            linewidth=1.5, shrinkA=0, shrinkB=0, connectionstyle=f"arc3,rad={bend}",
        )  # fmt: skip
        self.axes.add_patch(shape)

    def objective(self, at: Point) -> None:
        """Where synthetic and real message meet."""
        self.axes.add_patch(Circle(at, 0.17, color=BLACK, zorder=3))

    def legend(self, *entries: tuple[str, str, str]) -> None:
        """``(colour, line style, meaning)`` below the drawing."""
        lines = [Line2D([], [], color=c, linestyle=s, label=text) for c, s, text in entries]
        circle = Line2D(
            [], [], color=BLACK, marker="o", linestyle="", label="objective: the synthesizer learns"
        )
        self.axes.legend(
            handles=[*lines, circle], loc="lower center", ncol=2, frameon=False, fontsize=7.5
        )

    def save(self, name: str) -> None:
        """As SVG and PNG, on white, so that both read on a dark page too."""
        for kind, options in (("svg", {"metadata": {"Date": None}}), ("png", {"dpi": 160})):
            self.figure.savefig(FOLDER / f"{name}.{kind}", facecolor="white", **options)
        plt.close(self.figure)


FORWARD = (BLACK, "-", "message, forward")
UNLOCKED = (BLACK, "--", "forward, without update lock")
REAL = (GREEN, "-", "real gradient")
SYNTHETIC = (BLUE, "-", "synthetic gradient")
INPUT = (RED, "-", "synthetic input")


def backward_side(sheet: Drawing, y: float) -> None:
    """The synthesizer of a gradient, on the right of the cut at height ``y``."""
    sheet.box((8.6, y), "synthesizer", SYNTHESIZER, 2.6)
    sheet.arrow((8.6, y - 0.55), (4.55, y - 1.75), BLUE, bend=-0.25)
    sheet.text((7.95, y - 1.6), "synthetic gradient s", BLUE, ha="left")
    sheet.objective((8.6, y + 1.3))
    sheet.arrow((8.6, y + 0.55), (8.6, y + 1.13), BLUE)


def update_unlock() -> None:
    """Part A learns from a synthetic gradient."""
    sheet = Drawing(13, 9.2)
    sheet.axes.set_xlim(-1, 12)
    sheet.text((3, 1.55), "input")
    sheet.arrow((3, 1.8), (3, 2.35))
    sheet.box((3, 2.9), "part A")
    sheet.arrow((3, 3.45), (3, 6.3), style="--")
    sheet.box((3, 6.85), "part B")
    sheet.arrow((3, 7.4), (3, 8.3))
    sheet.text((3, 8.6), "loss")
    sheet.text((2.75, 4.4), "h", ha="right")
    sheet.text((2.75, 5.15), "BackwardInterface", ha="right", weight="bold")
    sheet.arrow((3.0, 4.65), (7.25, 4.65))
    sheet.text((5.1, 4.9), "trigger h")
    backward_side(sheet, 4.65)
    sheet.arrow((4.55, 6.7), (8.42, 5.98), GREEN)
    sheet.text((6.2, 6.8), "real gradient g", GREEN, ha="left")
    sheet.arrow((11.3, 4.65), (9.95, 4.65))
    sheet.text((11.2, 4.95), "context")
    sheet.legend(FORWARD, UNLOCKED, REAL, SYNTHETIC)
    sheet.save("feedforward-update-unlock")


def complete_unlock() -> None:
    """Part B runs on a synthetic input besides."""
    sheet = Drawing(17.5, 9.6)
    sheet.axes.set_xlim(-5, 12.5)
    sheet.text((3, 1.55), "input")
    sheet.arrow((3, 1.8), (3, 2.35))
    sheet.box((3, 2.9), "part A")
    sheet.arrow((3, 3.45), (3, 4.65))
    sheet.text((3.25, 4.05), "h", ha="left")
    sheet.box((3, 7.45), "part B")
    sheet.arrow((3, 8.0), (3, 8.9))
    sheet.text((3, 9.2), "loss")
    sheet.text((3, 5.5), "BidirectionalInterface", weight="bold")
    # forward: the trigger is what both parts know
    sheet.arrow((2.5, 1.55), (-2.2, 4.1), bend=-0.25)
    sheet.text((-1.4, 2.0), "trigger (input)")
    sheet.box((-2.2, 4.65), "synthesizer", SYNTHESIZER, 2.6)
    sheet.arrow((-2.2, 5.2), (1.45, 7.45), RED, bend=-0.3)
    sheet.text((-2.3, 7.1), "synthetic input", RED)
    sheet.objective((1.05, 4.65))
    sheet.arrow((3, 4.65), (1.22, 4.65))
    sheet.arrow((-0.85, 4.65), (0.88, 4.65), RED)
    sheet.text((1.05, 4.15), "send", style="italic")
    sheet.text((0.9, 7.85), "receive", style="italic", ha="right")
    # backward
    sheet.arrow((3.0, 4.65), (7.25, 4.65))
    sheet.text((5.3, 4.9), "trigger h")
    backward_side(sheet, 4.65)
    sheet.arrow((4.55, 7.3), (8.42, 6.0), GREEN)
    sheet.text((6.4, 7.1), "real gradient g", GREEN, ha="left")
    sheet.legend(FORWARD, INPUT, REAL, SYNTHETIC)
    sheet.save("feedforward-complete-unlock")


def recurrent_unlock() -> None:
    """A synthetic gradient stands in for the windows to come."""
    sheet = Drawing(19, 7.6)
    for window, left in enumerate((0.6, 10.5)):
        for step in range(3):
            x, t = left + 0.9 + 2.1 * step, 3 * window + step + 1
            sheet.box((x, 3.6), "core", width=1.3)
            sheet.text((x, 2.15), f"$x_{t}$")
            sheet.arrow((x, 2.4), (x, 3.05))
            sheet.arrow((x, 4.15), (x, 4.8))
            sheet.text((x, 5.05), f"$L_{t}$")
            if step:
                sheet.arrow((x - 1.4, 3.75), (x - 0.7, 3.75))
                sheet.arrow((x - 0.7, 3.4), (x - 1.4, 3.4), GREEN)
        sheet.text((left + 3.0, 6.6), f"window {window + 1}", weight="bold")
    sheet.text((18.3, 3.6), ". . .")
    # the cut between the windows
    sheet.arrow((6.4, 3.75), (10.7, 3.75), style="--")
    sheet.text((8.55, 3.45), "h")
    sheet.box((8.55, 6.6), "synthesizer", SYNTHESIZER, 2.6)
    sheet.arrow((8.55, 3.75), (8.55, 6.05))
    sheet.text((8.7, 5.0), "trigger h", ha="left")
    sheet.arrow((7.5, 6.05), (6.4, 3.4), BLUE, bend=-0.2)
    sheet.text((6.75, 5.75), "backward(h)", BLUE, ha="right")
    sheet.objective((10.4, 5.3))
    sheet.arrow((9.6, 6.05), (10.27, 5.42), BLUE)
    sheet.arrow((10.7, 3.4), (10.4, 5.13), GREEN, bend=-0.35)
    sheet.text((9.3, 2.95), "make_trigger(h)", GREEN)
    # the bootstrapped target: what the next cut sends is on its way back too
    sheet.arrow((17.6, 5.6), (16.35, 3.4), BLUE, bend=-0.25)
    sheet.text((17.4, 5.95), "backward(h')", BLUE)
    sheet.text(
        (13.5, 1.5), "target of s(h): the window's own gradient + what s(h') sends back", GREEN
    )
    sheet.legend(FORWARD, UNLOCKED, REAL, SYNTHETIC)
    sheet.save("rnn-update-unlock")


def main() -> None:
    """All figures."""
    figures: tuple[Callable[[], None], ...] = (update_unlock, complete_unlock, recurrent_unlock)
    for figure in figures:
        figure()


if __name__ == "__main__":
    main()
