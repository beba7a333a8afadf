"""Decouple a network that you did not write, and change one word to compare.

A ResNet for digits and a transformer for text (``networks.py`` knows nothing of ``dni``) are
cut into four parts by one call each. The word is ``--learn``: ``backprop`` attaches nothing,
``dni`` predicts gradients from activations, ``cdni`` from activations and labels, ``local``
gives each part a loss of its own, ``nothing`` leaves the lower parts as they are.
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
from dni.diagnostics import Measurement, Monitor
from examples import data, text, training
from examples.decouple_any.networks import ResNet18, Transformer

LEARN = ("backprop", "dni", "cdni", "local", "nothing")
WINDOW = 64  # characters


@dataclass
class Task:
    """A plain network and what it is for."""

    name: str
    network: nn.Module
    at: str  # the ends of its first three parts
    classes: int
    batch: Callable[[], tuple[Tensor, Tensor]]
    score: Callable[[], float]
    unit: str


def digits(arguments: argparse.Namespace, generator: torch.Generator) -> Task:
    """A ResNet-18 for images; its score is the test error."""
    images = data.load(arguments.data).to(arguments.device)
    network = ResNet18(width=arguments.width or 16).to(arguments.device)

    def batch() -> tuple[Tensor, Tensor]:
        index = torch.randint(len(images.train_y), (arguments.batch,), generator=generator)
        return images.train_x[index], images.train_y[index]

    def score() -> float:
        return training.error_rate(network, images, takes_labels=False)

    return Task(images.name, network, "layer[123]", data.CLASSES, batch, score, "% test error")


def language(arguments: argparse.Namespace, generator: torch.Generator) -> Task:
    """A transformer for characters; its score is in bits per character."""
    corpus = text.load(arguments.data, "char")
    size = len(corpus.tokens)
    network = Transformer(size, arguments.width or 64, layers=4, longest=WINDOW)
    network.to(arguments.device)

    def cut(tokens: Tensor, starts: Tensor) -> tuple[Tensor, Tensor]:
        windows = tokens[starts[:, None] + torch.arange(WINDOW + 1)].to(arguments.device)
        return windows[:, :-1], windows[:, 1:]

    def batch() -> tuple[Tensor, Tensor]:
        last = len(corpus.train) - WINDOW
        return cut(corpus.train, torch.randint(last, (arguments.batch,), generator=generator))

    @torch.no_grad()
    def score() -> float:
        starts = torch.arange(0, len(corpus.test) - WINDOW, WINDOW)
        losses = [
            len(part) * loss_of(network(x), y)
            for part in starts.split(100)
            for x, y in (cut(corpus.test, part),)
        ]
        return float(sum(losses)) / len(starts) / math.log(2)

    return Task(corpus.name, network, "layers.[012]", size, batch, score, "bits per character")


def loss_of(scores: Tensor, y: Tensor) -> Tensor:
    """Cross-entropy, of images or of tokens."""
    return F.cross_entropy(scores.flatten(0, -2), y.flatten())


def decouple(task: Task, learn: str, sample: Tensor) -> None:
    """The one word says what stands after each of the first three parts."""
    if learn == "backprop":
        return
    synthesizers: dict[str, Callable[[Tensor], nn.Module]] = {
        "dni": dni.synthesizer_for,
        "cdni": lambda h: dni.synthesizer_for(h, context_classes=task.classes),
        "local": lambda h: dni.LocalLossSynthesizer(head_for(h, task.classes), loss_of),
        "nothing": lambda h: Silent(),
    }
    dni.decouple(task.network, task.at, synthesizers[learn], sample=sample)


class Silent(nn.Module):
    """Predicts nothing: what lies below the cut stays as it is."""

    def forward(self, trigger: Tensor, context: object = None) -> Tensor:
        """Zeros."""
        return torch.zeros_like(trigger)


def head_for(h: Tensor, classes: int) -> nn.Module:
    """A small classifier of maps, or of tokens."""
    if h.dim() == 4:
        pool = (nn.AdaptiveAvgPool2d(1), nn.Flatten())
        return nn.Sequential(*pool, nn.Linear(h.shape[1], classes))
    return nn.Linear(h.shape[-1], classes)


@dataclass
class Outcome:
    """The score, and what the interfaces predicted in the last tenth of the run."""

    score: float
    unit: str
    ms_per_step: float
    cuts: dict[str, Measurement]

    def as_dict(self) -> dict[str, object]:
        """For JSON."""
        return vars(self) | {"cuts": {name: cut._asdict() for name, cut in self.cuts.items()}}


def train(task: Task, arguments: argparse.Namespace) -> Outcome:
    """The plain loop, with the labels as context for the synthesizers that take them."""
    network, rate = task.network, arguments.synthesizer_lr
    if rate is None:  # heads learn like a network; what predicts gradients has to be faster
        rate = arguments.lr * (1 if arguments.learn == "local" else training.FASTER)
    groups = [{"params": dni.base_parameters(network), "lr": arguments.lr}]
    if arguments.learn != "backprop":
        groups.append({"params": dni.synthesizer_parameters(network), "lr": rate})
    optimizer = torch.optim.Adam(groups)
    spent = 0.0
    with Monitor(network) as monitor:
        for step in tqdm(range(1, arguments.steps + 1), arguments.learn, leave=False, disable=None):
            x, y = task.batch()
            start = time.perf_counter()
            optimizer.zero_grad()
            with dni.synthesizer_context(y if arguments.learn in ("cdni", "local") else None):
                loss_of(network(x), y).backward()
            optimizer.step()
            spent += time.perf_counter() - start
            if step == arguments.steps - max(1, arguments.steps // 10):
                monitor.read()
        cuts = monitor.read()
    network.eval()
    outcome = Outcome(task.score(), task.unit, 1000 * spent / arguments.steps, cuts)
    print(f"{task.name}, {arguments.learn}: {outcome.score:.2f} {task.unit}")
    if cuts:
        print(monitor.table())
    return outcome


def main() -> None:
    """Train with the options of the command line."""
    parser = training.options("Any network, cut into four parts by one call", help_on_data())
    parser.add_argument("--network", choices=("resnet", "transformer"), default="resnet")
    parser.add_argument("--learn", choices=LEARN, default="cdni")
    parser.add_argument("--width", type=int, help="16 for the ResNet, 64 for the transformer")
    parser.add_argument(
        "--synthesizer-lr", type=float, help="left out: ten times --lr; local: --lr"
    )
    parser.set_defaults(steps=600, batch=64)
    arguments = training.parse(parser)

    torch.manual_seed(arguments.seed)
    generator = torch.Generator().manual_seed(arguments.seed)
    make = digits if arguments.network == "resnet" else language
    task = make(arguments, generator)
    sample, _ = task.batch()
    for problem in dni.validate(task.network, sample, task.at):
        print(problem)
    decouple(task, arguments.learn, sample)
    outcome = train(task, arguments)
    if arguments.json:
        training.write_json(arguments.json, arguments, {arguments.learn: [outcome]})


def help_on_data() -> str:
    """What ``--data`` means for the two tasks."""
    return "digits or docs, which need no network (default); mnist; a folder of data"


if __name__ == "__main__":
    main()
