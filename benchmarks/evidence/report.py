"""Tables and a picture, made from the files of finished runs."""

from __future__ import annotations

import statistics
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np

from benchmarks.evidence.run import Run
from benchmarks.evidence.sequences import BITS, LONGEST, PER_CENT
from examples import pictures
from examples.pictures import WIDE

TICKS = (1, 2, 5, 10, 20, 50)
DIGITS = {PER_CENT: 2, LONGEST: 1, BITS: 3}
Outcomes = dict[tuple[str, str], list[dict[str, Any]]]  # by network and arm, a run per seed


def outcomes(runs: list[Run], folder: Path) -> Outcomes:
    """What is there of ``runs``."""
    found: Outcomes = {}
    for run in runs:
        seen = found.setdefault((run.network, run.arm), [])
        content = run.found(folder)
        if content is not None:
            seen.append(content)
    return found


def table(found: Outcomes, unit: str) -> str:
    """Means, half the range over the seeds, and their number; an rst table.

    An arm that no network has run yet is left out.
    """
    networks = _networks(found)
    rows, digits = [[unit, *networks]], DIGITS[unit]
    for arm in dict.fromkeys(arm for (_, arm), seeds in found.items() if seeds):
        rows.append([arm, *(_cell(found.get((network, arm)), digits) for network in networks)])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    rule = "  ".join("=" * width for width in widths)
    lines = ["  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)) for row in rows]
    return "\n".join([rule, lines[0].rstrip(), rule, *map(str.rstrip, lines[1:]), rule])


def _cell(seeds: list[dict[str, Any]] | None, digits: int) -> str:
    if seeds is None:
        return ""  # the network has no such arm
    scores = [one["score"] for one in seeds]
    if not scores:
        return "not run"
    if len(scores) == 1:
        return f"{scores[0]:.{digits}f} (1)"
    spread = (max(scores) - min(scores)) / 2
    return f"{statistics.mean(scores):.{digits}f} ±{spread:.{digits}f} ({len(scores)})"


def picture(found: Outcomes, path: Path, unit: str) -> None:
    """Scores over the steps: a panel per network, a line per arm, a band over the seeds."""
    networks = _networks(found)
    columns = min(2, len(networks))
    lines = -(-len(networks) // columns)
    figure, panels = plt.subplots(
        lines, columns, figsize=(WIDE, 1.1 + 2.6 * lines), sharex=True, sharey=True,
        squeeze=False, layout="constrained",
    )  # fmt: skip
    for panel, network in zip(panels.flat, networks, strict=False):
        for arm in _arms(found):
            seeds = found.get((network, arm))
            if not seeds:
                continue
            steps = [step for step, _ in seeds[0]["curve"]]
            curves = [np.interp(steps, *zip(*one["curve"], strict=True)) for one in seeds]
            scores = list(zip(*(curve.tolist() for curve in curves), strict=True))
            _line(panel, found, arm, steps, scores)
        panel.set(title=network)
        _scale(panel, unit)
    for panel in panels[-1]:
        panel.set(xlabel="step")
    for panel in panels[:, 0]:
        panel.set(ylabel=unit)
    for panel in panels.flat[len(networks) :]:
        panel.set_axis_off()
    handles = {text: line for panel in panels.flat for line, text in _legend(panel)}
    figure.legend(list(handles.values()), list(handles), ncols=5, loc="outside lower center")
    pictures.save(figure, path)


def depth(found: Outcomes, path: Path, unit: str) -> None:
    """Scores at the end against the network: a line per arm, a band over the seeds.

    Arms of which nothing was repeated are left out.
    """
    networks = _networks(found)
    figure, axes = plt.subplots(figsize=(WIDE, 4.0), layout="constrained")
    for arm in _arms(found):
        there = [network for network in networks if found.get((network, arm))]
        scores = [[one["score"] for one in found[network, arm]] for network in there]
        if max(map(len, scores), default=0) > 1:
            _line(axes, found, arm, [networks.index(network) for network in there], scores, "o-")
    layers = [network.removeprefix("fc") for network in networks]
    deep = all(map(str.isdecimal, layers))
    axes.set_xticks(range(len(networks)), layers if deep else networks)
    axes.set(xlabel="layers" if deep else "network", ylabel=unit)
    _scale(axes, unit)
    lines = sorted(_legend(axes), key=lambda entry: -entry[0].get_ydata()[-1])
    if lines:
        figure.legend(*zip(*lines, strict=True), loc="outside right center")
    pictures.save(figure, path)


def _networks(found: Outcomes) -> list[str]:
    return list(dict.fromkeys(network for network, _ in found))


def _arms(found: Outcomes) -> list[str]:
    return list(dict.fromkeys(arm for _, arm in found))


def _line(
    axes: Any, found: Outcomes, arm: str, x: list[Any], scores: list[Any], form: str = "-"
) -> None:
    """The mean over the seeds, and their range."""
    color = pictures.ARMS.get(arm.removesuffix(" + aux"), f"C{_arms(found).index(arm) % 10}")
    form = form.replace("-", "--") if "aux" in arm else form
    axes.plot(x, list(map(statistics.mean, scores)), form, color=color, label=arm, markersize=4)
    low, high = list(map(min, scores)), list(map(max, scores))
    axes.fill_between(x, low, high, alpha=0.2, color=color, linewidth=0)


def _scale(axes: Any, unit: str) -> None:
    if unit == PER_CENT:
        axes.set(yscale="log")
        axes.set_yticks(TICKS, list(map(str, TICKS)))
        axes.minorticks_off()
    axes.grid()


def _legend(panel: Any) -> list[tuple[Any, str]]:
    return list(zip(*panel.get_legend_handles_labels(), strict=True))
