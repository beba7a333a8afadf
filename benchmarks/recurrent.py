"""Short windows with synthetic gradients: what they cost, and what they learn.

``python -m benchmarks.recurrent cost`` takes an LSTM (256 units, batch 64) through one
sequence, in windows of different lengths: time per sequence, and the peak memory of a
window. Arms: truncated BPTT, DNI by :func:`dni.windows`, and the same arithmetic written
out in torch only. ``rows``, ``copy`` and ``penn`` train the examples of these names, all
arms at one size, and report what they learnt. Every finished run is a line in a file; a
benchmark that was stopped goes on where it was.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import dni
from benchmarks import measure, recurrent_report
from dni._objective import PRIOR, RATE
from examples.copy_task import main as copy_task
from examples.data import load as load_images
from examples.penn_treebank import main as penn_treebank
from examples.recurrent import Arm
from examples.row_mnist import main as row_mnist
from examples.text import load as load_text

UNITS, BATCH, FEATURES, STEPS = 256, 64, 64, 100


# -- cost ----------------------------------------------------------------------------


class Sequence:
    """One pass over a sequence in windows; subclasses say what a window is."""

    def __init__(self, window: int) -> None:
        torch.manual_seed(0)
        self.size = window
        self.core, self.readout = nn.LSTM(FEATURES, UNITS), nn.Linear(UNITS, FEATURES)
        self.x, self.y = torch.randn(STEPS, BATCH, FEATURES), torch.randn(STEPS, BATCH, FEATURES)
        self.synthesizer = dni.BasicSynthesizer(2 * UNITS)
        self.interface: dni.BackwardInterface | None = None

    def loss(self, x: Tensor, y: Tensor, state: Any) -> tuple[Tensor, Any]:
        """A window's loss, and the state after it."""
        output, state = self.core(x, state)
        return F.mse_loss(self.readout(output), y), state

    def run(self) -> None:
        """The whole sequence; gradients add up."""
        for window in dni.windows(self.x, self.y, size=self.size, interface=self.interface):
            window.backward(*self.loss(*window, window.state))

    def clear(self) -> None:
        """Forget the gradients."""
        for module in (self.core, self.readout, self.synthesizer):
            module.zero_grad()

    def step(self) -> None:
        """Gradients from nothing."""
        self.clear()
        self.run()


class Decoupled(Sequence):
    """With our interface."""

    def __init__(self, window: int) -> None:
        super().__init__(window)
        self.interface = dni.BackwardInterface(self.synthesizer)


class ByHand(Sequence):
    """The arithmetic of :class:`Decoupled`, without the library."""

    def run(self) -> None:
        """Steps 1 to 3 of :mod:`dni.recurrent.windows`."""
        moments, state = torch.full((2,), PRIOR), None
        parts = list(zip(self.x.split(self.size), self.y.split(self.size), strict=True))
        for index, (x, y) in enumerate(parts):
            if index:  # the state as a leaf, and what is predicted for it
                state = tuple(part.detach().requires_grad_() for part in state)
                found, start = moments.clone(), state
                predicted = self.synthesizer(torch.cat([part.detach() for part in start], -1))
            loss, state = self.loss(x, y, state)
            pairs: list[tuple[Tensor, Tensor | None]] = [(loss, None)]
            if index < len(parts) - 1:  # the synthetic gradient of the last state
                with torch.no_grad():
                    output = self.synthesizer(torch.cat([part.detach() for part in state], -1))
                    sent = output * (moments[0] / moments[1]).sqrt()
                pairs += zip(state, sent.split(UNITS, -1), strict=True)
            torch.autograd.backward(*zip(*pairs, strict=True))
            if index:  # learn the real one
                real = torch.cat([part.grad for part in start], -1)
                moments = self.learn(predicted, real, found, moments)
        last = torch.cat([part.detach() for part in state], -1)
        self.learn(self.synthesizer(last), torch.zeros_like(last), moments.clone(), moments)

    def learn(self, predicted: Tensor, real: Tensor, found: Tensor, moments: Tensor) -> Tensor:
        """The regression; returns the new moments."""
        mean_square = real.square().mean()
        if not torch.isfinite(mean_square):
            raise FloatingPointError
        new = torch.stack((mean_square, torch.ones_like(mean_square)))
        square, weight = torch.lerp(found, new, RATE)
        F.mse_loss(predicted, real / (square / weight).sqrt()).backward()
        return moments + RATE * (new - found)


COSTS = {"BPTT": Sequence, "DNI": Decoupled, "by hand": ByHand}


def cost(arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """Time and memory against the length of the window."""
    rows = []
    print(f"{'window':>6s} {'arm':8s} {'ms/sequence':>12s} {'of by hand':>11s} {'peak MiB':>9s}")
    for window in arguments.windows or (1, 2, 5, 10, 20, 50, 100):
        arms = {name: kind(window) for name, kind in COSTS.items()}
        times = measure.in_turns({name: arm.step for name, arm in arms.items()}, arguments.turns, 3)
        for name, arm in arms.items():
            gradient = float(arm.core.weight_hh_l0.grad.norm())
            arm.clear()  # what is there already must not be freed within the step
            result = {
                "window": window,
                "arm": name,
                "ms": statistics.median(times[name]),
                "of by hand": measure.ratio(times[name], times["by hand"]),
                "peak MiB": measure.peak_memory(arm.run),
                "gradient": gradient,
            }
            rows.append(result)
            print(
                f"{window:6d} {name:8s} {result['ms']:12.2f} {result['of by hand']:11.3f} "
                f"{result['peak MiB']:9.2f}",
                flush=True,
            )
    return rows


# -- learning ------------------------------------------------------------------------

Train = Callable[[Arm, int], dict[str, Any]]  # an arm and a seed: what came out
Job = tuple[str, Arm, Train]


def rows(arguments: argparse.Namespace) -> Iterator[Job]:
    """Digits row by row: accuracy after 1200 batches of 100."""
    train, full = row_training(arguments)
    for window in arguments.windows or (1, 2, 7, 14):
        for arm in arms(Arm(window, hidden=512)):
            yield arm.name, arm, train
    yield "BPTT", Arm(full), train


def trials(arguments: argparse.Namespace) -> Iterator[Job]:
    """Digits row by row, one thing changed: accuracy after 1200 batches of 100."""
    train, _ = row_training(arguments)
    changes: tuple[dict[str, Any], ...] = (
        {},
        {"aux": 0.01},
        {"aux": 0.1},
        {"aux": 1.0},
        {"context": False},
        {"centered": False},
        {"centered": False, "context": False},
        {"normalize": False},
        {"hidden": 0},
        {"hidden": 128},
        {"synthesizer_lr": 3e-4},
        {"synthesizer_lr": 3e-3},
        {"synthesizer_lr": 1e-2},
        {"factor": 0.5},
    )
    for window in arguments.windows or (2, 7):
        base = Arm(window, dni=True, context=True, hidden=512)
        for change in changes:
            name = ", ".join(f"{key}={value}" for key, value in change.items()) or "cDNI"
            yield name, replace(base, **change), train
        yield "a step after each window", base, partial(train, each_window=True)


def row_training(arguments: argparse.Namespace) -> tuple[Callable[..., dict[str, Any]], int]:
    """How an arm is trained, and how many rows an image has."""
    data = load_images(arguments.data)

    def train(arm: Arm, seed: int, each_window: bool = False) -> dict[str, Any]:
        steps = arguments.steps or 1200
        outcome = row_mnist.train(arm, data, steps, 100, seed, each_window)
        cosines = {step: measured.cosine for step, measured in outcome.cuts.items()}
        return {"score": 100 - outcome.test_error, "cosine": cosines}

    return train, data.train_x.shape[2]


def copy(arguments: argparse.Namespace) -> Iterator[Job]:
    """Copy: the longest sequence solved after 10,000 batches of 32."""

    def train(arm: Arm, seed: int) -> dict[str, Any]:
        outcome = copy_task.train(arm, arguments.steps or 10_000, 32, seed)
        return {"score": outcome.solved, "curve": outcome.curve, "cosine": outcome.cosine}

    for window in arguments.windows or (2, 3, 4, 5):
        for arm in arms(Arm(window, lr=2e-3, synthesizer_lr=3e-3)):
            yield arm.name, arm, train
    yield "BPTT", Arm(10_000, lr=2e-3), train


def penn(arguments: argparse.Namespace) -> Iterator[Job]:
    """Characters: bits per character after 30,000 windows of 5, or as much text in longer ones."""
    corpus, steps = load_text(arguments.data, "char"), arguments.steps or 30_000

    def train(arm: Arm, seed: int) -> dict[str, Any]:
        found = {}
        for key, count in (("score", steps * 5 // arm.window), ("equal steps", steps)):
            flags = penn_treebank.options().parse_args(["--seed", str(seed)])
            vars(flags).update(asdict(arm) | {"steps": count})
            if arm.window == 5 and found:
                break
            run = penn_treebank.Run(corpus, flags)
            found[key] = penn_treebank.train(run, count, count // 24).bits
        return found | {"curve": run.curve}

    for window in arguments.windows or (5, 8):
        plain = Arm(window, lr=1e-3, synthesizer_lr=3e-4, hidden=512)
        for arm in arms(plain) if window == 5 else [plain]:
            yield arm.name, arm, train


def arms(plain: Arm) -> Iterator[Arm]:
    """Truncated BPTT; DNI and cDNI, each also with the auxiliary task."""
    yield plain
    for context in (False, True):
        for aux in (0.0, 0.1):
            yield replace(plain, dni=True, context=context, aux=aux)


def learn(task: Callable[..., Iterator[Job]], arguments: argparse.Namespace) -> None:
    """Train every arm with every seed, but for what the file has already."""
    path: Path = arguments.json.with_suffix(".jsonl")
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []
    jobs = [job for job in task(arguments) if job[0] in (arguments.arms or [job[0]])]
    wanted = []
    for seed in range(arguments.seeds):
        for name, arm, train in jobs:
            what = {"data": arguments.data, "steps": arguments.steps, "seed": seed}
            key = {"name": name, "arm": asdict(arm), **what}
            line = next((line for line in lines if line | key == line), None)
            if line is None:
                line = key | train(arm, seed)
                with path.open("a") as file:
                    file.write(json.dumps(line) + "\n")
                print(f"window {arm.window}, {name}, seed {seed}: {line['score']:.4g}", flush=True)
            wanted.append(line)
    recurrent_report.table(wanted)
    measure.write(arguments.json, arguments, wanted)
    title = (task.__doc__ or "").rstrip(".")
    label = "full unroll" if task in (rows, copy) else ""
    found, level = recurrent_report.apart(recurrent_report.scores(wanted), label)
    recurrent_report.draw_scores(found, title, arguments.json.with_suffix(".png"), level)


def main() -> None:
    """Run what the command line asks for."""
    tasks = {"cost": cost, "rows": rows, "trials": trials, "copy": copy, "penn": penn}
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("task", choices=tuple(tasks))
    parser.add_argument("--windows", type=int, nargs="+")
    parser.add_argument("--arms", nargs="+", help='some of BPTT, DNI, "DNI + aux", cDNI, ...')
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, help="of training; else what the task's table has")
    parser.add_argument("--data", help="as for the example")
    parser.add_argument("--turns", type=int, default=10, help="of the cost")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    arguments.json = arguments.json or Path(f"results/recurrent-{arguments.task}.json")
    torch.set_num_threads(arguments.threads)
    if arguments.task == "cost":
        found = cost(arguments)
        measure.write(arguments.json, arguments, found)
        recurrent_report.draw_cost(found, arguments.json.with_suffix(".png"))
    else:
        learn(tasks[arguments.task], arguments)
    print(arguments.json)


if __name__ == "__main__":
    main()
