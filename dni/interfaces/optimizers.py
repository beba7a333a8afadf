"""Makes optimisers take in the synthesizers that a network is given.

An optimiser holds the parameters that were there when it was made. One that was made before a
synthesizer had its shape holds a :class:`Placeholder`. Before the optimiser's next step, the
synthesizer's own parameters take that place::

    decoupled:        optimizer.params = [w, placeholder, v]
    first batch:      placeholder.becomes = [weight, bias]
    optimizer.step(): optimizer.params = [w, weight, bias, v], and the step

An optimiser that was made before the network was decoupled holds nothing of the synthesizer, and
the part below the cut would silently learn nothing. A hook on the steps of all optimisers sees
both cases; it returns at once if nothing is waiting for it.
"""

from __future__ import annotations

import copy
import weakref
from functools import partial
from typing import Any

from torch import Tensor, nn
from torch.optim.optimizer import Optimizer, register_optimizer_step_pre_hook

from dni import _checks

PATIENCE = 100  # steps of other optimisers before a warning


class Placeholder(nn.UninitializedParameter):
    """Stands in an optimiser for the parameters of a synthesizer that is not there yet."""

    becomes: list[nn.Parameter] | None = None

    @classmethod
    def __torch_function__(
        cls, function: Any, types: Any, arguments: Any = (), keywords: Any = None
    ) -> Any:
        try:
            return super().__torch_function__(function, types, arguments, keywords)  # type: ignore[no-untyped-call]
        except ValueError as error:
            _checks.shaped_before_use(error)

    def requires_grad_(self, requires_grad: bool = True) -> Placeholder:
        """Freeze or thaw it, and so what it will become."""
        self.requires_grad = requires_grad
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> Placeholder:
        if id(self) not in memo:
            memo[id(self)] = _rebuilt(self.requires_grad, copy.deepcopy(self.becomes, memo))
        return memo[id(self)]  # type: ignore[no-any-return]

    def __reduce_ex__(self, protocol: Any) -> Any:
        return _rebuilt, (self.requires_grad, self.becomes)

    def become(self, parameters: list[nn.Parameter]) -> None:
        """Let ``parameters`` take its place from the next step on."""
        self.becomes = parameters
        _waiting.append(weakref.ref(self))
        _look()


def _rebuilt(requires_grad: bool, becomes: list[nn.Parameter] | None) -> Placeholder:
    """A copy, which an optimiser copied along with it will replace too."""
    placeholder = Placeholder(requires_grad=requires_grad)
    if becomes is not None:
        placeholder.become(becomes)
    return placeholder


def watch(made: nn.Module) -> None:
    """Warn if synthesizers in ``made`` get gradients, but no optimiser steps them."""
    learning = [one for one in made.parameters() if one.requires_grad]
    if learning:
        _watched.append(_Watched(learning))
        _look()


class _Watched:
    """A synthesizer's parameters, watched until an optimiser that holds one of them steps."""

    def __init__(self, parameters: list[nn.Parameter]) -> None:
        self.parameters = [weakref.ref(one) for one in parameters]
        self.versions = [one._version for one in parameters]
        self.fresh = False  # whether a gradient has come since the last step
        self.steps = 0  # of other optimisers, each after a fresh gradient
        hook = partial(_has_gradient, weakref.ref(self))
        self.handles = [one.register_post_accumulate_grad_hook(hook) for one in parameters]  # type: ignore[no-untyped-call]

    def missed(self, known: set[int]) -> bool:
        """Whether an optimiser that holds ``known`` lacks them, and nothing else stepped them."""
        there = [one() for one in self.parameters]
        versions = [-1 if one is None else one._version for one in there]
        if versions != self.versions or any(id(one) in known for one in there):
            return False
        self.steps += self.fresh
        self.fresh = False
        return True

    def __del__(self) -> None:
        for handle in self.handles:
            handle.remove()


def _has_gradient(watched: weakref.ref[_Watched], parameter: Tensor) -> None:
    one = watched()
    if one is not None:
        one.fresh = True


_waiting: list[weakref.ref[Placeholder]] = []  # which an optimiser may hold
_watched: list[_Watched] = []
_hook: list[Any] = []  # never removed: torch iterates over its hooks while it calls them


def _look() -> None:
    if not _hook:
        _hook.append(register_optimizer_step_pre_hook(_before_step))


def _before_step(optimizer: Optimizer, *_: Any) -> None:
    """Replace placeholders by parameters; warn of synthesizers that nobody steps."""
    if not _waiting and not _watched:
        return
    for group in optimizer.param_groups:
        if any(isinstance(parameter, Placeholder) for parameter in group["params"]):
            lists = [_instead_of(parameter) for parameter in group["params"]]
            if "param_names" in group:
                named = zip(group["param_names"], lists, strict=True)
                group["param_names"] = [
                    name if len(new) == 1 else f"{name}.{number}"
                    for name, new in named
                    for number in range(len(new))
                ]
            group["params"] = [parameter for new in lists for parameter in new]
    _waiting[:] = [one for one in _waiting if one() is not None]
    known = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
    missed = [one for one in _watched if one.missed(known)]
    _watched[:] = [one for one in missed if one.steps <= PATIENCE]
    if len(_watched) < len(missed):
        _checks.optimizer_knows_synthesizers()


def _instead_of(parameter: nn.Parameter) -> list[nn.Parameter]:
    if isinstance(parameter, Placeholder) and parameter.becomes is not None:
        return parameter.becomes
    return [parameter]
