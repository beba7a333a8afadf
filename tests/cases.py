"""Networks and synthesizers that several tests share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import dni

WIDTH, CLASSES = 6, 4


class Oracle(nn.Module):
    """Knows the real messages, in the order in which it will be asked for them."""

    def __init__(self, messages: Sequence[Tensor]) -> None:
        super().__init__()
        self.messages = list(messages)

    def forward(self, trigger: Tensor, context: Any) -> Tensor:
        return self.messages.pop(0)


class Fixed(nn.Module):
    """Returns what it was built with, whatever comes."""

    def __init__(self, message: Any) -> None:
        super().__init__()
        self.message = message

    def forward(self, trigger: Tensor, context: Any) -> Any:
        return self.message


class Counting(dni.BasicSynthesizer):
    """Counts its calls, and keeps the contexts that it saw."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.contexts: list[Any] = []

    def forward(self, trigger: Tensor, context: Any = None) -> Tensor:
        self.contexts.append(context)
        return super().forward(trigger, context)


def synthesizer(width: int = WIDTH, **options: Any) -> dni.BasicSynthesizer:
    """One hidden layer, its last layer moved off zero."""
    made = dni.BasicSynthesizer(width, n_hidden=1, **options)
    for parameter in made.layers[-1].parameters():
        nn.init.normal_(parameter, std=0.3)
    return made


# What torch itself warns of while it traces and compiles.
compiles = [
    pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf"),
]


Cut = Callable[[], nn.Module]


class Chain(nn.Module):
    """Four layers; a cut after each of the first ``cuts``."""

    def __init__(self, cut: Cut, cuts: int = 2) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(WIDTH, WIDTH) for _ in range(3))
        self.output = nn.Linear(WIDTH, CLASSES)
        self.cuts = nn.ModuleList(cut() for _ in range(cuts))

    def forward(self, x: Tensor) -> Tensor:
        for index, layer in enumerate(self.layers):
            x = torch.tanh(layer(x))
            if index < len(self.cuts):
                x = self.cuts[index](x)
        return self.output(x)


class SharedSynthesizer(Chain):
    """Two interfaces, one synthesizer."""

    def __init__(self, cut: Cut) -> None:
        super().__init__(cut)
        self.cuts[1].synthesizer = self.cuts[0].synthesizer


class UsedTwice(Chain):
    """One interface at two places of a forward pass."""

    def __init__(self, cut: Cut) -> None:
        super().__init__(cut, cuts=1)
        self.cuts.append(self.cuts[0])


class Skip(Chain):
    """A connection around the cut, from before it and from its trigger."""

    def __init__(self, cut: Cut) -> None:
        super().__init__(cut, cuts=1)

    def forward(self, x: Tensor) -> Tensor:
        a = torch.tanh(self.layers[0](x))
        h = torch.tanh(self.layers[1](a))
        return self.output(torch.tanh(self.layers[2](self.cuts[0](h))) + h + a)


def batch(rows: int = 5) -> tuple[Tensor, Tensor]:
    """Inputs and labels."""
    return torch.randn(rows, WIDTH), torch.randint(CLASSES, (rows,))


def gradients(model: nn.Module) -> dict[str, Tensor | None]:
    """Copies of all parameters' gradients, by name."""
    return {
        name: None if parameter.grad is None else parameter.grad.clone()
        for name, parameter in model.named_parameters()
    }


def messages(model: Chain, x: Tensor, y: Tensor) -> list[Tensor]:
    """The gradient that plain backpropagation brings to each cut, in forward order."""
    reached: list[Tensor] = []

    def keep(cut: nn.Module, arguments: tuple[Tensor, ...], output: Tensor) -> Tensor:
        reached.append(output.clone())  # apart from the trigger, which may be used elsewhere too
        return reached[-1]

    handles = [cut.register_forward_hook(keep) for cut in set(model.cuts)]
    model.eval()
    found = torch.autograd.grad(F.cross_entropy(model(x), y), reached)
    model.train()
    for handle in handles:
        handle.remove()
    return list(found)


def plain_gradients(model: nn.Module, x: Tensor, y: Tensor) -> dict[str, Tensor | None]:
    """Plain backpropagation's gradients: in eval mode interfaces do nothing."""
    model.eval()
    F.cross_entropy(model(x), y).backward()
    found = gradients(model)
    model.train()
    model.zero_grad()
    return found
