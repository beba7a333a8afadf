"""What the examples share: their options, one training loop, one report.

The loop is the plain one, ``zero_grad, forward, loss, backward, step``. The point is that
interfaces need no other. It trains a classifier whose ``forward(x, y)`` takes the labels
too, because some classifiers condition their synthesizers on them.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn
from tqdm import tqdm

import dni
from dni.diagnostics import Measurement, Monitor
from examples.data import Images, load

FASTER = 10  # a synthesizer predicts for a network that moves; it has to learn faster


@dataclass
class Outcome:
    """What a run gave; ``curve`` holds ``(step, test error)``."""

    test_error: float
    ms_per_step: float
    cuts: dict[str, Measurement] = field(default_factory=dict)
    curve: list[tuple[int, float]] = field(default_factory=list)

    def as_dict(self) -> dict[str, object]:
        """For JSON."""
        return asdict(self) | {"cuts": {name: cut._asdict() for name, cut in self.cuts.items()}}

    @property
    def synthesizer_loss(self) -> float | None:
        """Mean over the cuts, in the last tenth of the run."""
        return _mean([cut.loss for cut in self.cuts.values() if cut.messages])

    @property
    def cosine(self) -> float | None:
        """Likewise, of synthetic and real messages."""
        return _mean([cut.cosine for cut in self.cuts.values() if cut.messages])


def options(
    description: str, data: str = "digits (default), mnist, or a folder of IDX files"
) -> argparse.ArgumentParser:
    """The flags that every example has."""
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    command = spec and f"python -m {spec.name.removesuffix('.__main__')}"
    parser = argparse.ArgumentParser(prog=command, description=description)
    parser.add_argument("--data", help=data)
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--lr", type=float, default=3e-4)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--json", type=Path, help="write the outcome to this file")
    return parser


def interface_options(parser: argparse.ArgumentParser) -> None:
    """The flags that say whether, and how, a network is decoupled."""
    parser.add_argument("--dni", action="store_true", help="decouple; else plain backpropagation")
    parser.add_argument(
        "--synthesizer-lr", type=float, help="the synthesizers' rate; ten times --lr if left out"
    )
    parser.add_argument(
        "--normalize",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="regress on gradients divided by their running scale; --no-normalize: as they are",
    )
    parser.add_argument("--context", action="store_true", help="condition on labels (cDNI)")
    parser.add_argument(
        "--replay", type=int, default=0, help="earlier messages that join each regression"
    )
    parser.add_argument(
        "--unlock",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="part A updates during the forward pass; --no-unlock: in one connected graph",
    )


def parse(parser: argparse.ArgumentParser) -> argparse.Namespace:
    """The arguments, checked against each other."""
    arguments = parser.parse_args()
    if getattr(arguments, "context", False) and not getattr(arguments, "dni", True):
        parser.error("--context conditions synthesizers: it needs --dni")
    if getattr(arguments, "replay", 0) and not arguments.dni:
        parser.error("--replay teaches synthesizers: it needs --dni")
    if getattr(arguments, "replay", 0) < 0:
        parser.error("--replay needs 0 or more")
    if arguments.steps < 1 or arguments.batch < 2:
        parser.error("--steps needs at least 1, --batch at least 2")
    return arguments


def faster(arguments: argparse.Namespace) -> float:
    """The rate of the synthesizers."""
    asked: float | None = arguments.synthesizer_lr
    return FASTER * arguments.lr if asked is None else asked


Form = dict[str, bool]  # what the flags of :func:`interface_options` say, for a network


def run(arguments: argparse.Namespace, build: Callable[[Images, Form], nn.Module]) -> None:
    """Load, build, train, report: the body of an example."""
    torch.manual_seed(arguments.seed)
    data = load(arguments.data).to(arguments.device)
    form = {name: getattr(arguments, name) for name in ("context", "unlock", "normalize")}
    model = build(data, {"decoupled": arguments.dni, **form}).to(arguments.device)
    rates = (arguments.lr, faster(arguments))
    loop = (arguments.steps, arguments.batch, rates, arguments.seed, arguments.replay)
    outcome = train(model, data, *loop)
    report(outcome, data.name)
    if arguments.json:
        write_json(arguments.json, arguments, {"dni" if arguments.dni else "backprop": [outcome]})


def train(
    model: nn.Module,
    data: Images,
    steps: int,
    batch: int,
    rates: tuple[float, float],
    seed: int,
    replay: int = 0,
    title: str = "train",
) -> Outcome:
    """Adam with two ``rates``: the network's, and that of its synthesizers."""
    groups = (dni.base_parameters(model), dni.synthesizer_parameters(model))
    optimizer = torch.optim.Adam(
        [{"params": group, "lr": lr} for group, lr in zip(groups, rates, strict=True)], fused=True
    )
    batches = torch.Generator().manual_seed(seed)
    memory = dni.Replay(model) if replay else None
    curve, spent = [], 0.0
    with Monitor(model) as monitor:
        for step in tqdm(range(1, steps + 1), title, leave=False, disable=None):
            index = torch.randint(len(data.train_y), (batch,), generator=batches)
            x, y = data.train_x[index], data.train_y[index]
            start = time.perf_counter()
            optimizer.zero_grad()
            loss = F.cross_entropy(model(x, y), y)
            loss.backward()
            for regression in memory.losses(replay) if memory else ():
                regression.backward()
            optimizer.step()
            spent += time.perf_counter() - start
            if step % max(1, steps // 30) == 0 or step == steps:
                curve.append((step, error_rate(model, data)))
            if step == steps - max(1, steps // 10):
                monitor.read()  # what follows is measured
        return Outcome(curve[-1][1], 1000 * spent / steps, monitor.read(), curve)


@torch.no_grad()
def error_rate(model: nn.Module, data: Images, *, takes_labels: bool = True) -> float:
    """The error on the test set, in per cent.

    In eval mode no interface does anything, or looks at labels.
    """
    model.eval()
    wrong = [
        ((model(x, y) if takes_labels else model(x)).argmax(1) != y).sum()
        for x, y in zip(data.test_x.split(1000), data.test_y.split(1000), strict=True)
    ]
    model.train()
    return 100 * float(sum(wrong)) / len(data.test_y)


def report(outcome: Outcome, name: str) -> None:
    """The outcome on the screen."""
    print(f"{name}: test error {outcome.test_error:.2f} %, {outcome.ms_per_step:.1f} ms per step")
    for cut, measured in outcome.cuts.items():
        said = (
            f"synthesizer loss {measured.loss:.3f}, cosine {measured.cosine:.2f}, "
            f"norm ratio {measured.norm_ratio:.2f}"
        )
        print(f"  {cut}: {said if measured.messages else 'all messages were zero'}")


def write_json(
    path: Path, arguments: argparse.Namespace, outcomes: dict[str, list[Outcome]]
) -> None:
    """The outcomes, with the arguments and the environment that made them."""
    path.parent.mkdir(parents=True, exist_ok=True)
    content = {
        "arguments": {name: str(value) for name, value in vars(arguments).items()},
        "environment": environment(),
        "arms": {arm: [outcome.as_dict() for outcome in runs] for arm, runs in outcomes.items()},
    }
    path.write_text(json.dumps(content, indent=2) + "\n")


def environment() -> dict[str, str | int]:
    """What a number depends on besides the code."""
    return {
        "dni": dni.__version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "machine": platform.machine(),
        "threads": torch.get_num_threads(),
    }


def _mean(values: list[float]) -> float | None:
    return sum(values) / len(values) if values else None
