r"""An optimiser that steps during the backward pass, parameter by parameter.

A gradient is complete long before the pass is over. PyTorch says when: a hook runs after
the last contribution to a parameter's ``grad``, when no node of the graph needs the
parameter's value any more. There its optimiser steps, for this parameter alone::

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
    """Steps ``optimizer`` for each of its parameters as soon as their gradients are there.

    Args:
        optimizer: of any kind that treats parameters one by one, as PyTorch's do.
        only: the parameters to do that for, where the optimiser has others too.
        keep: whether gradients stay until :meth:`clear`, for whoever reads them.
    """

    def __init__(
        self, optimizer: Optimizer, only: Iterable[Tensor] | None = None, *, keep: bool
    ) -> None:
        self.optimizer = optimizer
        self.only = None if only is None else set(only)
        self.keep = keep
        self._hooked: dict[Tensor, int] = {}  # the number of a parameter's group
        self._used: set[Tensor] = set()

    def arm(self) -> None:
        """Hook the parameters that are not hooked yet."""
        for number, group in enumerate(self.optimizer.param_groups):
            for parameter in group["params"]:
                ours = self.only is None or parameter in self.only
                if ours and parameter not in self._hooked and parameter.requires_grad:
                    hook = partial(_step, weakref.ref(self))
                    parameter.register_post_accumulate_grad_hook(hook)
                    self._hooked[parameter] = number

    def clear(self) -> bool:
        """Forget the gradients that were stepped with; whether there were any."""
        used, self._used = self._used, set()
        for parameter in used:
            parameter.grad = None
        return bool(used)

    def step(self, parameter: Tensor) -> None:
        """One step, as if there were no other parameter."""
        groups = self.optimizer.param_groups
        group = groups[self._hooked[parameter]]
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
        return self.__dict__ | {"_hooked": {}, "_used": set()}


def _step(stepper: weakref.ref[StepInBackward], parameter: Tensor) -> None:
    """A hook; weak, so that a parameter does not keep its optimiser."""
    alive = stepper()
    if alive is not None:
        alive.step(parameter)
