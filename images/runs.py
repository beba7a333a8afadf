"""Pictures of two short trainings on the digits that scikit-learn carries.

Three layers of 256 (linear, batch norm, ReLU), a cut after each, the network at 3e-4 and its
synthesizers at 3e-3, as in the demo. Every run starts from the same seed.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any, NamedTuple

import matplotlib.pyplot as plt
import torch
import torch.nn.functional as F
from torch import nn

import dni
from dni.diagnostics import Monitor
from examples import pictures, training
from examples.data import CLASSES, load
from examples.pictures import BLACK, BLUE, GRAY, GREEN, ORANGE, WIDE
from images.sheet import FOLDER

STEPS, EVERY, BATCH, SEED = 600, 20, 128, 0
CUTS = (ORANGE, GREEN, BLUE)  # the first to the last


class Run(NamedTuple):
    """What was seen every so many steps."""

    steps: list[int]
    errors: list[float]
    cosines: dict[str, list[float]]  # by cut, the mean since the last look


def train(labels: bool, observe: int = 0) -> Run:
    """Train; for the first ``observe`` steps by backpropagation, while synthesizers watch."""
    torch.manual_seed(SEED)
    torch.set_num_threads(1)
    data = load(None)
    widths = (data.train_x[0].numel(), 256, 256, 256)
    layers = [
        layer
        for i, o in pairwise(widths)
        for layer in (nn.Linear(i, o), nn.BatchNorm1d(o), nn.ReLU())
    ]
    model = nn.Sequential(nn.Flatten(), *layers, nn.Linear(256, CLASSES))
    dni.decouple(
        model, at=nn.ReLU, context_classes=CLASSES if labels else None,
        mix=1.0 if observe else 0.0, sample=data.train_x[:2],
    )  # fmt: skip
    rates = {3e-4: dni.base_parameters(model), 3e-3: dni.synthesizer_parameters(model)}
    optimizer = torch.optim.Adam([{"params": group, "lr": lr} for lr, group in rates.items()])
    batches = torch.Generator().manual_seed(SEED)
    steps, errors = [], []
    with Monitor(model) as monitor:
        for step in range(1, STEPS + 1):
            index = torch.randint(len(data.train_y), (BATCH,), generator=batches)
            x, y = data.train_x[index], data.train_y[index]
            optimizer.zero_grad()
            with dni.synthesizer_context(y if labels else None):
                F.cross_entropy(model(x), y).backward()
            optimizer.step()
            if step == observe:
                for interface in dni.interfaces_of(model).values():
                    interface.mix = 0.0
            if step % EVERY == 0:
                steps.append(step)
                errors.append(training.error_rate(model, data, takes_labels=False))
                monitor.read()
        seen = monitor.history().values()
    names = [f"cut {number}" for number, _ in enumerate(seen, 1)]
    cosines = [[measured.cosine for measured in one] for one in seen]
    return Run(steps, errors, dict(zip(names, cosines, strict=True)))


def observing() -> None:
    """Backpropagation while the synthesizers watch; then what they say instead."""
    half = STEPS // 2
    run = train(labels=True, observe=half)
    figure, (top, low) = plt.subplots(
        2, figsize=(WIDE, 4.4), sharex=True, layout="constrained", height_ratios=(1, 1.1)
    )
    top.plot(run.steps, run.errors, color=BLACK)
    top.set(ylabel="test error, %", yscale="log")
    top.set_yticks((1, 2, 5, 10, 20), ("1", "2", "5", "10", "20"))
    top.minorticks_off()
    _cosines(low, run)
    for axes in (top, low):
        axes.axvline(half, color=GRAY, linestyle="--", linewidth=1.2)
        axes.grid()
    words = (("mix = 1: observing", half / 2), ("mix = 0: decoupled", 1.5 * half))
    for word, step in words:
        top.text(step, 1.03, word, ha="center", va="bottom", transform=top.get_xaxis_transform())
    low.set(xlabel="step")
    low.legend(loc="lower right", ncols=3)
    pictures.save(figure, FOLDER / "observing.svg")
    before = run.steps.index(half)
    say("observing, at the switch", run, before)
    say("observing, at the end", run)


def measuring() -> None:
    """The cosine at each cut, without labels and with them."""
    figure, panels = plt.subplots(1, 2, figsize=(WIDE, 3.2), sharey=True, layout="constrained")
    for axes, labels in zip(panels, (False, True), strict=True):
        name = "with labels" if labels else "without labels"
        run = train(labels)
        _cosines(axes, run)
        axes.set(title=name, xlabel="step")
        axes.grid()
        say(f"measuring, {name}", run)
    panels[1].set_ylabel("")
    panels[0].legend()
    pictures.save(figure, FOLDER / "measuring.svg")


def _cosines(axes: Any, run: Run) -> None:
    for (name, cosines), color in zip(run.cosines.items(), CUTS, strict=True):
        axes.plot(run.steps, cosines, color=color, label=name)
    axes.set(ylabel="cosine", ylim=(0, 1))


def say(name: str, run: Run, place: int = -1) -> None:
    """The numbers of one look."""
    cosines = ", ".join(f"{seen[place]:.2f}" for seen in run.cosines.values())
    print(
        f"{name}: step {run.steps[place]}, test error {run.errors[place]:.2f} %, cosines {cosines}"
    )


FIGURES = {"observing": observing, "measuring": measuring}
