"""What stands after a cut in some of the arms, and is no part of the library."""

from __future__ import annotations

import copy
import math
from typing import Any

import torch
from torch import Tensor, nn

import dni
from examples.data import CLASSES


class Nothing(nn.Module):
    """No gradient passes, and none is predicted: only the part above the last cut learns."""

    def forward(self, trigger: Tensor, context: object) -> Tensor:
        """Zeros."""
        return trigger.new_zeros(trigger.shape)


class Normed(nn.Module):
    """A perceptron with batch norm in its hidden layer, for vectors without a context."""

    def __init__(self, width: int, hidden: int = 1024) -> None:
        super().__init__()
        self.hidden = nn.Sequential(nn.Linear(width, hidden), nn.BatchNorm1d(hidden), nn.ReLU())
        self.output = nn.Linear(hidden, width)
        nn.init.zeros_(self.output.weight)
        nn.init.zeros_(self.output.bias)

    def forward(self, trigger: Tensor, context: Any = None) -> Tensor:
        """The synthetic message for ``trigger``."""
        message: Tensor = self.output(self.hidden(trigger))
        return message


def loss(kind: type[dni.LossSynthesizer], h: Tensor, classes: int | None) -> nn.Module:
    """A predicted loss for ``h``, a vector or a map."""
    assert classes is not None
    return dni.Centered(kind(h.shape[1] if h.dim() == 2 else h.shape[1:], classes), 0)


def close(h: Tensor, classes: int | None) -> nn.Module:
    """For maps: 1 x 1 convolutions, which know no places."""
    made = dni.ConvSynthesizer(h.shape[1], 1, 256, 1, context_classes=classes)
    return dni.Centered(made, (0, 2, 3))


class Unheld(dni.LossSynthesizer):
    """In which many features count in full."""

    shared = moved = math.inf


class Averaged(nn.Module):
    """Applies a running mean of the synthesizer that learns."""

    def __init__(self, synthesizer: nn.Module, decay: float) -> None:
        super().__init__()
        self.synthesizer = synthesizer
        self.applied = copy.deepcopy(synthesizer).requires_grad_(False)
        self.decay = decay

    def forward(self, trigger: Tensor, context: Any = None) -> Tensor:
        """The mean's message; what learns is given the gradient of its own."""
        learnt: Tensor = self.synthesizer(trigger, context)
        if not learnt.requires_grad:
            return self.applied(trigger, context)
        with torch.no_grad():
            for mean, new in zip(
                self.applied.parameters(), self.synthesizer.parameters(), strict=True
            ):
                mean.lerp_(new, 1 - self.decay)
            gap = self.applied(trigger, context) - learnt
        learnt.register_hook(lambda gradient: gradient - gap * (2 / gap.numel()))
        return learnt + gap


class PerFeature(nn.Module):
    """A synthesizer of vectors that regresses each feature of a message in a scale of its own."""

    def __init__(self, synthesizer: nn.Module, width: int, rate: float = 0.01) -> None:
        super().__init__()
        self.synthesizer = synthesizer
        self.rate = rate
        self.register_buffer("square", torch.ones(width))

    def forward(self, trigger: Tensor, context: Any = None) -> Tensor:
        """The synthesizer's message, each feature in its scale."""
        unit: Tensor = self.synthesizer(trigger, context)
        scale = self.square.sqrt()
        if not unit.requires_grad:
            return unit * scale

        def learn(gradient: Tensor) -> Tensor:
            real = (unit * scale).detach() - gradient * (unit.numel() / 2)
            self.square.lerp_(real.square().mean(0), self.rate)
            return gradient / scale.clamp_min(1e-6) ** 2

        message = unit * scale
        message.register_hook(learn)
        return message


def head_for(h: Tensor) -> nn.Module:
    """A linear classifier of features, or of maps that are averaged to 4 x 4."""
    if h.dim() == 4:
        pool = (nn.AdaptiveAvgPool2d(min(4, h.shape[2])), nn.Flatten())
        return nn.Sequential(*pool, nn.Linear(h.shape[1] * min(4, h.shape[2]) ** 2, CLASSES))
    return nn.Linear(h.shape[-1], CLASSES)
