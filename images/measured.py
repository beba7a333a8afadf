"""Pictures of numbers that stand in the documents' tables."""

from __future__ import annotations

import matplotlib.pyplot as plt

from benchmarks import recurrent_report
from benchmarks.evidence.report import outcomes
from benchmarks.evidence.run import RESULTS, grid
from benchmarks.evidence.subjects import SUBJECTS
from examples import pictures
from examples.pictures import BLUE, GREEN, ORANGE, WIDE
from images.sheet import FOLDER
from images.tables import numbers, table

BENCHMARKS = "benchmarks/README.rst"


def limit() -> None:
    """How much of a gradient can be known: R² at each cut, while a network trains."""
    told = ("from the activation", "with the label too")
    head, body = table("docs", *told)
    columns = {name: head[0].index(name) for name in told}
    ticks = [f"{row[0]}\nloss {row[1]}" for row in body]
    figure, panels = plt.subplots(1, 2, figsize=(WIDE, 3.2), sharey=True, layout="constrained")
    for axes, (name, column) in zip(panels, columns.items(), strict=True):
        cuts = zip(*(numbers(row[column]) for row in body), strict=True)
        for cut, (values, color) in enumerate(zip(cuts, (ORANGE, GREEN, BLUE), strict=True), 1):
            places = [place + 0.26 * (cut - 2) for place in range(len(body))]
            axes.bar(places, values, 0.24, color=color, label=f"cut {cut}")
        axes.set(title=name, ylim=(0, 1), xlabel="step")
        axes.set_xticks(range(len(body)), ticks)
        axes.tick_params(bottom=False)
        axes.grid(axis="y")
        axes.set_axisbelow(True)
    panels[0].set_ylabel("R²")
    panels[0].legend()
    pictures.save(figure, FOLDER / "limit.svg")


def cost() -> None:
    """What windows cost."""
    head, body = table(BENCHMARKS, "window", "peak MiB", "BPTT")
    columns = list(zip(*head, strict=True))
    rows = [
        {
            "window": int(row[0]),
            "arm": arm,
            "ms": float(row[columns.index((arm, "ms"))]),
            "peak MiB": float(row[columns.index((arm, "peak MiB"))]),
        }
        for row in body
        for arm in ("BPTT", "DNI")
    ]
    recurrent_report.draw_cost(rows, FOLDER / "recurrent-cost.png")


def rows() -> None:
    """Digits row by row."""
    _recurrent("rows", 1200, 100, "mnist", "Digits row by row: test error, %")


def copy() -> None:
    """The copy task."""
    _recurrent("copy", 10_000, 32, "made", "Copy: the longest sequence solved")


def _recurrent(task: str, steps: int, batch: int, data: str, title: str) -> None:
    """By the length of the window, from the outcomes of ``benchmarks.evidence``."""
    networks = [name for name in SUBJECTS if name.startswith(task)]
    found: recurrent_report.Scores = {}
    level = ("full unroll", list[float]())
    runs = grid(networks, ["BPTT", "DNI", "cDNI"], 3, steps, batch, data)
    for (network, arm), finished in outcomes(runs, RESULTS).items():
        if not finished:
            raise SystemExit(f"{arm} of {network} has not been run: python -m benchmarks.evidence")
        scores = [one["score"] for one in finished]
        if network == task:
            level[1].extend(scores)
        else:
            found.setdefault(arm, {})[finished[0]["arm"]["window"]] = scores
    path = FOLDER / f"recurrent-{task}.png"
    recurrent_report.draw_scores(found, title, path, level)


FIGURES = {
    "limit": limit,
    "recurrent-cost": cost,
    "recurrent-rows": rows,
    "recurrent-copy": copy,
}
