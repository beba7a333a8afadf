"""Pictures of short windows."""

from __future__ import annotations

import statistics
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
from matplotlib.ticker import MaxNLocator

from examples import pictures
from examples.pictures import GRAY, WIDE

LABELS = {"ms": "ms for the sequence", "peak MiB": "peak memory, MiB"}
Scores = dict[str, dict[int, list[float]]]  # by arm and window, over the seeds
Level = tuple[str, list[float]]  # a name and the seeds of what all windows are compared with


def draw_cost(rows: list[dict[str, Any]], path: Path) -> None:
    """Time and memory, side by side."""
    figure, panels = plt.subplots(1, 2, figsize=(WIDE, 3.0), layout="constrained")
    windows = list(dict.fromkeys(row["window"] for row in rows))
    for axes, (key, label) in zip(panels, LABELS.items(), strict=True):
        for name in dict.fromkeys(row["arm"] for row in rows):
            points = [(row["window"], row[key]) for row in rows if row["arm"] == name]
            style = "--" if name == "by hand" else "-"
            axes.plot(
                *zip(*points, strict=True),
                style,
                color=pictures.ARMS[name],
                marker="o",
                ms=4,
                label=name,
            )
        axes.set(xscale="log", xlabel="window", title=label, ylim=(0, None))
        axes.set_xticks(windows, labels=map(str, windows))
        axes.minorticks_off()
        axes.grid()
    panels[0].legend()
    pictures.save(figure, path)


def draw_scores(found: Scores, title: str, path: Path, level: Level) -> None:
    """Mean score against window, an arm a line, a band over its seeds; a level right across."""
    figure, axes = plt.subplots(figsize=(5.6, 3.6), layout="constrained")
    for number, (name, short) in enumerate(found.items()):
        color = pictures.ARMS.get(name.removesuffix(" + aux"), f"C{number % 10}")
        middle = [statistics.mean(seeds) for seeds in short.values()]
        style = "--" if "aux" in name else "-"
        axes.plot(list(short), middle, style, marker="o", ms=4, label=name, color=color)
        low, high = map(min, short.values()), map(max, short.values())
        axes.fill_between(list(short), list(low), list(high), color=color, alpha=0.15, linewidth=0)
    axes.axhline(statistics.mean(level[1]), color=GRAY, ls=":", label=level[0])
    windows = sorted({window for by_window in found.values() for window in by_window})
    axes.set(xscale="log", xlabel="window", title=title)
    axes.set_xticks(windows, labels=map(str, windows))
    axes.minorticks_off()
    axes.yaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid()
    figure.legend(loc="outside right center")
    pictures.save(figure, path)
