"""Where an interface will stand once a batch has shown the shape of its messages.

A synthesizer has the width of the message that it predicts, and only a forward pass knows
that. Until the first one an :class:`Unshaped` module holds the place, with one parameter
without a shape: an optimiser that is made of ``model.parameters()`` meanwhile knows *that*,
and takes the synthesizer's own parameters in its place before it first steps::

    decoupled:        optimizer.params = [w, placeholder, v]
    first batch:      the interface is built; its parameters are noted
    optimizer.step(): optimizer.params = [w, weight, bias, v], and the step
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.optim.optimizer import Optimizer, register_optimizer_step_pre_hook

from dni import _checks

Make = Callable[[Any], nn.Module]  # from a module's output, what stands behind it


class Placeholder(nn.UninitializedParameter):
    """What an optimiser knows of a synthesizer that is not there yet."""

    becomes: list[nn.Parameter] | None = None


class Unshaped(nn.Module):
    """Holds the place of what ``make`` will build, with ``options``, for a first output."""

    def __init__(self, make: Make, name: str, options: dict[str, Any]) -> None:
        super().__init__()
        self.make = make
        self.name = name
        self.options = options
        self.placeholder = Placeholder()

    def shape(self, output: Any) -> nn.Module:
        """What to put here instead."""
        _checks.shaped_before_compiling(torch.compiler.is_compiling(), self.name)
        with torch.random.fork_rng():  # training goes on with the numbers that it had without
            made = self.make(output)
        made.train(self.training)
        self.placeholder.becomes = list(made.parameters())
        _waiting.append(weakref.ref(self.placeholder))
        if not _hook:
            _hook.append(register_optimizer_step_pre_hook(_exchange))
        return made

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        """There is nothing to save yet."""

    def _load_from_state_dict(self, state: Any, prefix: str, *_: Any) -> None:
        """A plain network's checkpoint has nothing for this place; another does not fit."""
        _checks.shaped_before_loading(any(key.startswith(prefix) for key in state), self.name)


# Placeholders that an optimiser may know, and what belongs in their places.
_waiting: list[weakref.ref[Placeholder]] = []
_hook: list[Any] = []


def _exchange(optimizer: Optimizer, *_: Any) -> None:
    """Before a step of any optimiser: its placeholders out, parameters in."""
    for group in optimizer.param_groups:
        if any(isinstance(parameter, Placeholder) for parameter in group["params"]):
            group["params"] = [new for old in group["params"] for new in _instead_of(old)]
    _waiting[:] = [one for one in _waiting if one() is not None]
    if not _waiting and _hook:  # nobody holds a placeholder any more
        _hook.pop().remove()


def _instead_of(parameter: nn.Parameter) -> list[nn.Parameter]:
    if isinstance(parameter, Placeholder) and parameter.becomes is not None:
        return parameter.becomes
    return [parameter]
