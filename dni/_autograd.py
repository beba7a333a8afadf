r"""The two places where the library steps into a backward pass.

Autograd sends a tensor the gradient that its consumers produced, and nothing else. A cut
has to send a *predicted* one instead, and turn the real one into training data for the
predictor, in the same pass. Two custom ``Function``\ s do this: their forward is trivial,
and their backward swaps what is sent.

``Cut``, for a gradient (``s = r u``; the steps are numbered in order of time)::

    part A ----- h -----------------> Cut ------ h ------> part B ---> loss
                 |  1. detach          ^ |                    |
                 v                     | | <------- g --------'
            synthesizer -- u ----------' |            2. loss.backward()
                 ^                       |
                 '---- dL(u, g)/du ------|   3. the synthesizer learns from g
    part A <-- mix g + (1 - mix) s ------'   4. part A learns from s (times ``factor``)

``Substitute``, for an activation::

    part A ----- h ----> Substitute --- r u ---> part B ---> loss
                             ^ |                    |
    trigger -> synthesizer --' | <------- g --------'   1. loss.backward()
                   ^           |
                   '- dL(u,h)/du   2. the synthesizer learns from h
    part A <------ g ----------'   3. the gradient goes straight through

Both take ``u`` as an ordinary input, so the gradient of the regression is *returned* to it
and reaches the synthesizer's parameters in the engine's own pass. There is no second pass,
no hook, no graph kept: what ``torch.compile``, DDP and checkpointing require.
"""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from dni import _trees

if TYPE_CHECKING:
    from dni.interfaces.unidirectional import UnidirectionalInterface

Weight = float | Tensor  # a number, or a 0-d tensor whose value a compiled graph must not bake in


class Cut(torch.autograd.Function):
    """The identity on ``leaves``; for its backward, see the module's first drawing.

    ``mix`` and ``factor`` weigh what is sent upstream in step 4. ``mix=1`` only observes:
    the real gradient passes on untouched. With ``mix=None`` nothing is sent: part A already
    has its synthetic gradient.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(
        prediction: Tensor,
        snapshot: Tensor | None,
        mix: Weight | None,
        factor: Weight,
        interface: UnidirectionalInterface,
        *leaves: Tensor,
    ) -> tuple[Tensor, ...]:
        return tuple(leaf.view_as(leaf) for leaf in leaves)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        prediction, snapshot, ctx.mix, ctx.factor, ctx.interface, *_ = inputs
        ctx.save_for_backward(prediction, snapshot)

    @staticmethod
    def backward(ctx: Any, *real: Tensor) -> tuple[Tensor | None, ...]:
        prediction, snapshot = ctx.saved_tensors
        objective, who = ctx.interface.objective, ctx.interface.who
        # 2. the real gradient arrives
        message = _trees.join(real, who)
        # 3. the synthesizer learns from it
        learnt = objective.gradient(prediction, message, snapshot, ctx.needs_input_grad[0], who)
        # 4. part A learns from the synthetic one
        upstream: tuple[Tensor | None, ...] = (None,) * len(real)
        if ctx.mix is not None and any(ctx.needs_input_grad[5:]):
            upstream = real
            if not _is(ctx.mix, 1.0):
                synthetic = objective.scaled(prediction, snapshot, message.dtype)
                sent = blend(message, weighted(synthetic, ctx.factor), ctx.mix)
                upstream = tuple(_trees.split(sent, real))
        return (learnt, None, None, None, None, *upstream)


class Substitute(torch.autograd.Function):
    """The synthetic message in place of ``leaves``; for its backward, see the second drawing.

    With ``taught``, step 2 has already happened, during the forward pass.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(
        prediction: Tensor,
        snapshot: Tensor | None,
        taught: bool,
        interface: UnidirectionalInterface,
        *leaves: Tensor,
    ) -> tuple[Tensor, ...]:
        synthetic = interface.objective.scaled(prediction, snapshot, leaves[0].dtype)
        return tuple(part.clone() for part in _trees.split(synthetic, leaves))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        prediction, snapshot, ctx.taught, ctx.interface, *leaves = inputs
        ctx.save_for_backward(prediction, snapshot, *leaves)

    @staticmethod
    def backward(ctx: Any, *real: Tensor) -> tuple[Tensor | None, ...]:
        prediction, snapshot, *leaves = ctx.saved_tensors
        objective, who = ctx.interface.objective, ctx.interface.who
        learnt = None
        if not ctx.taught:
            message = _trees.join(leaves, who)
            learnt = objective.gradient(prediction, message, snapshot, ctx.needs_input_grad[0], who)
        return (learnt, None, None, None, *real)


def _remember_signature(function: Any) -> None:
    """Save a tenth of a cut's cost: ``apply`` inspects the signature of ``forward`` at every call.

    ``inspect.signature`` first looks for an attribute ``__signature__``.
    """
    function.__signature__ = inspect.signature(function)


_remember_signature(Cut.forward)
_remember_signature(Substitute.forward)


def weighted(message: Tensor, factor: Weight) -> Tensor:
    """``factor * message``, without any work if the factor is known to be 1."""
    return message if _is(factor, 1.0) else message * factor


def blend(real: Tensor, synthetic: Tensor, mix: Weight) -> Tensor:
    """``mix * real + (1 - mix) * synthetic``; at either end, exactly one of them.

    At the ends a message is picked, not multiplied by 0 or 1: the one that is not used must
    not spoil the other with a NaN.
    """
    if not isinstance(mix, Tensor):
        if mix in (0.0, 1.0):
            return real if mix else synthetic
        return torch.lerp(synthetic, real, mix)
    between = torch.lerp(synthetic, real, mix.to(real.dtype))
    return torch.where(mix == 1.0, real, torch.where(mix == 0.0, synthetic, between))


def _is(weight: Weight, value: float) -> bool:
    return not isinstance(weight, Tensor) and weight == value
