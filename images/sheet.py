"""A sheet of paper, and the few shapes that the drawings need."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
from matplotlib.lines import Line2D
from matplotlib.patches import Circle, FancyArrowPatch, FancyBboxPatch, PathPatch
from matplotlib.path import Path as Outline

from examples import pictures
from examples.pictures import BLACK, BLUE, GREEN, RED

FOLDER = Path(__file__).parent
PART, SYNTHESIZER, CUT = "#e4e9f2", "#fbecc2", "#dfe7fb"
Point = tuple[float, float]
FORWARD = (BLACK, "-", "message, forward")
UNLOCKED = (BLACK, "--", "forward, without update lock")
REAL = (GREEN, "-", "real gradient")
SYNTHETIC = (BLUE, "-", "synthetic gradient")
INPUT = (RED, "-", "synthetic input")


class Sheet:
    """Units of about a centimetre; 16.7 of them are the width of a page."""

    def __init__(self, width: float, height: float) -> None:
        self.figure, self.axes = plt.subplots(figsize=(width / 2.2, height / 2.2))
        self.axes.set(xlim=(0, width), ylim=(0, height), aspect="equal")
        self.axes.axis("off")
        self.figure.subplots_adjust(0, 0, 1, 1)

    def box(
        self,
        center: Point,
        text: str,
        fill: str = PART,
        width: float = 3.0,
        height: float = 1.0,
        **options: Any,
    ) -> None:
        """A part of the network, or a synthesizer."""
        x, y = center
        shape = FancyBboxPatch(
            (x - width / 2, y - height / 2), width, height,
            boxstyle="round,pad=0.05,rounding_size=0.2",
            facecolor=fill, edgecolor=BLACK, linewidth=1,
        )  # fmt: skip
        self.axes.add_patch(shape)
        self.text(center, text, **options)

    def text(self, at: Point, text: str, color: str = BLACK, **options: Any) -> None:
        """A word of the code."""
        options = {"ha": "center", "va": "center", "fontsize": 9} | options
        self.axes.text(*at, text, color=color, **options)

    def arrow(
        self, start: Point, end: Point, color: str = BLACK, style: str = "-", bend: float = 0.0
    ) -> None:
        """A message on its way."""
        shape = FancyArrowPatch(
            start, end, arrowstyle="-|>", mutation_scale=11, color=color, linestyle=style,
            linewidth=1.5, shrinkA=0, shrinkB=0, connectionstyle=f"arc3,rad={bend}",
        )  # fmt: skip
        self.axes.add_patch(shape)

    def route(self, *points: Point, color: str = BLACK, style: str = "-") -> None:
        """A message that turns corners."""
        if len(points) > 2:
            line = PathPatch(
                Outline(points[:-1]), fill=False, edgecolor=color, linewidth=1.5, linestyle=style
            )
            self.axes.add_patch(line)
        self.arrow(points[-2], points[-1], color, style)

    def step(self, at: Point, number: int) -> None:
        """The number of a step, in a circle."""
        self.axes.add_patch(Circle(at, 0.3, facecolor=BLACK, edgecolor=BLACK, zorder=4))
        self.text(at, str(number), "white", fontsize=8.5, weight="bold", zorder=5)

    def objective(self, at: Point) -> None:
        """Where synthetic and real message meet."""
        self.axes.add_patch(Circle(at, 0.17, color=BLACK, zorder=3))

    def legend(self, *entries: tuple[str, str, str], ncols: int = 3) -> None:
        """``(colour, line style, meaning)`` below the drawing."""
        lines = [Line2D([], [], color=c, linestyle=s, label=text) for c, s, text in entries]
        circle = Line2D(
            [], [], color=BLACK, marker="o", linestyle="", label="objective: the synthesizer learns"
        )
        self.axes.legend(handles=[*lines, circle], loc="lower center", ncols=ncols, fontsize=8.5)

    def save(self, name: str, png: bool = False) -> None:
        """As SVG for both pages; as PNG for the README, on white."""
        if png:
            self.figure.savefig(FOLDER / f"{name}.png", dpi=160)
        pictures.save(self.figure, FOLDER / f"{name}.svg")
