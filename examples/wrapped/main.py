"""One line decouples every leaf of a network, and no optimiser steps in the loop.

Three tasks: digits with a fully connected and with a convolutional network, and copying a
sequence with an LSTM. ``dni.DNI`` wraps each of them; the weights move while
``loss.backward()`` runs. ``--share``, which the wrapper calls λ, is the share of
backpropagation in what they learn from.
"""

from __future__ import annotations

import argparse
import math
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm import tqdm

import dni
from examples import data, training
from examples.copy_task.main import SILENT, SYMBOLS, Curriculum


def fully_connected(pixels: int, width: int = 256) -> nn.Sequential:
    """Three hidden layers."""
    layers: list[nn.Module] = [nn.Flatten()]
    for inputs in (pixels, width, width):
        layers += [nn.Linear(inputs, width), nn.BatchNorm1d(width), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(width, data.CLASSES))


def convolutional(side: int, channels: int = 32) -> nn.Sequential:
    """Two convolutions with pooling."""
    layers: list[nn.Module] = []
    for inputs in (1, channels):
        layers += [nn.Conv2d(inputs, channels, 5, padding=2), nn.BatchNorm2d(channels)]
        layers += [nn.ReLU(), nn.MaxPool2d(2)]
    return nn.Sequential(
        *layers, nn.Flatten(), nn.Linear(channels * (side // 4) ** 2, data.CLASSES)
    )


class Copier(nn.Module):
    """An LSTM with a linear readout."""

    def __init__(self, units: int = 128) -> None:
        super().__init__()
        self.core = nn.LSTM(SYMBOLS + 2, units)
        self.readout = nn.Linear(units, SYMBOLS + 1)

    def forward(self, x: Tensor) -> Tensor:
        """Scores ``(time, batch, symbols)``."""
        return self.readout(self.core(x)[0])


def wrap(network: nn.Module, arguments: argparse.Namespace) -> dni.DNI:
    """The one line, with a rate for the network and a faster one for its synthesizers."""
    settings = {
        "optim": partial(torch.optim.Adam, lr=arguments.lr),
        "grad_lr": training.faster(arguments),
        "hidden_size": arguments.hidden,
        "λ": arguments.share,
    }
    if arguments.context:
        return dni.CDNI(network, classes=data.CLASSES, **settings)
    return dni.DNI(network, **settings)


@dataclass
class Outcome:
    """What a run gave."""

    score: float
    unit: str

    def as_dict(self) -> dict[str, object]:
        """For JSON."""
        return vars(self)


def classify(arguments: argparse.Namespace) -> Outcome:
    """Test error after ``--steps`` batches of digits."""
    images = data.load(arguments.data).to(arguments.device)
    side = images.train_x.shape[-1]
    fcn = arguments.task == "fcn"
    network = fully_connected(side**2) if fcn else convolutional(side)
    net = wrap(network.to(arguments.device), arguments)
    batches = torch.Generator().manual_seed(arguments.seed)
    for _ in tqdm(range(arguments.steps), arguments.task, leave=False, disable=None):
        index = torch.randint(len(images.train_y), (arguments.batch,), generator=batches)
        x, y = images.train_x[index], images.train_y[index]
        with dni.synthesizer_context(y if arguments.context else None):
            loss = F.cross_entropy(net(x), y)
        loss.backward()
    error = training.error_rate(net, images, takes_labels=False)
    return Outcome(round(error, 2), f"test error in % on {images.name}")


def copy(arguments: argparse.Namespace) -> Outcome:
    """The longest sequence that ``--steps`` batches taught to copy."""
    net = wrap(Copier().to(arguments.device), arguments)
    batches = torch.Generator().manual_seed(arguments.seed)
    curriculum = Curriculum(repeat=False)
    for _ in tqdm(range(arguments.steps), "copy", leave=False, disable=None):
        x, y = (part.to(arguments.device) for part in curriculum.batch(arguments.batch, batches))
        loss = F.cross_entropy(net(x).flatten(0, 1), y.flatten(), ignore_index=SILENT)
        loss.backward()
        curriculum.advance(float(loss.detach()) / math.log(2))
    return Outcome(curriculum.solved, "longest solved sequence")


def main() -> None:
    """Train with the options of the command line."""
    parser = training.options("dni.DNI around whole networks")
    parser.add_argument("--task", choices=("fcn", "cnn", "copy"), default="fcn")
    parser.add_argument("--share", type=float, default=0.5, help="of backpropagation: 0 to 1")
    parser.add_argument("--context", action="store_true", help="condition on labels: dni.CDNI")
    parser.add_argument("--hidden", type=int, default=64, help="of the synthesizers")
    parser.add_argument("--synthesizer-lr", type=float, help="ten times --lr if left out")
    parser.set_defaults(steps=600, batch=64)
    arguments = training.parse(parser)
    if arguments.context and arguments.task == "copy":
        parser.error("--context conditions on the labels of images: --task fcn or cnn")
    torch.manual_seed(arguments.seed)
    outcome = copy(arguments) if arguments.task == "copy" else classify(arguments)
    print(f"{arguments.task}, λ={arguments.share:g}: {outcome.unit} {outcome.score:g}")
    if arguments.json:
        training.write_json(arguments.json, arguments, {arguments.task: [outcome]})


if __name__ == "__main__":
    main()
