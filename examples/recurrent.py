"""What the recurrent examples share: their flags, and what stands beside their network.

Each example trains its network in one of four ways, its *arm*: truncated BPTT, DNI (with an
interface between the windows), DNI with the auxiliary task, or the full unroll, which is
truncated BPTT with one window. The loop is :func:`dni.windows` for all four.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass

import torch
from torch import nn

import dni
from dni.diagnostics import Measurement, Monitor
from examples import training


@dataclass
class Arm:
    """How to train: what the flags of :func:`options` say."""

    window: int
    dni: bool = False
    aux: float = 0.0
    context: bool = False
    hidden: int = 0
    factor: float = 1.0
    centered: bool = True
    normalize: bool = True
    lr: float = 1e-3
    synthesizer_lr: float = 1e-3

    @property
    def name(self) -> str:
        """What result files call it."""
        words = ["DNI" if self.dni else "BPTT", "aux" if self.aux else ""]
        if self.dni and self.context:
            words[0] = "cDNI"
        return " + ".join(filter(None, words))

    @classmethod
    def of(cls, arguments: argparse.Namespace) -> Arm:
        """The arm that the command line asks for."""
        return cls(**{name: getattr(arguments, name) for name in cls.__dataclass_fields__})


def options(description: str, *, window: int, **help_on_data: str) -> argparse.ArgumentParser:
    """The flags of every recurrent example; the fields of :class:`Arm` among them."""
    parser = training.options(description, **help_on_data)
    parser.add_argument("--window", "--bptt", type=int, default=window, help="steps per window")
    parser.add_argument("--dni", action="store_true", help="synthetic gradients between windows")
    parser.add_argument(
        "--aux", type=float, nargs="?", const=0.1, default=0.0, help="weight of the auxiliary task"
    )
    parser.add_argument(
        "--context",
        action="store_true",
        help="tell the synthesizer, never the network, the targets to come (cDNI)",
    )
    parser.add_argument("--hidden", type=int, default=0, help="its hidden layer; 0: it is linear")
    parser.add_argument("--factor", type=float, default=1.0, help="scale of what it sends")
    parser.add_argument("--synthesizer-lr", type=float, default=1e-3)
    parser.add_argument(
        "--centered",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="without what it would send to all rows of a batch alike",
    )
    parser.add_argument("--normalize", action=argparse.BooleanOptionalAction, default=True)
    return parser


def parse(parser: argparse.ArgumentParser) -> argparse.Namespace:
    """The arguments, checked against each other."""
    arguments = training.parse(parser)
    if arguments.aux and not arguments.dni:
        parser.error("--aux adds a task to the synthesizer: it needs --dni")
    if arguments.window < 1:
        parser.error("--window needs at least 1")
    return arguments


class Helpers(nn.Module):
    """The interface between the windows and its auxiliary task; both ``None`` without DNI."""

    def __init__(self, arm: Arm, width: int, context_dim: int) -> None:
        super().__init__()

        def synthesizer() -> nn.Module:
            made = dni.BasicSynthesizer(
                width,
                n_hidden=1 if arm.hidden else 0,
                hidden_dim=arm.hidden or None,
                context_dim=context_dim if arm.context else None,
            )
            return dni.Centered(made) if arm.centered else made

        self.interface = self.auxiliary = None
        if arm.dni:
            self.interface = dni.BackwardInterface(
                synthesizer(), factor=arm.factor, normalize=arm.normalize
            )
        if arm.dni and arm.aux:
            self.auxiliary = dni.AuxiliaryTask(synthesizer(), weight=arm.aux)


def optimizer(model: nn.Module, helpers: nn.Module, arm: Arm) -> torch.optim.Optimizer:
    """Adam with two rates."""
    groups = [{"params": list(model.parameters()), "lr": arm.lr}]
    if arm.dni:
        groups.append({"params": list(helpers.parameters()), "lr": arm.synthesizer_lr})
    return torch.optim.Adam(groups)


class Predictions:
    """How good synthetic gradients are, by the step of the sequence at which they were sent."""

    def __init__(self) -> None:
        self._seen: dict[str, list[Measurement]] = {}

    def add(self, step: int, monitor: Monitor) -> None:
        """Add what was measured since the last call, in the window that starts at ``step``."""
        measured = monitor.read().get("interface")
        if measured is not None and measured.messages:
            self._seen.setdefault(f"step {step}", []).append(measured)

    def means(self) -> dict[str, Measurement]:
        """One measurement for each step."""
        return {
            step: Measurement(
                *(sum(values) / len(seen) for values in list(zip(*seen, strict=True))[:3]),
                messages=len(seen),
            )
            for step, seen in self._seen.items()
        }
