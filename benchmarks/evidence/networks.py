"""The networks: plain ones, and where they are cut."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

from torch import nn

from examples.data import CLASSES

WIDTH = 256
Shape = Sequence[int]


class Plan(NamedTuple):
    """How to build a network for images of ``(channels, side, side)``, and where to cut it."""

    build: Callable[[Shape], nn.Sequential]
    at: str
    steps: int
    batch: int


def fully_connected(layers: int, shape: Shape) -> nn.Sequential:
    """``layers`` x (linear, batch norm, ReLU), and a linear layer."""
    widths = [math.prod(shape)] + [WIDTH] * layers
    parts = [
        nn.Sequential(nn.Linear(widths[k], WIDTH), nn.BatchNorm1d(WIDTH), nn.ReLU())
        for k in range(layers)
    ]
    return nn.Sequential(nn.Flatten(), *parts, nn.Linear(WIDTH, CLASSES))


def convolutional(layers: int, channels: int, shape: Shape) -> nn.Sequential:
    """``layers`` x (5 x 5, batch norm, ReLU), pooled down to 7 or 8 a side, and a linear layer."""
    before, side, parts = shape[0], shape[-1], []
    for _ in range(layers):
        pool = [nn.MaxPool2d(2)] if side > 8 else []
        side //= 2 if pool else 1
        convolution = nn.Conv2d(before, channels, 5, padding=2)
        parts.append(nn.Sequential(convolution, nn.BatchNorm2d(channels), nn.ReLU(), *pool))
        before = channels
    return nn.Sequential(*parts, nn.Flatten(), nn.Linear(channels * side**2, CLASSES))


NETWORKS = {
    f"fc{layers}": Plan(partial(fully_connected, layers), f"[1-{layers}]", 3000, 256)
    for layers in (3, 4, 5, 6)
}
NETWORKS |= {
    f"cnn{layers}": Plan(partial(convolutional, layers, 32), f"[0-{layers - 1}]", 600, 256)
    for layers in (3, 4)
}
NETWORKS["cifar"] = Plan(partial(convolutional, 3, 128), "[0-2]", 1000, 64)
