"""Tables and a picture, made from the files of finished runs."""

from __future__ import annotations

import statistics
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

from benchmarks.evidence.run import Run

TICKS = (1, 2, 5, 10, 20, 50)
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


def table(found: Outcomes) -> str:
    """Mean test error, half the range over the seeds, and their number; an rst table.

    An arm that no network has run yet is left out.
    """
    networks = list(dict.fromkeys(network for network, _ in found))
    rows = [["test error, %", *networks]]
    for arm in dict.fromkeys(arm for (_, arm), seeds in found.items() if seeds):
        rows.append([arm, *(_cell(found.get((network, arm), [])) for network in networks)])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    rule = "  ".join("=" * width for width in widths)
    lines = ["  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)) for row in rows]
    return "\n".join([rule, lines[0].rstrip(), rule, *map(str.rstrip, lines[1:]), rule])


def _cell(seeds: list[dict[str, Any]]) -> str:
    errors = [one["error"] for one in seeds]
    if not errors:
        return "not run"
    if len(errors) == 1:
        return f"{errors[0]:.2f} (1)"
    spread = (max(errors) - min(errors)) / 2
    return f"{statistics.mean(errors):.2f} ±{spread:.2f} ({len(errors)})"


def picture(found: Outcomes, path: Path) -> None:
    """Test error over the steps: a panel per network, a line per arm, a band over the seeds."""
    networks = list(dict.fromkeys(network for network, _ in found))
    figure, panels = plt.subplots(
        1, len(networks), figsize=(3.2 * len(networks), 3.4), sharey=True, squeeze=False
    )
    arms = list(dict.fromkeys(arm for _, arm in found))
    for panel, network in zip(panels[0], networks, strict=True):
        for number, arm in enumerate(arms):
            seeds = found.get((network, arm))
            if not seeds:
                continue
            steps = [step for step, _ in seeds[0]["curve"]]
            errors = list(zip(*([e for _, e in one["curve"]] for one in seeds), strict=True))
            colour = f"C{number % 10}"
            panel.plot(steps, [statistics.mean(e) for e in errors], color=colour, label=arm)
            panel.fill_between(
                steps, list(map(min, errors)), list(map(max, errors)), alpha=0.2, color=colour
            )
        panel.set(title=network, xlabel="step", yscale="log")
        panel.set_yticks(TICKS, list(map(str, TICKS)))
        panel.minorticks_off()
        panel.grid(alpha=0.3)
    panels[0][0].set_ylabel("test error, %")
    handles = {text: line for panel in panels[0] for line, text in _legend(panel)}
    figure.legend(list(handles.values()), list(handles), ncols=5, loc="outside lower center")
    figure.set_layout_engine("constrained")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)
    plt.close(figure)


def _legend(panel: Any) -> list[tuple[Any, str]]:
    return list(zip(*panel.get_legend_handles_labels(), strict=True))
