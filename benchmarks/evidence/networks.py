"""The networks: plain ones, and where they are cut."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from torch import nn

from examples.data import CLASSES

WIDTH, CHANNELS = 256, 32


class Plan(NamedTuple):
    """How to build a network for images of ``side`` x ``side``, and the ends of its parts."""

    build: Callable[[int], nn.Sequential]
    at: str


def fully_connected(layers: int, side: int) -> nn.Sequential:
    """``layers`` x (linear, batch norm, ReLU), and a linear layer."""
    widths = [side * side] + [WIDTH] * layers
    parts = [
        nn.Sequential(nn.Linear(widths[k], WIDTH), nn.BatchNorm1d(WIDTH), nn.ReLU())
        for k in range(layers)
    ]
    return nn.Sequential(nn.Flatten(), *parts, nn.Linear(WIDTH, CLASSES))


def convolutional(layers: int, side: int) -> nn.Sequential:
    """``layers`` x (convolution, batch norm, ReLU), the first two pooled, and a linear layer."""
    parts = []
    for k in range(layers):
        pool = [nn.MaxPool2d(2)] if k < 2 else []
        convolution = nn.Conv2d(CHANNELS if k else 1, CHANNELS, 5, padding=2)
        parts.append(nn.Sequential(convolution, nn.BatchNorm2d(CHANNELS), nn.ReLU(), *pool))
    return nn.Sequential(*parts, nn.Flatten(), nn.Linear(CHANNELS * (side // 4) ** 2, CLASSES))


def _plan(kind: Callable[[int, int], nn.Sequential], layers: int, first: int) -> Plan:
    last = first + layers - 1
    return Plan(lambda side: kind(layers, side), f"[{first}-{last}]")


NETWORKS = {f"fc{layers}": _plan(fully_connected, layers, 1) for layers in (3, 4, 5, 6)}
NETWORKS |= {f"cnn{layers}": _plan(convolutional, layers, 0) for layers in (2, 3)}
