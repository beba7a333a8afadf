"""Who works when: the locks of backpropagation, and stages beside a pipeline."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import matplotlib.pyplot as plt
from matplotlib.lines import Line2D
from matplotlib.patches import FancyArrowPatch, Patch, Rectangle

from examples import pictures
from examples.pictures import BLACK, BLUE, GRAY, GREEN, RED, WIDE
from images import schedule
from images.sheet import FOLDER, SYNTHESIZER

FILLS = {
    "forward": ("#cfd8e6", BLACK),
    "forward, synthetic input": ("#f6d2cf", RED),
    "backward": ("#bfe3c4", GREEN),
    "backward, synthetic gradient": ("#cbd9fa", BLUE),
    "update": (SYNTHESIZER, BLACK),
    "waits": ("#ffffff", GRAY),
}
UPDATE = 0.3  # of the time of a forward pass; a backward pass takes as long as one here
Span = tuple[str, float, float, str]  # what, from, to, and the word to write on it


def bar(axes: Any, row: float, span: Span, until: float, height: float = 0.72) -> None:
    """A piece of time in a row, as much of it as is before ``until``."""
    kind, start, end, word = span
    seen = min(end, until) - start
    if seen < 0.01:
        return
    shape = Rectangle(
        (start, row - height / 2), seen, height, zorder=0.5 if kind == "waits" else 1, **_look(kind)
    )
    axes.add_patch(shape)
    if seen > 0.7 * (end - start):
        axes.text(start + seen / 2, row, word, ha="center", va="center", fontsize=8.5)


def _look(kind: str) -> dict[str, Any]:
    fill, edge = FILLS[kind]
    style = ":" if kind == "waits" else "-"
    return {"facecolor": fill, "edgecolor": edge, "linewidth": 0.8, "linestyle": style}


def frame(axes: Any, rows: Iterable[str], title: str, until: float) -> None:
    """A panel with a row per part, from top to bottom, and time to the right."""
    names = list(rows)
    axes.set(xlim=(-0.01 * until, 1.003 * until), ylim=(len(names) - 0.45, -0.55), xticks=[])
    axes.set_yticks(range(len(names)), names)
    axes.tick_params(left=False)
    axes.set_title(title, loc="left", fontsize=9.5, weight="bold", pad=4)
    for side in ("left", "bottom"):
        axes.spines[side].set_visible(False)


def locks() -> None:
    """Backpropagation, update unlock, complete unlock."""
    until = 7.6
    figure, panels = plt.subplots(3, figsize=(WIDE, 5.3), layout="constrained")
    titles = (
        "Backpropagation: every part waits for the others",
        "Update unlock: a synthetic gradient, and the next batch",
        "Complete unlock: a synthetic input besides, all parts at once",
    )
    for axes, title, rows in zip(panels, titles, (_locked(), _update(), _complete()), strict=True):
        frame(axes, [f"part {name}" for name in "ABC"], title, until)
        for row, spans in enumerate(rows):
            for span in spans:
                bar(axes, row, span, until)
    panels[-1].set_xlabel("time →", loc="right")
    legend(figure, FILLS)
    pictures.save(figure, FOLDER / "locks.svg")


def legend(figure: Any, kinds: Iterable[str], *more: Line2D) -> None:
    """What the fills mean, below the panels."""
    patches = [Patch(label=kind, **_look(kind)) for kind in kinds]
    figure.legend(handles=[*patches, *more], loc="outside lower center", ncols=3, fontsize=8.5)


def _locked() -> list[list[Span]]:
    """Two batches, the second one cut off: nobody starts it before its input is there."""
    rows: list[list[Span]] = []
    again = 6 + UPDATE  # when part A begins the next batch
    for k in range(3):
        gap = "\n" if k == 1 else " "
        spans: list[Span] = [("waits", 0, k, f"forward{gap}lock")] if k else []
        spans.append(("forward", k, k + 1, "forward"))
        if k < 2:
            spans.append(("waits", k + 1, 3, f"update{gap}lock"))
            spans.append(("waits", 3, 5 - k, f"backward{gap}lock"))
        spans.append(("backward", 5 - k, 6 - k, "backward"))
        spans.append(("update", 6 - k, 6 - k + UPDATE, ""))
        if k:
            spans.append(("waits", 6 - k + UPDATE, again + k, "forward lock"))
        spans.append(("forward", again + k, again + k + 1, "forward"))
        rows.append(spans)
    return rows


def _update() -> list[list[Span]]:
    rows: list[list[Span]] = []
    for k in range(3):
        backward = "backward" if k == 2 else "backward, synthetic gradient"
        spans: list[Span] = [("waits", 0, k, "forward\nlock" if k == 1 else "forward lock")]
        rows.append(spans[: k and 1] + _batches("forward", backward, k))
    return rows


def _complete() -> list[list[Span]]:
    return [
        _batches(
            "forward" if k == 0 else "forward, synthetic input",
            "backward" if k == 2 else "backward, synthetic gradient",
            0,
        )
        for k in range(3)
    ]


def _batches(forward: str, backward: str, start: float) -> list[Span]:
    """One batch after the other, without a pause."""
    spans: list[Span] = []
    for n in range(4):
        at = start + n * (2 + UPDATE)
        spans += [
            (forward, at, at + 1, "forward"),
            (backward, at + 1, at + 2, "backward"),
            ("update", at + 2, at + 2 + UPDATE, ""),
        ]
    return spans


STAGES, PARTS, BATCHES = 3, 4, 3


def stages() -> None:
    """1F1B and decoupled stages, on one axis of time."""
    pipe = schedule.one_forward_one_backward(STAGES, PARTS, BATCHES)
    until = max(work.end for work in pipe)
    ours = schedule.decoupled(STAGES, PARTS, until)
    figure, panels = plt.subplots(2, figsize=(WIDE, 4.6), layout="constrained")
    titles = (f"1F1B, {PARTS} micro-batches", "Decoupled stages")
    for axes, title, work in zip(panels, titles, (pipe, ours), strict=True):
        lost = 100 * schedule.idle(work, STAGES, until)
        names = [f"stage {stage}" for stage in range(STAGES)]
        frame(axes, names, f"{title}: {lost:.0f} % idle", until)
        for row in range(STAGES):
            bar(axes, row, ("waits", 0, until, ""), until, height=0.6)
        for one in work:
            kind = one.kind
            if work is ours and kind == "backward" and one.stage < STAGES - 1:
                kind = "backward, synthetic gradient"
            word = str(one.part + 1) if work is pipe else f"batch {one.batch + 1}"
            bar(axes, one.stage, (kind, one.start, one.end, word), until, height=0.6)
    answers(panels[1], ours, until)
    panels[-1].set_xlabel("time →", loc="right")
    late = Line2D([], [], color=GREEN, label="real gradient, for the synthesizer")
    late.set(marker="^", markersize=5)
    legend(figure, ("forward", "backward", "backward, synthetic gradient", "waits"), late)
    pictures.save(figure, FOLDER / "stages-timeline.svg")


def answers(axes: Any, work: list[schedule.Work], until: float) -> None:
    """The real gradient of a batch goes to the stage before, which has gone on."""
    for one in work:
        if one.kind == "backward" and one.stage and one.end <= until:
            shape = FancyArrowPatch(
                (one.end, one.stage - 0.3), (one.end, one.stage - 0.7), arrowstyle="-|>",
                mutation_scale=9, color=GREEN, linewidth=1.4, shrinkA=0, shrinkB=0,
            )  # fmt: skip
            axes.add_patch(shape)


FIGURES = {"locks": locks, "stages-timeline": stages}
