"""Copy a sequence after its end: dependencies longer than the window, on a curriculum.

The network reads a start mark, ``N`` symbols and a mark that says how often to repeat
them, ``R``. Then it writes the symbols ``R`` times, and an end mark. That makes
``(R + 1) N + 3`` steps, with a loss on what is written. When it solves a batch (under 0.15
bits per symbol), the next sequence is longer; the longest solved sequence is the result.
Truncated BPTT stops a little beyond its window.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm import tqdm

import dni
from dni.diagnostics import Monitor
from examples import recurrent, training

SYMBOLS = 8
START, REPEAT = SYMBOLS, SYMBOLS + 1  # inputs beside the symbols
END = SYMBOLS  # the output beside them
SOLVED = 0.15  # bits per symbol
AHEAD = 24  # steps to come whose targets a synthesizer with context is told
SILENT = -100  # a target where nothing is written


@dataclass
class Curriculum:
    """The paper's schedule of ``N`` symbols, repeated ``R`` times: longer when solved."""

    repeat: bool
    symbols: int = 1
    repeats: int = 1
    solved: int = 0

    @property
    def length(self) -> int:
        """Steps of a sequence."""
        return (self.repeats + 1) * self.symbols + 3

    def batch(self, rows: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Inputs ``(length, rows, SYMBOLS + 2)`` and targets ``(length, rows)``."""
        symbols = torch.randint(SYMBOLS, (self.symbols, rows), generator=generator)
        inputs = torch.zeros(self.length, rows, SYMBOLS + 2)
        inputs[0, :, START] = 1
        inputs[1 : self.symbols + 1] = F.one_hot(symbols, SYMBOLS + 2)
        inputs[self.symbols + 1, :, REPEAT] = self.repeats
        targets = torch.full((self.length, rows), SILENT)
        targets[self.symbols + 2 : -1] = symbols.repeat(self.repeats, 1)
        targets[-1] = END
        return inputs, targets

    def advance(self, bits: float) -> None:
        """Note the result of a batch."""
        if bits >= SOLVED:
            return
        self.solved = self.length
        if self.repeat and self.repeats < self.symbols:
            self.repeats += 1
        else:
            self.symbols, self.repeats = self.symbols + 1, 1


class Network(nn.Module):
    """An LSTM with a linear readout."""

    def __init__(self, units: int) -> None:
        super().__init__()
        self.core = nn.LSTM(SYMBOLS + 2, units)
        self.readout = nn.Linear(units, SYMBOLS + 1)


@dataclass
class Outcome:
    """The longest solved sequence; ``curve`` holds ``(step, solved)``."""

    solved: int
    seconds: float
    curve: list[tuple[int, int]]
    cosine: float | None

    def as_dict(self) -> dict[str, object]:
        """For JSON."""
        return vars(self)


def train(
    arm: recurrent.Arm,
    steps: int,
    batch: int,
    seed: int,
    repeat: bool = False,
    units: int = 128,
    device: str = "cpu",
    title: str = "train",
) -> Outcome:
    """Train on ``steps`` batches, with a step of the optimiser after each."""
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    model = Network(units).to(device)
    helpers = recurrent.Helpers(arm, 2 * units, AHEAD * (SYMBOLS + 1)).to(device)
    optimizer = recurrent.optimizer(model, helpers, arm)
    curriculum, curve, monitor, start = Curriculum(repeat), [], None, time.perf_counter()
    for step in tqdm(range(1, steps + 1), title, leave=False, disable=None):
        if step == steps - steps // 10:
            monitor = Monitor(helpers)
        inputs, targets = (part.to(device) for part in curriculum.batch(batch, generator))
        written, total = int((targets != SILENT).sum()), 0.0
        to_come = targets_to_come(targets) if arm.context else None
        for window in dni.windows(
            inputs,
            targets,
            size=arm.window,
            interface=helpers.interface,
            auxiliary=helpers.auxiliary,
        ):
            x, y = window
            output, state = model.core(x, window.state)
            scores = model.readout(output)
            loss = F.cross_entropy(scores.flatten(0, 1), y.flatten(), reduction="sum") / batch
            context = to_come(window.start + len(x)) if to_come else None
            with dni.synthesizer_context(context):
                window.backward(loss, state)
            total += loss.item() * batch
        optimizer.step()
        optimizer.zero_grad()
        curriculum.advance(total / written / math.log(2))
        if step % max(1, steps // 50) == 0 or step == steps:
            curve.append((step, curriculum.solved))
    cosine = monitor.read()["interface"].cosine if arm.dni and monitor else None
    return Outcome(curriculum.solved, time.perf_counter() - start, curve, cosine)


def targets_to_come(targets: Tensor) -> Callable[[int], Tensor]:
    """For each step: the next targets as one-hot vectors, side by side; 0 where there is none."""
    told = F.one_hot(targets.clamp_min(0), SYMBOLS + 1) * (targets != SILENT).unsqueeze(-1)
    told = F.pad(told.float(), (0, 0, 0, 0, 0, AHEAD))

    def at(step: int) -> Tensor:
        return told[step : step + AHEAD].transpose(0, 1).flatten(1)

    return at


def main() -> None:
    """Train with the options of the command line."""
    parser = recurrent.options(__doc__.splitlines()[0], window=3, data=argparse.SUPPRESS)
    parser.set_defaults(steps=10000, batch=32, lr=2e-3, synthesizer_lr=3e-3)
    parser.add_argument("--repeat", action="store_true", help="repeat copy: R grows up to N")
    parser.add_argument("--units", type=int, default=128)
    arguments = recurrent.parse(parser)
    arm = recurrent.Arm.of(arguments)
    outcome = train(
        arm,
        arguments.steps,
        arguments.batch,
        arguments.seed,
        arguments.repeat,
        arguments.units,
        arguments.device,
    )
    task = "repeat copy" if arguments.repeat else "copy"
    print(f"{task}, windows of {arm.window}, {arm.name}: solved up to length {outcome.solved}")
    if arguments.json:
        training.write_json(arguments.json, arguments, {arm.name: [outcome]})


if __name__ == "__main__":
    main()
