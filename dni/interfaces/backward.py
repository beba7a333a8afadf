r"""A predicted gradient: part A need not wait for part B.

In a feed-forward network the cut lies between two parts (:mod:`dni._autograd` draws it). In
a recurrent one it lies between two windows, and its two ends are called separately::

      window t                              window t + 1
    --> core --> core --> h - - detach - -> make_trigger(h) --> core --> core --> h'
                          |                        |                              |
                     1. backward(h)                |                     2. backward(h')
                        sends s(h)          3. the real gradient                sends s(h')
                                               arrives: that of the
                                               window's loss, and what
                                               s(h') sends back through
                                               the window; s(h) learns it

So the target of :math:`s(h)` contains :math:`s(h')`, as in temporal-difference learning:
windows of a few steps pass on what lies many windows ahead.
"""

from __future__ import annotations

import weakref
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import Node

from dni import _checks, _trees
from dni._autograd import Cut, Weight, weighted
from dni.contexts import backward_all, deferring
from dni.interfaces.unidirectional import Prediction, UnidirectionalInterface

NEAR = 50  # nodes of a graph to search, at most


class BackwardInterface(UnidirectionalInterface):
    r"""Predicts part A's *gradient*, so that A can learn before part B has run.

    Called as ``interface(h)`` between two parts. With :math:`s = r \, S(h, c)` the
    synthetic and :math:`g` the real gradient at the cut, part A receives

    .. math:: \mathit{mix} \cdot g + (1 - \mathit{mix}) \cdot \mathit{factor} \cdot s

    and the synthesizer learns from :math:`g`. There are two forms with the same
    gradients:

    * ``unlock=True``: :math:`s` is backpropagated from ``h`` during the forward pass,
      so that A's gradients exist before B runs. The output has the values of ``h``
      but none of its history: its graph starts at a fresh leaf.
    * ``unlock=False``: one connected graph. Forward is the identity; in the loss's
      backward pass the cut sends :math:`s` upstream in place of :math:`g`. This is the
      form for ``torch.compile``, DDP, checkpointing, skip connections around the cut,
      and a ``zero_grad()`` between forward and backward. Inside
      :func:`dni.defer_backward` every interface takes this form.

    The output shares memory with ``h``, so PyTorch raises an error for an in-place operation
    right after the cut. Use the out-of-place one, or clone.

    Args:
        unlock: see above.
        mix: share of the real gradient, from 0 to 1; needs ``unlock=False``. ``mix=1``
            *observes*: A trains by plain backpropagation, bit for bit, while the
            synthesizer learns. An attribute that may be changed at any time, also in a
            compiled model.
        factor: scale of the synthetic gradient (the paper uses 0.1 for recurrent
            networks); an attribute, like ``mix``.
        synthesizer, normalize, nonfinite, name: see :class:`UnidirectionalInterface`.

    Shapes:
        input and output: a tensor of any shape, or a tuple, list or dict of tensors
        whose leading sizes agree.

    See Jaderberg et al. 2017, section 2.

    Example:
        >>> A, B = torch.nn.Linear(2, 3), torch.nn.Linear(3, 1)
        >>> cut = dni.BackwardInterface(dni.BasicSynthesizer(output_dim=3), unlock=False)
        >>> loss = B(cut(A(torch.ones(5, 2)))).mean()
        >>> loss.backward()
        >>> A.weight.grad.abs().max()     # a new synthesizer predicts 0 ...
        tensor(0.)
        >>> bool(cut.synthesizer.input_trigger.bias.grad.abs().min() > 0)    # ... and learns
        True
    """

    _schedule: Tensor

    def __init__(
        self,
        synthesizer: nn.Module,
        *,
        unlock: bool = True,
        mix: float = 0.0,
        factor: float = 1.0,
        normalize: bool | None = None,
        nonfinite: str = "raise",
        name: str | None = None,
    ) -> None:
        super().__init__(synthesizer, normalize=normalize, nonfinite=nonfinite, name=name)
        self._unlock = unlock
        self._mix = _checks.mix(mix, unlock, self.who)
        self._factor = _checks.factor(factor, self.who)
        # (mix, factor) as data: a compiled graph reads new values without recompiling
        self.register_buffer("_schedule", torch.empty(0), persistent=False)
        self._write_schedule()

    @property
    def unlock(self) -> bool:
        """Whether the synthetic gradient is sent during the forward pass."""
        return self._unlock

    @unlock.setter
    def unlock(self, value: bool) -> None:
        _checks.mix(self._mix, value, self.who)
        self._unlock = value

    @property
    def mix(self) -> float:
        """Share of the real gradient in what is sent upstream."""
        return self._mix

    @mix.setter
    def mix(self, value: float | Tensor) -> None:
        self._mix = _checks.mix(value, self.unlock, self.who)
        self._write_schedule()

    @property
    def factor(self) -> float:
        """Scale of the synthetic gradient in what is sent upstream."""
        return self._factor

    @factor.setter
    def factor(self, value: float | Tensor) -> None:
        self._factor = _checks.factor(value, self.who)
        self._write_schedule()

    def forward(self, trigger: Any) -> Any:
        """``trigger``, cut: a synthetic gradient goes upstream, the real one is intercepted."""
        if not self._learning:
            self._sends_in(False)
            return trigger
        leaves, rebuild = _trees.flatten(trigger, self.who)
        return rebuild(self._cut(leaves, self._ask(leaves)))

    def backward(self, trigger: Any, factor: float | None = None) -> Any:
        r"""Backpropagate the synthetic gradient of ``trigger`` from it.

        For recurrent networks: at the last state of a window, the synthetic gradient stands
        in for the losses beyond the window. Call it inside :func:`dni.defer_backward`, where
        it and the loss of the window go through the graph in one pass.

        Args:
            trigger: a state that requires grad; a tensor or a structure of tensors.
            factor: overrides the interface's ``factor`` for this call.

        The real gradient from beyond the window never comes, so what is sent is
        ``(1 - mix) * factor`` times the synthetic one: with ``mix=1`` nothing.

        Returns:
            the synthetic gradient as predicted, in the structure of ``trigger``; ``None``
            in eval mode and under ``no_grad``.

        Example:
            >>> interface = dni.BackwardInterface(dni.BasicSynthesizer(output_dim=2))
            >>> w = torch.ones(2, requires_grad=True)
            >>> with dni.defer_backward():
            ...     state = w * torch.ones(3, 2)
            ...     _ = interface.backward(state)    # 0: a new synthesizer
            ...     dni.backward(state.sum())
            >>> w.grad
            tensor([3., 3.])
        """
        if not self._learning:
            return None
        leaves, rebuild = _trees.flatten(trigger, self.who)
        scale = self._factor if factor is None else _checks.factor(factor, self.who)
        scale *= 1 - self._mix
        with torch.no_grad():
            predicted = self._ask(leaves)
        return rebuild(_trees.split(self._send_upstream(leaves, predicted, scale), leaves))

    def make_trigger(self, trigger: Any) -> Any:
        r"""Mark ``trigger`` as a place where a real gradient arrives and is learnt from.

        For recurrent networks: called on the first state of a window. The gradient there is
        the window's own plus what :meth:`backward` sent into its end: the *bootstrapped*
        target. It also passes on into ``trigger``, unchanged. To keep it out of the window
        before, detach ``trigger`` first, as truncated BPTT does.

        Returns:
            ``trigger`` with the same structure and values.

        Example:
            >>> interface = dni.BackwardInterface(dni.BasicSynthesizer(output_dim=4))
            >>> state = (torch.zeros(1, 5, 2), torch.zeros(1, 5, 2))    # an LSTM's (h, c)
            >>> h, c = interface.make_trigger(state)
            >>> (h + c).sum().backward()
            >>> interface.synthesizer.input_trigger.bias.grad
            tensor([-0.5000, -0.5000, -0.5000, -0.5000])
        """
        if not self._learning:
            return trigger
        leaves, rebuild = _trees.flatten(trigger, self.who)
        return rebuild(self._intercept(leaves, self._predict(leaves, leaves), 1.0, 1.0))

    def receive(self, trigger: Any) -> Any:
        r"""The synthetic gradient for ``trigger``, in the structure of ``trigger``."""
        leaves, rebuild = _trees.flatten(trigger, self.who)
        return rebuild(_trees.split(super().receive(trigger), leaves))

    def extra_repr(self) -> str:
        """What ``print(interface)`` shows besides the synthesizer."""
        own = f"unlock={self.unlock}, mix={self._mix:g}, factor={self._factor:g}"
        return ", ".join(filter(None, (own, super().extra_repr())))

    def _ask(self, leaves: list[Tensor]) -> Prediction:
        """The synthetic gradient for a trigger, after a check that it can be sent there."""
        _checks.trigger(leaves, self.who)
        return self._predict(leaves, leaves)

    def _cut(self, leaves: list[Tensor], predicted: Prediction) -> tuple[Tensor, ...]:
        """``leaves``, cut: a synthetic gradient goes upstream, now or with the loss."""
        if self.unlock and not deferring():
            self._sends_in(True)
            self._send_upstream(leaves, predicted, self._factor)
            learner = _learner(leaves[0].grad_fn)
            fresh = [leaf.detach().requires_grad_() for leaf in leaves]
            outputs = self._intercept(fresh, predicted, None, 1.0)
            if learner is not None and learner.grad is not None:
                kept = partial(_still_there, weakref.ref(learner), learner._version, self.who)
                outputs[0].register_hook(kept)  # type: ignore[no-untyped-call]
            return outputs
        if torch.compiler.is_compiling():
            mix, factor = self._schedule.unbind()
            return self._intercept(leaves, predicted, mix, factor)
        return self._intercept(leaves, predicted, self._mix, self._factor)

    def _intercept(
        self, leaves: list[Tensor], predicted: Prediction, mix: Weight | None, factor: Weight
    ) -> tuple[Tensor, ...]:
        return Cut.apply(*predicted, mix, factor, self, *leaves)  # type: ignore[no-untyped-call, no-any-return]

    def _send_upstream(self, leaves: list[Tensor], predicted: Prediction, factor: float) -> Tensor:
        """Backpropagate from the trigger, now or deferred, which uses up its graph."""
        self._may_backpropagate()
        synthetic = self.objective.scaled(*predicted, leaves[0].dtype)
        if factor == 0:
            return synthetic
        parts = _trees.split(weighted(synthetic, factor), leaves)
        backward_all(list(zip(leaves, parts, strict=True)), self.who)
        if not deferring():
            for leaf in leaves:
                if leaf.grad_fn is not None:  # a leaf has no graph that could be used up
                    leaf.register_hook(partial(_refuse_second_backward, self.who))  # type: ignore[no-untyped-call]
        return synthetic

    def _write_schedule(self) -> None:
        """Make a new tensor each time: a compiled backward pass may still hold the old one."""
        weights, device = [self._mix, self._factor], self._schedule.device
        self._schedule = torch.tensor(weights, dtype=torch.float32, device=device)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> BackwardInterface:
        """Fill the schedule again: ``to_empty`` leaves garbage, ``half`` rounds."""
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        self._write_schedule()
        return self


def _learner(node: Node | None) -> Tensor | None:
    """One of the nearest parameters that a gradient from ``node`` reaches."""
    nodes, seen = deque([node] if node is not None else []), 0
    while nodes and seen < NEAR:
        node, seen = nodes.popleft(), seen + 1
        variable = getattr(node, "variable", None)
        if variable is not None:
            return variable  # type: ignore[no-any-return]
        nodes.extend(child for child, _ in node.next_functions if child is not None)
    return None


def _still_there(learner: weakref.ref[Tensor], version: int, who: str, gradient: Tensor) -> None:
    """A hook where the real gradient arrives: warn if the synthetic one was erased, unused."""
    parameter = learner()
    if parameter is not None and parameter.grad is None and parameter._version == version:
        _checks.erased(who)


def _refuse_second_backward(who: str, gradient: Tensor) -> None:
    """A hook on a trigger whose graph has been used up."""
    _checks.second_backward(who)
