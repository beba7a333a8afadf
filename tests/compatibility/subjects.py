"""The columns of the matrix: small networks, one for each public module, and how to train them."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import dni
from tests.cases import CLASSES, WIDTH, Chain, synthesizer

Scale = Callable[[Tensor], Tensor]
Wrap = Callable[[nn.Module], nn.Module]


class Subject:
    """A network with ``dni`` in it; the loss is the user's, and so is the backward pass."""

    def __init__(self, name: str, make: Callable[..., nn.Module], early: bool = False) -> None:
        self.name, self.make, self.early = name, make, early

    def build(self, **options: Any) -> nn.Module:
        """The same network each time; ``options`` are those of an interface."""
        torch.manual_seed(1)
        return self.make(**options)

    def loss(self, model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        """Forward, told the labels."""
        with dni.synthesizer_context(y):
            return F.cross_entropy(model(x), y)

    def step(
        self, model: nn.Module, x: Tensor, y: Tensor, scale: Scale | None = None, **instead: Any
    ) -> None:
        """Forward and backward, the loss scaled; ``loss`` may be given instead."""
        loss = instead.get("loss", self.loss)(model, x, y)
        (scale(loss) if scale else loss).backward()

    def wrapped(self, model: nn.Module, wrap: Wrap) -> nn.Module:
        """The network, wrapped."""
        return wrap(model)

    def pure_loss(self, model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        """The loss of a training step."""
        return self.loss(model, x, y)

    def compiled(self, model: nn.Module, **options: Any) -> dict[str, Any]:
        """What :meth:`step` takes instead, so that it runs compiled."""
        return {"loss": torch.compile(self.loss, **options)}

    def optimizers(self, model: nn.Module, **options: Any) -> list[torch.optim.Optimizer]:
        """The network's and the synthesizers'."""
        own = [dni.base_parameters(model), dni.synthesizer_parameters(model)]
        return [torch.optim.SGD(parameters, 0.1, **options) for parameters in own]


class Windows(Subject):
    """A recurrent network in windows of two steps, each of which backpropagates by itself."""

    def step(
        self, model: nn.Module, x: Tensor, y: Tensor, scale: Scale | None = None, **instead: Any
    ) -> None:
        core = instead.get("core", model.core)
        for window in dni.windows(x.expand(6, *x.shape), size=2, interface=model.interface):
            output, state = core(*window, window.state)
            loss = F.cross_entropy(model.readout(output[-1]), y)
            window.backward(scale(loss) if scale else loss, state)

    def loss(self, model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        """In evaluation mode alone, where windows hand the state on."""
        with torch.no_grad():
            for window in dni.windows(x.expand(6, *x.shape), size=2, interface=model.interface):
                output, state = model.core(*window, window.state)
                window.backward(None, state)
            return F.cross_entropy(model.readout(output[-1]), y)

    def wrapped(self, model: nn.Module, wrap: Wrap) -> nn.Module:
        model.core, model.readout = wrap(model.core), wrap(model.readout)
        model.interface.synthesizer = wrap(model.interface.synthesizer)
        return model

    def pure_loss(self, model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        self.step(model, x, y)
        return torch.zeros(())

    def compiled(self, model: nn.Module, **options: Any) -> dict[str, Any]:
        return {"core": torch.compile(model.core, **options)}


class Wrapped(Subject):
    """``dni.DNI``, which steps by itself."""

    def optimizers(self, model: nn.Module, **options: Any) -> list[torch.optim.Optimizer]:
        for one in (model.optim, model.grad_optim):
            for group in one.param_groups:
                group.update(options)
        return []


class Recurrent(nn.Module):
    """A core, a readout, an interface."""

    def __init__(self, **options: Any) -> None:
        super().__init__()
        self.core, self.readout = Cell(), nn.Linear(WIDTH, CLASSES)
        self.interface = dni.BackwardInterface(synthesizer(), **options)


class Cell(nn.Module):
    """As ``nn.RNN``, which the compiler does not trace."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.outer = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor, state: Tensor | None = None) -> tuple[Tensor, Tensor]:
        h = torch.zeros_like(x[0]) if state is None else state
        outputs = []
        for step in x:
            h = torch.tanh(self.inner(h) + self.outer(step))
            outputs.append(h)
        return torch.stack(outputs), h


class TwoParts(nn.Module):
    """A forward or a bidirectional interface between two parts."""

    def __init__(self, cut: nn.Module) -> None:
        super().__init__()
        self.a, self.cut, self.b = nn.Linear(WIDTH, WIDTH), cut, nn.Linear(WIDTH, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.b(torch.relu(self.cut(torch.tanh(self.a(x)), x)))
        return out


def ahead() -> nn.Module:
    """Predicts an activation from an input."""
    return synthesizer(trigger_dim=WIDTH, context_classes=CLASSES)


def back() -> nn.Module:
    """Predicts a gradient from an activation."""
    return synthesizer(context_classes=CLASSES)


def _backward(unlock: bool, **options: Any) -> nn.Module:
    return Chain(lambda: dni.BackwardInterface(back(), unlock=unlock, **options))


def _forward(unlock: bool, **options: Any) -> nn.Module:
    return TwoParts(dni.ForwardInterface(ahead(), unlock=unlock, **options))


def _both(unlock: bool, **options: Any) -> nn.Module:
    return TwoParts(dni.BidirectionalInterface(ahead(), back(), unlock=unlock, **options))


def _plain() -> nn.Module:
    return nn.Sequential(
        nn.Linear(WIDTH, WIDTH), nn.Tanh(), nn.Linear(WIDTH, WIDTH), nn.Tanh(),
        nn.Linear(WIDTH, CLASSES),
    )  # fmt: skip


def _decoupled(**options: Any) -> nn.Module:
    sample = torch.zeros(2, WIDTH)
    return dni.decouple(_plain(), nn.Tanh, lambda h: back(), sample=sample, **options)


def _wrapped(**options: Any) -> nn.Module:
    """It chooses the options of its interfaces itself."""
    optim = partial(torch.optim.SGD, lr=0.1)
    made = dni.CDNI(_plain(), optim=optim, grad_optim="sgd", hidden_size=8, classes=CLASSES)
    with dni.synthesizer_context(torch.zeros(2, dtype=torch.long)):
        made(torch.zeros(2, WIDTH))  # which shows the shapes
    return made


SUBJECTS = [
    Subject("Backward, unlock", partial(_backward, True), early=True),
    Subject("Backward", partial(_backward, False)),
    Subject("Forward, unlock", partial(_forward, True), early=True),
    Subject("Forward", partial(_forward, False)),
    Subject("Bidirectional, unlock", partial(_both, True), early=True),
    Subject("Bidirectional", partial(_both, False)),
    Windows("windows", Recurrent),
    Subject("decouple", _decoupled),
    Wrapped("DNI", _wrapped),
]
