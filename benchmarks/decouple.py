"""What attaching costs: a step beside the same interfaces written by hand, and the attaching.

Claims: ``dni.decouple`` adds at most 3 % to a step of the same network with the same
interfaces as lines of its ``forward``; a network of 200 cuts is decoupled in under a second.
Both arms of the first start from the same weights and see the same batch; the loss that they
end at shows that they did the same work. Where the allocator puts a network of width 1024 can
cost it four tenths of a step, whichever arm it is, and two arms by hand differ as much; so both
are built five times, each first in turn, and the ratio is the median over all turns.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn

import dni
from benchmarks import measure
from benchmarks.step_cost import CLASSES, Net, interface

BUILDS = 5


class Arm:
    """A network and its training step."""

    def __init__(self, net: nn.Module, x: torch.Tensor) -> None:
        self.net, self.x, self.y = net, x, x[:, :CLASSES].argmax(1)
        self.optimizer = torch.optim.Adam(net.parameters(), 1e-3, fused=True)

    def step(self) -> None:
        """One step."""
        self.optimizer.zero_grad()
        loss = F.cross_entropy(self.net(self.x), self.y)
        loss.backward()
        self.optimizer.step()
        self.loss = loss.detach()


def arms(width: int, cuts: int, batch: int, attached_first: bool) -> dict[str, Arm]:
    """By hand and attached; all synthesizers start at zero, so only the place differs."""
    x = torch.randn(batch, width, generator=torch.Generator().manual_seed(0))

    def by_hand() -> Arm:
        return Arm(Net(width, cuts, interface(False)), x)

    def attached() -> Arm:
        net = Net(width, cuts, lambda _: nn.Identity())
        dni.decouple(net, "layers.*", lambda h: dni.BasicSynthesizer(h.shape[-1]), sample=x)
        return Arm(net, x)

    makes = {"by hand": by_hand, "attached": attached}
    return {name: makes[name]() for name in sorted(makes, reverse=not attached_first)}


def seconds(cuts: int, sample: bool) -> float:
    """To decouple a network of ``cuts`` layers, with a sample or without."""
    net = nn.Sequential(*(nn.Linear(64, 64) for _ in range(cuts + 1)))
    x = torch.randn(8, 64) if sample else None
    start = time.perf_counter()
    dni.decouple(net, "leaves", sample=x)
    return time.perf_counter() - start


def main() -> None:
    """Measure what the command line asks for; print tables, write JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--widths", type=int, nargs="+", default=[64, 256, 1024])
    parser.add_argument("--cuts", type=int, nargs="+", default=[1, 3, 6])
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--turns", type=int, default=30)
    parser.add_argument("--many", type=int, default=200, help="cuts of the network to decouple")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", type=Path, default=Path("results/decouple.json"))
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)

    rows: list[dict[str, object]] = []
    print(f"{'width':>5s} {'cuts':>4s} {'by hand, ms':>12s} {'attached / by hand':>19s}   losses")
    for width in arguments.widths:
        for cuts in arguments.cuts:
            times: dict[str, list[float]] = {"by hand": [], "attached": []}
            for build in range(BUILDS):
                ways = arms(width, cuts, arguments.batch, attached_first=build % 2 == 1)
                steps: dict[str, Callable[[], object]] = {n: arm.step for n, arm in ways.items()}
                for step in steps.values():
                    step()
                turns = max(1, arguments.turns // BUILDS)
                for name, taken in measure.in_turns(steps, turns, 10).items():
                    times[name] += taken
            ms = statistics.median(times["by hand"])
            ratio = measure.ratio(times["attached"], times["by hand"])
            losses = [float(ways[name].loss) for name in times]
            rows.append({"width": width, "cuts": cuts, "ms": ms, "ratio": ratio, "losses": losses})
            print(
                f"{width:5d} {cuts:4d} {ms:12.2f} {ratio:19.3f}   {losses[0]:.4f} {losses[1]:.4f}"
            )
    for sample in (True, False):
        taken = statistics.median(seconds(arguments.many, sample) for _ in range(5))
        rows.append({"many": arguments.many, "sample": sample, "seconds": taken})
        how = "with a sample" if sample else "without one"
        print(f"{arguments.many} cuts {how}: {taken:.2f} s")
    measure.write(arguments.json, arguments, rows)
    print(arguments.json)


if __name__ == "__main__":
    main()
