"""What short windows with synthetic gradients cost.

``python -m benchmarks.recurrent`` takes an LSTM (256 units, batch 64) through one sequence, in
windows of different lengths: time per sequence, and the peak memory of a window. Arms: truncated
BPTT, DNI by :func:`dni.windows`, and the same arithmetic written out in torch only. What they
learn is in ``benchmarks.evidence``.
"""

from __future__ import annotations

import argparse
import statistics
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import dni
from benchmarks import measure, recurrent_report
from dni._objective import PRIOR, RATE

UNITS, BATCH, FEATURES, STEPS = 256, 64, 64, 100


class Sequence:
    """One pass over a sequence in windows; subclasses say what a window is."""

    def __init__(self, window: int) -> None:
        torch.manual_seed(0)
        self.size = window
        self.core, self.readout = nn.LSTM(FEATURES, UNITS), nn.Linear(UNITS, FEATURES)
        self.x, self.y = torch.randn(STEPS, BATCH, FEATURES), torch.randn(STEPS, BATCH, FEATURES)
        self.synthesizer = dni.BasicSynthesizer(2 * UNITS)
        nn.init.normal_(self.synthesizer.input_trigger.weight)  # a new one would say 0
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

    def __init__(self, window: int) -> None:
        super().__init__(window)
        self.moments = torch.full((2,), PRIOR)

    def run(self) -> None:
        """Steps 1 to 3 of :mod:`dni.recurrent.windows`."""
        moments, state = self.moments, None
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
        zero = torch.zeros_like(last)
        self.moments = self.learn(self.synthesizer(last), zero, moments.clone(), moments)

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
    for window in arguments.windows:
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


def main() -> None:
    """Run what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--windows", type=int, nargs="+", default=(1, 2, 5, 10, 20, 50, 100))
    parser.add_argument("--turns", type=int, default=10)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", type=Path, default=Path("results/recurrent.json"))
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    found = cost(arguments)
    measure.write(arguments.json, arguments, found)
    recurrent_report.draw_cost(found, arguments.json.with_suffix(".png"))
    print(arguments.json)


if __name__ == "__main__":
    main()
