"""An image, row by row: windows that end long before the loss begins.

An LSTM reads an image a row at a time and names its class after the last row. Truncated BPTT
over windows of two rows learns only from the last two, which are empty in most images: the
other windows have no loss at all. With an interface, those windows have the synthetic
gradient of their last state.
"""

from __future__ import annotations

import time
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm import tqdm

import dni
from dni.diagnostics import Monitor
from examples import recurrent, training
from examples.data import CLASSES, Images, load

UNITS = 64


class Network(nn.Module):
    """An LSTM over rows, and a linear classifier of its last output."""

    def __init__(self, columns: int) -> None:
        super().__init__()
        self.core = nn.LSTM(columns, UNITS, batch_first=True)
        self.readout = nn.Linear(UNITS, CLASSES)

    def forward(self, images: Tensor) -> Tensor:
        """Class scores of images ``(batch, rows, columns)``."""
        return self.readout(self.core(images)[0][:, -1])


def train(
    arm: recurrent.Arm,
    data: Images,
    steps: int,
    batch: int,
    seed: int,
    each_window: bool = False,
    title: str = "train",
) -> training.Outcome:
    """Train on ``steps`` batches; the optimiser steps after each batch, or after each window.

    The outcome's ``cuts`` are the states between windows: how good the predictions were
    there, in the last tenth of the run.
    """
    torch.manual_seed(seed)
    model = Network(data.train_x.shape[-1]).to(data.train_x.device)
    helpers = recurrent.Helpers(arm, 2 * UNITS, CLASSES).to(data.train_x.device)
    optimizer = recurrent.optimizer(model, helpers, arm)
    curve, predictions, monitor, spent = [], recurrent.Predictions(), None, 0.0
    for step, (x, y) in enumerate(batches(data, steps, batch, seed, title), 1):
        if step == steps - steps // 10:
            monitor = Monitor(helpers)
        start = time.perf_counter()
        labels = F.one_hot(y, CLASSES).to(x.dtype) if arm.context else None
        with dni.synthesizer_context(labels):
            for window in dni.windows(
                x,
                size=arm.window,
                interface=helpers.interface,
                auxiliary=helpers.auxiliary,
                batch_first=True,
            ):
                output, state = model.core(*window, window.state)
                scores = model.readout(output[:, -1])
                window.backward(F.cross_entropy(scores, y) if window.last else None, state)
                if each_window or window.last:
                    optimizer.step()
                    optimizer.zero_grad()
                if monitor:
                    predictions.add(window.start, monitor)
        spent += time.perf_counter() - start
        if step % max(1, steps // 10) == 0 or step == steps:
            curve.append((step, error_rate(model, data)))
    return training.Outcome(curve[-1][1], 1000 * spent / steps, predictions.means(), curve)


def batches(
    data: Images, steps: int, batch: int, seed: int, title: str
) -> Iterator[tuple[Tensor, Tensor]]:
    """``steps`` batches of images without their channel: epoch after epoch, each in a new order."""
    generator = torch.Generator().manual_seed(seed)
    order = torch.empty(0, dtype=torch.long)
    for _ in tqdm(range(steps), title, leave=False, disable=None):
        if len(order) < batch:
            order = torch.randperm(len(data.train_y), generator=generator)
        index, order = order[:batch], order[batch:]
        yield data.train_x[index, 0], data.train_y[index]


@torch.no_grad()
def error_rate(model: Network, data: Images) -> float:
    """The error on the test set, in per cent."""
    wrong = [
        (model(x[:, 0]).argmax(1) != y).sum()
        for x, y in zip(data.test_x.split(2000), data.test_y.split(2000), strict=True)
    ]
    return 100 * float(sum(wrong)) / len(data.test_y)


def main() -> None:
    """Train with the options of the command line."""
    parser = recurrent.options(__doc__.splitlines()[0], window=7)
    parser.set_defaults(steps=1200, batch=100, lr=1e-3)
    parser.add_argument(
        "--each-window", action="store_true", help="step the optimiser after each window"
    )
    arguments = recurrent.parse(parser)
    data = load(arguments.data).to(arguments.device)
    arm = recurrent.Arm.of(arguments)
    outcome = train(
        arm, data, arguments.steps, arguments.batch, arguments.seed, arguments.each_window
    )
    training.report(outcome, data.name)
    if arguments.json:
        training.write_json(arguments.json, arguments, {arm.name: [outcome]})


if __name__ == "__main__":
    main()
