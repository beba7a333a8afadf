r"""An optimiser that steps during the backward pass, parameter by parameter.

A parameter's gradient is complete long before the pass is over. PyTorch says when: a hook
runs after the last contribution to its ``grad``, when no node of the graph needs the
parameter's value any more. Then its optimiser steps, for this parameter alone::

    loss.backward():  ... -> layer 3: grad of its weight -> step -> layer 2: ...
"""

from __future__ import annotations

import weakref
from collections.abc import Iterable
from functools import partial
from typing import Any

from torch import Tensor
from torch.optim import Optimizer


class StepInBackward:
    """Steps ``optimizer`` for each of its parameters as soon as its gradient is there.

    The gradient is that of one backward pass: what an earlier pass left is dropped first.

    Args:
        optimizer: of any kind that treats parameters one by one, as PyTorch's do.
        keep: whether gradients stay until the next pass, for whoever reads them.
    """

    def __init__(self, optimizer: Optimizer, *, keep: bool) -> None:
        self.optimizer = optimizer
        self.keep = keep
        self._groups: dict[Tensor, int] = {}  # for each hooked parameter, the number of its group
        self._used: set[Tensor] = set()
        self._incoming: dict[Tensor, Tensor] = {}
        self.on = True

    def arm(self, only: Iterable[Tensor]) -> None:
        """Hook those of the optimiser's parameters that are in ``only`` and not hooked yet."""
        wanted = set(only)
        for number, group in enumerate(self.optimizer.param_groups):
            for parameter in group["params"]:
                hooked = parameter in self._groups or not parameter.requires_grad
                if parameter in wanted and not hooked:
                    me = weakref.ref(self)
                    parameter.register_hook(partial(_arrive, me, weakref.ref(parameter)))
                    parameter.register_post_accumulate_grad_hook(partial(_step, me))
                    self._groups[parameter] = number

    def arrive(self, parameter: Tensor, gradient: Tensor) -> None:
        """Note what is about to be added to a gradient that has already been used for a step."""
        if parameter in self._used:
            self._incoming[parameter] = gradient

    def step(self, parameter: Tensor) -> None:
        """Take one step, as if there were no other parameter."""
        incoming = self._incoming.pop(parameter, None)
        if incoming is not None:
            parameter.grad = incoming.clone()
            self._used.discard(parameter)
        if not self.on:
            return
        groups = self.optimizer.param_groups
        group = groups[self._groups[parameter]]
        self.optimizer.param_groups = [group | {"params": [parameter]}]
        try:
            self.optimizer.step()
        finally:
            self.optimizer.param_groups = groups
        if self.keep:
            self._used.add(parameter)
        else:
            parameter.grad = None

    def __getstate__(self) -> dict[str, Any]:
        """Hooks are not copied with their parameters: a copy hooks its own."""
        return self.__dict__ | {"_groups": {}, "_used": set(), "_incoming": {}}


Weak = weakref.ref[StepInBackward]  # a parameter does not keep its optimiser alive


def _arrive(stepper: Weak, parameter: weakref.ref[Tensor], gradient: Tensor) -> None:
    """A hook before the gradient is accumulated, or handed to ``torch.autograd.grad``."""
    alive, mine = stepper(), parameter()
    if alive is not None and mine is not None:
        alive.arrive(mine, gradient)


def _step(stepper: Weak, parameter: Tensor) -> None:
    """A hook after the gradient is accumulated."""
    alive = stepper()
    if alive is not None:
        alive.step(parameter)
