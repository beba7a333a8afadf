"""What optimisers know of the synthesizers that a network was given.

An optimiser holds the parameters that were there when it was made. One that was made before a
synthesizer had its shape holds a :class:`Placeholder`, and takes the synthesizer's own
parameters in its place before it first steps::

    decoupled:        optimizer.params = [w, placeholder, v]
    first batch:      placeholder.becomes = [weight, bias]
    optimizer.step(): optimizer.params = [w, weight, bias, v], and the step

One that was made before the network was decoupled holds nothing, and the part below the cut
would learn nothing, in silence. Both are seen by a hook on the steps of all optimisers, which
is there only as long as something is waiting for it.
"""

from __future__ import annotations

import weakref
from functools import partial
from typing import Any

from torch import Tensor, nn
from torch.optim.optimizer import Optimizer, register_optimizer_step_pre_hook

from dni import _checks

PATIENCE = 10  # steps of other optimisers before one is missed


class Placeholder(nn.UninitializedParameter):
    """What an optimiser knows of a synthesizer that is not there yet."""

    becomes: list[nn.Parameter] | None = None

    @classmethod
    def __torch_function__(
        cls, function: Any, types: Any, arguments: Any = (), keywords: Any = None
    ) -> Any:
        try:
            return super().__torch_function__(function, types, arguments, keywords)  # type: ignore[no-untyped-call]
        except ValueError as error:
            _checks.shaped_before_use(error)

    def become(self, parameters: list[nn.Parameter]) -> None:
        """From the next step on."""
        self.becomes = parameters
        _waiting.append(weakref.ref(self))
        _look()


def watch(made: nn.Module) -> None:
    """Warn where synthesizers in ``made`` have gradients, and no optimiser that steps."""
    learning = next((one for one in made.parameters() if one.requires_grad), None)
    if learning is not None:
        _watched.append(_Watched(learning))
        _look()


class _Watched:
    """A synthesizer's parameter, until an optimiser that steps is seen to know it."""

    def __init__(self, parameter: nn.Parameter) -> None:
        self.parameter = weakref.ref(parameter)
        self.fresh = False  # a gradient since the last step
        self.steps = 0  # of other optimisers, each after a fresh gradient
        me = weakref.ref(self)
        hook = partial(_has_gradient, me)
        self.handle = parameter.register_post_accumulate_grad_hook(hook)  # type: ignore[no-untyped-call]

    def missed(self, known: set[int]) -> bool:
        """Whether an optimiser that knows ``known`` passes over it."""
        parameter = self.parameter()
        if parameter is None or id(parameter) in known:
            return False
        self.steps += self.fresh
        self.fresh = False
        return True

    def __del__(self) -> None:
        self.handle.remove()


def _has_gradient(watched: weakref.ref[_Watched], parameter: Tensor) -> None:
    one = watched()
    if one is not None:
        one.fresh = True


_waiting: list[weakref.ref[Placeholder]] = []  # that an optimiser may know
_watched: list[_Watched] = []
_hook: list[Any] = []  # while there are any of both


def _look() -> None:
    if not _hook:
        _hook.append(register_optimizer_step_pre_hook(_before_step))


def _before_step(optimizer: Optimizer, *_: Any) -> None:
    """Placeholders out, parameters in; who is still missed?"""
    for group in optimizer.param_groups:
        if any(isinstance(parameter, Placeholder) for parameter in group["params"]):
            group["params"] = [new for old in group["params"] for new in _instead_of(old)]
    _waiting[:] = [one for one in _waiting if one() is not None]
    known = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
    missed = [one for one in _watched if one.missed(known)]
    _watched[:] = [one for one in missed if one.steps <= PATIENCE]
    if not _waiting and not _watched and _hook:
        _hook.pop().remove()
    if len(_watched) < len(missed):
        _checks.optimizer_knows_synthesizers()


def _instead_of(parameter: nn.Parameter) -> list[nn.Parameter]:
    if isinstance(parameter, Placeholder) and parameter.becomes is not None:
        return parameter.becomes
    return [parameter]
