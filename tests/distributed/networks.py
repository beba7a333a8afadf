"""The network that the stages of these tests train, as a whole and in parts."""

from __future__ import annotations

import copy
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import dni
from dni import distributed

AT = ["0", "1"]
INPUTS, WIDTH, CLASSES = 6, 8, 3


def network() -> nn.Sequential:
    """Three layers with batch norm and a linear one, in float64."""
    layers = [
        nn.Sequential(nn.Linear(inputs, WIDTH), nn.BatchNorm1d(WIDTH), nn.ReLU())
        for inputs in (INPUTS, WIDTH, WIDTH)
    ]
    return nn.Sequential(*layers, nn.Linear(WIDTH, CLASSES)).double()


def adam(network: list[nn.Parameter], synthesizers: list[nn.Parameter]) -> torch.optim.Optimizer:
    """Two rates in one optimiser."""
    groups = [{"params": network, "lr": 1e-2}, {"params": synthesizers, "lr": 3e-2}]
    return torch.optim.Adam(groups)


def batches(count: int, seed: int = 0) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Input, label and context; every fourth batch is a small one."""
    generator = torch.Generator().manual_seed(seed)
    for step in range(count):
        rows = 5 if step % 4 == 3 else 16
        x = torch.randn(rows, INPUTS, generator=generator, dtype=torch.float64)
        y = torch.randint(CLASSES, (rows,), generator=generator)
        yield x, y, y


def started(module: nn.Module) -> nn.Module:
    """Synthesizers that have something to say; new ones say zero."""
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=0.3)
    return module.double()


def backward_interfaces() -> list[dni.BackwardInterface]:
    """One per cut, conditioned on labels."""
    made = [
        dni.BackwardInterface(dni.BasicSynthesizer(WIDTH, 1, 16, context_classes=CLASSES))
        for _ in AT
    ]
    for one in made:
        started(one)
    return made


def bidirectional_interfaces() -> list[dni.BidirectionalInterface]:
    """One per cut."""
    made = []
    for _ in AT:
        ahead = dni.BasicSynthesizer(WIDTH, 1, 16, trigger_dim=INPUTS)
        made.append(dni.BidirectionalInterface(ahead, dni.BasicSynthesizer(WIDTH, 1, 16)))
        started(made[-1])
    return made


def update_stages(
    whole: nn.Sequential, cuts: list[dni.BackwardInterface], queue: int = 0
) -> list[distributed.Stage]:
    """``whole`` in stages of this process; they share its parameters, and have copies of cuts."""
    parts = distributed.split(whole, AT)
    edges = [distributed.in_process() for _ in AT]
    a = [
        distributed.UpdateA(edge[0], copy.deepcopy(cut), queue)
        for edge, cut in zip(edges, cuts, strict=True)
    ]
    b = [distributed.UpdateB(edge[1]) for edge in edges]
    return _stages(parts, a, b)


def complete_stages(
    whole: nn.Sequential, cuts: list[dni.BidirectionalInterface], **options: bool
) -> list[distributed.Stage]:
    """Likewise, for a complete unlock."""
    parts = distributed.split(whole, AT)
    edges = [distributed.in_process() for _ in AT]
    pairs = list(zip(edges, cuts, strict=True))
    a = [distributed.CompleteA(edge[0], copy.deepcopy(cut), **options) for edge, cut in pairs]
    b = [distributed.CompleteB(edge[1], copy.deepcopy(cut), **options) for edge, cut in pairs]
    return _stages(parts, a, b)


def _stages(
    parts: list[nn.Sequential], a: list[distributed.EndA], b: list[distributed.EndB]
) -> list[distributed.Stage]:
    return [
        distributed.Stage(
            part, adam, loss=F.cross_entropy, upstream=upstream, downstream=downstream
        )
        for part, upstream, downstream in zip(parts, [None, *b], [*a, None], strict=True)
    ]
