"""A network in stages, each its own process, that train at the same time and survive a death.

You start this module, and each stage runs it too. Started by hand, it launches as many copies of
itself as there are stages, watches them, and tests the network that they trained.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import signal
import sys
import tempfile
from collections.abc import Iterator, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import dni
from dni import distributed
from examples import training
from examples.data import CLASSES, Images, load

LAYERS = 2  # of each stage
WIDTH = 256
COLUMNS = ("clock", "steps/s", "queue", "dropped", "rehearsed", "pause, s", "synth. loss", "cosine")
FORMATS = ("{:d}", "{:.1f}", "{:d}", "{:d}", "{:d}", "{:.2f}", "{:.3f}", "{:.2f}")
KEYS = ("clock", "steps_per_second", "queue", "dropped", "rehearsed", "longest_pause",
        "synthesizer_loss", "cosine")  # fmt: skip


def network(inputs: int, width: int, stages: int) -> nn.Sequential:
    """``LAYERS`` layers for each stage, and a linear one on top."""
    widths = [inputs] + [width] * (LAYERS * stages)
    layers = [
        nn.Sequential(nn.Linear(i, o), nn.BatchNorm1d(o), nn.ReLU())
        for i, o in itertools.pairwise(widths)
    ]
    return nn.Sequential(nn.Flatten(), *layers, nn.Linear(width, CLASSES))


def cuts(stages: int) -> list[str]:
    """The modules after which the network is cut."""
    return [str(LAYERS * stage) for stage in range(1, stages)]


def batches(
    data: Images, arguments: argparse.Namespace, start: int
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Images, labels, and labels for the synthesizers; from step ``start`` on."""
    for step in range(start, arguments.steps):
        generator = torch.Generator().manual_seed(arguments.seed * arguments.steps + step)
        index = torch.randint(len(data.train_y), (arguments.batch,), generator=generator)
        yield data.train_x[index].flatten(1), data.train_y[index], data.train_y[index]


def train(arguments: argparse.Namespace) -> None:
    """What each stage does."""
    torch.manual_seed(arguments.seed)
    data = load(arguments.data)
    stage = distributed.this_stage(
        network(data.train_x[0].numel(), arguments.width, arguments.stages),
        cuts(arguments.stages),
        sample=data.train_x[:2].flatten(1),
        optimizer=lambda own, synthesizers: torch.optim.Adam([*own, *synthesizers], arguments.lr),
        loss=F.cross_entropy,
        synthesizer=lambda h: dni.synthesizer_for(h, context_classes=CLASSES),
        input_synthesizer=predict_input if arguments.unlock == "complete" else None,
        queue=arguments.queue,
        checkpoints=arguments.checkpoints,
        checkpoint_every=50,
    )
    deaths = [step for number, step in arguments.kill if number == int(os.environ["DNI_STAGE"])]
    death = dict(enumerate(deaths, 1)).get(int(os.environ.get("DNI_LIFE", "1")))
    for clock in stage.train(batches(data, arguments, stage.clock)):
        if clock == death:
            os.kill(os.getpid(), signal.SIGKILL)


def predict_input(x: Tensor, h: Tensor) -> nn.Module:
    """For a complete unlock: predicts the activation ``h`` from images ``x``, without labels."""
    return LabelBlind(h.shape[-1], 1, 2 * h.shape[-1], trigger_dim=x.shape[-1])


class LabelBlind(dni.BasicSynthesizer):
    """Ignores the context: else the next stage would learn to read the label in its input."""

    def forward(self, trigger: Tensor, context: Tensor | None = None) -> Tensor:
        """The synthetic input."""
        return super().forward(trigger, None)


class Table:
    """How the stages do: redrawn in place on a terminal, printed once at the end in a pipe."""

    def __init__(self, live: bool) -> None:
        self.live = live
        self.seen: dict[int, Mapping[str, Any]] = {}
        self.drawn = 0

    def watch(self, view: Mapping[int, Mapping[str, Any]]) -> None:
        """Called by the launcher, now and then."""
        self.seen = {stage: dict(status) for stage, status in view.items()}
        if self.live:
            up = f"\x1b[{self.drawn}F\x1b[J" if self.drawn else ""
            print(up + self.text(), flush=True)
            self.drawn = len(self.seen) + 1

    def text(self) -> str:
        """A line for each stage."""
        lines = ["stage  life     pid" + "".join(f"{name:>12s}" for name in COLUMNS)]
        for stage, status in sorted(self.seen.items()):
            values = [
                "-" if status.get(key) is None else form.format(status[key])
                for key, form in zip(KEYS, FORMATS, strict=True)
            ]
            lives = f"{stage:5d}  {status.get('life', 0):4d} {status.get('pid', '-'):>7}"
            lines.append(lives + "".join(f"{value:>12s}" for value in values))
        return "\n".join(lines)


def parse() -> argparse.Namespace:
    """The command line; that of a stage is the same."""
    parser = training.options(
        "MNIST in stages, each a process, that train at once and survive a death"
    )
    parser.add_argument("--stages", type=int, default=3)
    parser.add_argument("--width", type=int, default=WIDTH)
    parser.add_argument("--unlock", choices=("update", "complete"), default="update")
    parser.add_argument("--queue", type=int, default=2, help="batches that may be unanswered")
    parser.add_argument(
        "--kill", type=death, action="append", default=[], metavar="STAGE@STEP",
        help="let a stage die at a step; again for its next life, or another stage",
    )  # fmt: skip
    parser.add_argument("--checkpoints", help="a folder; a temporary one if left out")
    parser.set_defaults(lr=1e-3)
    arguments = training.parse(parser)
    if arguments.stages < 2:
        parser.error("--stages needs at least 2")
    if any(stage >= arguments.stages for stage, _ in arguments.kill):
        parser.error(f"--kill needs a stage from 0 to {arguments.stages - 1}")
    return arguments


def death(text: str) -> tuple[int, int]:
    """``STAGE@STEP``."""
    stage, found, step = text.partition("@")
    if not (found and stage.isdigit() and step.isdigit()):
        raise argparse.ArgumentTypeError(f"expected STAGE@STEP, such as 1@300, got {text!r}")
    return int(stage), int(step)


def main() -> None:
    """Be a stage, or start them."""
    arguments = parse()
    if "DNI_STAGE" in os.environ:
        train(arguments)
        return
    from dni.distributed.launch import launch

    table = Table(live=sys.stdout.isatty())
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.checkpoints or temporary
        launch(
            ["examples.mnist_stages", *sys.argv[1:], "--checkpoints", folder],
            arguments.stages,
            module=True,
            max_restarts=3 + len(arguments.kill),
            watch=table.watch,
        )
        data = load(arguments.data)
        model = network(data.train_x[0].numel(), arguments.width, arguments.stages)
        model.load_state_dict(distributed.merged(folder))
    if not table.live:
        print(table.text())
    error = training.error_rate(model, data, takes_labels=False)
    print(f"{data.name}: test error of the whole network {error:.2f} %")
    if arguments.json:
        outcome = {"test_error": error, "stages": table.seen, "environment": training.environment()}
        arguments.json.parent.mkdir(parents=True, exist_ok=True)
        arguments.json.write_text(json.dumps(outcome, indent=2) + "\n")


if __name__ == "__main__":
    main()
