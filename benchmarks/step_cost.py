"""What an interface costs: time and peak memory of one training step.

Claim: an interface costs what its arithmetic costs. Five arms train the same network,
``cuts`` x (linear, batch norm, ReLU, cut), then linear, with linear synthesizers and Adam:

* ``backprop``: the network without cuts;
* ``by hand``: the arithmetic of a cut with torch only, three steps for each: predict and
  send the synthetic gradient, go on from a fresh leaf, regress on the leaf's gradient,
  scaled by its running root mean square;
* ``unlock=True`` and ``unlock=False``: our interface in both forms;
* ``compiled``: the latter under ``torch.compile(fullgraph=True)``.

Arms take turns, ten steps each, so that a noisy neighbour disturbs all alike and caches
are as warm as in training. A time is the median step of a turn; a ratio is the median over
turns of (this arm's time / that arm's time in the same turn). Every arm starts from the
same weights and sees the same batch; the loss that they end at shows that they did the
same work, but for what rounding drives apart in a few hundred steps.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import dni
from benchmarks import measure
from dni._objective import PRIOR, RATE

CLASSES = 10


class Net(nn.Module):
    """The network of every arm; ``cut`` makes what stands after each layer."""

    def __init__(self, width: int, cuts: int, cut: Callable[[int], nn.Module]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.ModuleList(
            nn.Sequential(nn.Linear(width, width), nn.BatchNorm1d(width), nn.ReLU())
            for _ in range(cuts)
        )
        self.output = nn.Linear(width, CLASSES)
        self.cuts = nn.ModuleList(cut(width) for _ in range(cuts))

    def forward(self, x: Tensor) -> Tensor:
        """Class scores."""
        for layer, cut in zip(self.layers, self.cuts, strict=True):
            x = cut(layer(x))
        return self.output(x)


class ByHand(nn.Module):
    """A cut without the library; :meth:`learn` is called after the loss's backward."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.synthesizer = nn.Linear(width, width)
        nn.init.zeros_(self.synthesizer.weight)
        nn.init.zeros_(self.synthesizer.bias)
        self.moments = torch.full((2,), PRIOR)

    def forward(self, h: Tensor) -> Tensor:
        """1. Predict, send, and go on from a fresh leaf."""
        self.prediction = self.synthesizer(h.detach())
        self.found = self.moments.clone()
        h.backward(self.prediction.detach() * (self.found[0] / self.found[1]).sqrt())
        self.leaf = h.detach().requires_grad_()
        return self.leaf

    def learn(self) -> None:
        """2. and 3. Take the real gradient, regress on it."""
        real = self.leaf.grad
        mean_square = real.square().mean()
        if not torch.isfinite(mean_square):
            raise FloatingPointError
        new = torch.stack((mean_square, torch.ones_like(mean_square)))
        self.moments += RATE * (new - self.found)
        square, weight = torch.lerp(self.found, new, RATE)
        F.mse_loss(self.prediction, real / (square / weight).sqrt()).backward()
        del self.prediction, self.leaf


def interface(unlock: bool) -> Callable[[int], nn.Module]:
    """Our cut in one of its forms."""
    return lambda width: dni.BackwardInterface(dni.BasicSynthesizer(width), unlock=unlock)


class Arm:
    """One way to train: a network, its optimiser, one batch."""

    def __init__(
        self, width: int, cuts: int, batch: int, cut: Callable[[int], nn.Module], compiled: bool
    ) -> None:
        # Synthesizers of different make draw different random numbers; but all start at 0.
        self.net = net = Net(width, cuts, cut)
        self.optimizer = torch.optim.Adam(net.parameters(), 1e-3, fused=True)
        x = torch.randn(batch, width, generator=torch.Generator().manual_seed(0))
        y = x[:, :CLASSES].argmax(1)

        def loss() -> Tensor:
            return F.cross_entropy(net(x), y)

        self.loss = torch.compile(loss, fullgraph=True) if compiled else loss

    def step(self) -> None:
        """One training step."""
        self.optimizer.zero_grad()
        loss = self.loss()
        loss.backward()
        for cut in self.net.cuts:
            if isinstance(cut, ByHand):
                cut.learn()
        self.optimizer.step()
        self.loss_at_the_end = loss.detach()

    def peak_memory(self) -> float:
        """Of one step, gradients and all."""
        self.optimizer.zero_grad()
        return measure.peak_memory(self.step)


def arms(width: int, cuts: int, batch: int, compiled: bool) -> dict[str, Arm]:
    """The five ways, by name."""
    forms: dict[str, Callable[[int], nn.Module]] = {
        "backprop": lambda _: nn.Identity(),
        "by hand": ByHand,
        "unlock=True": interface(True),
        "unlock=False": interface(False),
    }
    if compiled:
        forms["compiled"] = interface(False)
    return {
        name: Arm(width, cuts, batch, cut, compiled=name == "compiled")
        for name, cut in forms.items()
    }


def compare(arms: dict[str, Arm], turns: int) -> dict[str, dict[str, float]]:
    """Times of all arms, taken in turns, their memory and their last loss."""
    for arm in arms.values():
        for _ in range(5):
            arm.step()
    times = measure.in_turns({name: arm.step for name, arm in arms.items()}, turns, 10)
    return {
        name: {
            "ms": statistics.median(times[name]),
            "of by hand": measure.ratio(times[name], times["by hand"]),
            "of eager": measure.ratio(times[name], times["unlock=False"]),
            "peak MiB": arm.peak_memory(),
            "loss": float(arm.loss_at_the_end),
        }
        for name, arm in arms.items()
    }


def main() -> None:
    """Measure what the command line asks for; print a table, write JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--widths", type=int, nargs="+", default=[64, 256, 1024, 2048])
    parser.add_argument("--cuts", type=int, nargs="+", default=[1, 3, 6])
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--turns", type=int, default=20)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--no-compile", action="store_true")
    parser.add_argument("--json", type=Path, default=Path("results/step_cost.json"))
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)

    rows = []
    print(f"{'width':>5s} {'cuts':>4s} {'arm':14s}", end="")
    print(f"{'ms':>9s} {'of by hand':>11s} {'of eager':>9s} {'peak MiB':>9s} {'loss':>8s}")
    for width in arguments.widths:
        for cuts in arguments.cuts:
            ways = arms(width, cuts, arguments.batch, not arguments.no_compile)
            turns = max(5, arguments.turns * 256 // max(256, width))
            for name, result in compare(ways, turns).items():
                rows.append({"width": width, "cuts": cuts, "arm": name, **result})
                print(
                    f"{width:5d} {cuts:4d} {name:14s}{result['ms']:9.2f} "
                    f"{result['of by hand']:11.3f} {result['of eager']:9.3f} "
                    f"{result['peak MiB']:9.2f} {result['loss']:8.4f}",
                    flush=True,
                )
            torch.compiler.reset()
    measure.write(arguments.json, arguments, rows)
    print(arguments.json)


if __name__ == "__main__":
    main()
