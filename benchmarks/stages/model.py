r"""How fast stages can be: equations, and the schedules played through on paper.

A network of :math:`K` stages of equal cost is trained in batches of :math:`M` micro-batches.
Each stage takes :math:`f` seconds forward, :math:`b` backward and :math:`u` for its optimizer, for
a whole batch. A pipeline computes a batch, drains, updates, and fills again; with links that
cost nothing, a step takes

.. math:: T = (M + K - 1) \frac{f + b}{M} + u, \qquad \text{idle: } \frac{K - 1}{M + K - 1}

for GPipe and for 1F1B alike. Decoupled stages neither drain nor fill again: after the first
batches each is busy all the time, with its synthesizers' share :math:`s` on top,

.. math:: T = \max\left((1 + s)(f + b + u), \; \frac{\text{bytes}}{\text{bandwidth}}\right),

and what a link's latency delays is when a message comes, not how many do. In a pipeline it delays
the work itself. GPipe pays it once per hop, down and up: :math:`2 (K - 1)` times in a step. The
stages of 1F1B have :math:`K, K - 1, \dots, 1` micro-batches in flight, and wait for the oldest to
come back before they start another; so it pays in every round,

.. math:: 2 (K - 1) \frac{M}{K} + 2 (K - 2) \text{ times, where } K \text{ divides } M

and the latency is small. For large ones, and for bandwidth, no equation covers all cases:
:func:`pipeline` plays the schedule through.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from typing import NamedTuple

Task = tuple[str, int]
"""``"F"`` or ``"B"``, and which micro-batch."""
Order = Callable[[int, int, int], list[Task]]
"""What a stage does one after another, for ``(stage, stages, micro_batches)``."""


class Cost(NamedTuple):
    """Seconds of one stage for one batch."""

    forward: float
    backward: float
    update: float = 0.0
    visit: float = 0.0
    """On top, each time that a micro-batch is taken up: launches, and what small matrices lose."""


class Link(NamedTuple):
    """What lies between two stages; each direction for itself."""

    latency: float = 0.0
    """Seconds."""
    bandwidth: float = math.inf
    """Bytes per second."""


FREE = Link()
"""A link that costs nothing."""


def bubble(stages: int, micro_batches: int) -> float:
    r"""The idle share of a pipeline's step, :math:`(K - 1) / (M + K - 1)`.

    Example:
        >>> from benchmarks.stages.model import bubble
        >>> bubble(4, 4) == 3 / 7
        True
    """
    return (stages - 1) / (micro_batches + stages - 1)


def gain(stages: int, micro_batches: int) -> float:
    r"""The most that decoupled stages can win over a pipeline: :math:`(M + K - 1) / M`."""
    return 1 / (1 - bubble(stages, micro_batches))


def single(stages: int, cost: Cost) -> float:
    r"""Seconds of a step in one process: :math:`K (f + b + u)`."""
    return stages * (cost.forward + cost.backward + cost.update)


def decoupled(cost: Cost, share: float = 0.0, size: float = 0.0, link: Link = FREE) -> float:
    r"""Seconds of a step after the fill: :math:`\max((1 + s)(f + b + u), size / bandwidth)`.

    Args:
        cost, link: of a stage, and of what leads to the next.
        share: the synthesizer's work as a share of the stage's own.
        size: bytes of a batch's activations at a cut.
    """
    work = (1 + share) * (cost.forward + cost.backward + cost.update)
    return max(work, size / link.bandwidth)


def fill(stages: int, cost: Cost, size: float = 0.0, link: Link = FREE) -> float:
    r"""Until the last decoupled stage starts: :math:`(K - 1)(f + latency + size / bandwidth)`."""
    return (stages - 1) * (cost.forward + link.latency + size / link.bandwidth)


def gpipe(stage: int, stages: int, micro_batches: int) -> list[Task]:
    """All forward, then all backward."""
    every = range(micro_batches)
    return [("F", m) for m in every] + [("B", m) for m in every]


def one_forward_one_backward(stage: int, stages: int, micro_batches: int) -> list[Task]:
    """``stages - stage`` forward, then one backward and one forward in turn, then the rest."""
    ahead = min(stages - stage, micro_batches)
    order = [("F", m) for m in range(ahead)]
    for m in range(micro_batches):
        order.append(("B", m))
        if m + ahead < micro_batches:
            order.append(("F", m + ahead))
    return order


def pipeline(
    order: Order,
    stages: int,
    micro_batches: int,
    cost: Cost,
    size: float = 0.0,
    link: Link = FREE,
) -> float:
    r"""Seconds of a step of a pipeline, every task as early as its order lets it.

    A task of stage :math:`k` on micro-batch :math:`m` begins when the stage's last one is done and
    its message is there: forward from :math:`k - 1`, backward from :math:`k + 1` (for the last
    stage: its own forward). A message leaves when it is made and the one before it has left,
    takes :math:`size / (M \cdot bandwidth)` to leave, and arrives after the latency. Sending
    takes none of a stage's time.
    """
    seconds = {
        "F": cost.forward / micro_batches + cost.visit,
        "B": cost.backward / micro_batches + cost.visit,
    }
    leaving = size / micro_batches / link.bandwidth
    todo = [list(reversed(order(k, stages, micro_batches))) for k in range(stages)]
    busy = [0.0] * stages  # until when
    sending = {(kind, k): 0.0 for kind in seconds for k in range(stages)}
    there = {("F", -1, m): 0.0 for m in range(micro_batches)}  # when a message has come
    while any(todo):
        for k, tasks in enumerate(todo):
            while tasks and (place := _before(*tasks[-1], k, stages)) in there:
                kind, m = tasks.pop()
                busy[k] = max(busy[k], there[place]) + seconds[kind]
                sending[kind, k] = max(busy[k], sending[kind, k]) + leaving
                there[kind, k, m] = sending[kind, k] + link.latency
                if kind == "F" and k == stages - 1:
                    there[kind, k, m] = busy[k]  # the loss is at home
    return max(busy) + cost.update


def _before(kind: str, m: int, stage: int, stages: int) -> tuple[str, int, int]:
    """Whose message a task waits for."""
    if kind == "F":
        return "F", stage - 1, m
    return ("F", stage, m) if stage == stages - 1 else ("B", stage + 1, m)


LINKS = {
    "free": FREE,
    "10 Gbit/s, 0.1 ms": Link(1e-4, 1.25e9),
    "1 Gbit/s, 0.5 ms": Link(5e-4, 1.25e8),
    "100 Mbit/s, 20 ms": Link(2e-2, 1.25e7),
}


def speeds(stages: int, link: Link, arguments: argparse.Namespace) -> tuple[float, float]:
    """Over one process: the best of GPipe and 1F1B over the numbers of micro-batches, and ours."""
    whole = arguments.step / 1000
    update = arguments.update * whole / stages
    part = whole / stages - update
    size = arguments.mib * 2**20
    cost = Cost(part / 3, 2 * part / 3, update, arguments.visit / 1000)
    step = min(
        pipeline(order, stages, m, cost, size, link)
        for order in (gpipe, one_forward_one_backward)
        for m in arguments.micro_batches
        if m >= stages
    )
    return whole / step, whole / decoupled(cost, arguments.share, size, link)


def main() -> None:
    """A table of speeds against stages and links."""
    parser = argparse.ArgumentParser(description="Speed over one process, on paper")
    add = parser.add_argument
    add("--step", type=float, default=200.0, help="ms of a step of one process")
    add("--update", type=float, default=0.1, help="the share of it that is the optimiser's")
    add("--visit", type=float, default=5.0, help="ms on top of each micro-batch, each way")
    add("--share", type=float, default=0.08, help="the synthesizer's work, of a stage's own")
    add("--mib", type=float, default=1.0, help="of a batch's activations at a cut")
    add("--stages", type=int, nargs="+", default=[2, 4, 8])
    add("--micro-batches", type=int, nargs="+", default=[2, 4, 8, 16, 32])
    arguments = parser.parse_args()
    print(f"{'link':18s}" + "".join(f"{f'K = {k}':>18s}" for k in arguments.stages))
    print(" " * 18 + "    best pipe  ours" * len(arguments.stages))
    for name, link in LINKS.items():
        pairs = (speeds(stages, link, arguments) for stages in arguments.stages)
        print(f"{name:18s}" + "".join(f"{pipe:13.2f}{ours:5.2f}" for pipe, ours in pairs))


if __name__ == "__main__":
    main()
