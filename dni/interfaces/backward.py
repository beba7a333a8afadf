"""A predicted gradient: part A need not wait for part B."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from dni import _checks, _trees
from dni._autograd import Cut, Weight, weighted
from dni.contexts import backward_all, deferring
from dni.interfaces.unidirectional import UnidirectionalInterface


class BackwardInterface(UnidirectionalInterface):
    r"""Predicts part A's *gradient*, so that A can learn before part B has run.

    Called as ``interface(h)`` between two parts. With :math:`s = r \, S(h, c)` the
    synthetic and :math:`g` the real gradient at the cut, part A receives

    .. math:: \mathit{mix} \cdot g + (1 - \mathit{mix}) \cdot \mathit{factor} \cdot s

    and the synthesizer learns from :math:`g`. There are two forms with the same
    gradients:

    * ``unlock=True``: :math:`s` is backpropagated from ``h`` during the forward pass,
      so that A's gradients exist before B runs. What comes back is a fresh leaf with the
      values of ``h``.
    * ``unlock=False``: one connected graph. Forward is the identity; in the loss's
      backward pass the cut sends :math:`s` upstream in place of :math:`g`. This is the
      form for ``torch.compile``, DDP, checkpointing, skip connections around the cut,
      and a ``zero_grad()`` between forward and backward. Inside
      :func:`dni.defer_backward` every interface takes this form.

    The output shares memory with ``h``; an in-place operation right behind the cut is an
    error of PyTorch's that says so. Use the out-of-place one, or clone.

    Args:
        unlock: see above.
        mix: share of the real gradient, from 0 to 1; needs ``unlock=False``. ``mix=1``
            *observes*: A trains by plain backpropagation, bit for bit, while the
            synthesizer learns. An attribute that may change at any time, also in a
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
        normalize: bool = True,
        nonfinite: str = "raise",
        name: str | None = None,
    ) -> None:
        super().__init__(synthesizer, normalize=normalize, nonfinite=nonfinite, name=name)
        self.unlock = unlock
        self._mix = _checks.mix(mix, unlock, self.who)
        self._factor = _checks.factor(factor, self.who)
        # (mix, factor) as data: a compiled graph reads new values without recompiling
        self.register_buffer("_schedule", torch.tensor([self._mix, self._factor]), persistent=False)

    @property
    def mix(self) -> float:
        """Share of the real gradient in what is sent upstream."""
        return self._mix

    @mix.setter
    def mix(self, value: float) -> None:
        self._mix = _checks.mix(value, self.unlock, self.who)
        self._schedule[0] = self._mix

    @property
    def factor(self) -> float:
        """Scale of the synthetic gradient in what is sent upstream."""
        return self._factor

    @factor.setter
    def factor(self, value: float) -> None:
        self._factor = _checks.factor(value, self.who)
        self._schedule[1] = self._factor

    def forward(self, trigger: Any) -> Any:
        """``trigger``, cut: a synthetic gradient goes up, the real one is intercepted."""
        if not self._learning:
            return trigger
        leaves, rebuild = _trees.flatten(trigger, self.who)
        _checks.trigger(leaves, self.who)
        prediction, snapshot = self._predict(leaves, leaves)
        if self.unlock and not deferring():
            self._check_unlock()
            self._send_upstream(leaves, prediction, snapshot, self._factor)
            leaves = [leaf.detach().requires_grad_() for leaf in leaves]
            return rebuild(self._cut(leaves, prediction, snapshot, None, 1.0))
        return rebuild(self._cut(leaves, prediction, snapshot, *self._weights()))

    def backward(self, trigger: Any, factor: float | None = None) -> None:
        r"""Backpropagate the synthetic gradient of ``trigger`` from it.

        For recurrent networks: called on the last state of a window, it stands in for
        the losses beyond the window. Inside :func:`dni.defer_backward`, where the loss
        of the window joins it in one pass.

        Args:
            trigger: a state that requires grad; a tensor or a structure of tensors.
            factor: overrides the interface's ``factor`` for this call.
        """
        if not self._learning:
            return
        leaves, _ = _trees.flatten(trigger, self.who)
        _checks.trigger(leaves, self.who)
        scale = self._factor if factor is None else _checks.factor(factor, self.who)
        with torch.no_grad():
            prediction, snapshot = self._predict(leaves, leaves)
        self._send_upstream(leaves, prediction, snapshot, scale)

    def make_trigger(self, trigger: Any) -> Any:
        r"""Mark ``trigger`` as a place where a real gradient arrives and is learnt from.

        For recurrent networks: called on the first state of a window, whose gradient is
        the window's own plus what :meth:`backward` sent into its end, the *bootstrapped*
        target. The gradient also passes on into ``trigger`` unchanged; detach it first,
        as truncated BPTT does, where the window before is not to be reached.

        Returns:
            ``trigger`` with the same structure and values.
        """
        if not self._learning:
            return trigger
        leaves, rebuild = _trees.flatten(trigger, self.who)
        _checks.floating(leaves, self.who)
        prediction, snapshot = self._predict(leaves, leaves)
        return rebuild(self._cut(leaves, prediction, snapshot, 1.0, 1.0))

    def receive(self, trigger: Any) -> Any:
        r"""The synthetic gradient for ``trigger``, in the structure of ``trigger``."""
        leaves, rebuild = _trees.flatten(trigger, self.who)
        return rebuild(_trees.split(super().receive(trigger), leaves))

    def extra_repr(self) -> str:
        """What ``print(interface)`` says beside the synthesizer."""
        own = f"unlock={self.unlock}, mix={self._mix:g}, factor={self._factor:g}"
        return ", ".join(filter(None, (own, super().extra_repr())))

    def _weights(self) -> tuple[Weight, Weight]:
        if torch.compiler.is_compiling():
            mix, factor = self._schedule.unbind()
            return mix, factor
        return self._mix, self._factor

    def _cut(
        self,
        leaves: list[Tensor],
        prediction: Tensor,
        snapshot: Tensor | None,
        mix: Weight | None,
        factor: Weight,
    ) -> tuple[Tensor, ...]:
        return Cut.apply(prediction, snapshot, mix, factor, self, *leaves)  # type: ignore[no-untyped-call, no-any-return]

    def _send_upstream(
        self, leaves: list[Tensor], prediction: Tensor, snapshot: Tensor | None, factor: float
    ) -> None:
        """Backpropagate from the trigger, now or deferred; its graph is used up then."""
        synthetic = self.objective.scaled(prediction, snapshot, leaves[0].dtype)
        parts = _trees.split(weighted(synthetic, factor), leaves)
        try:
            backward_all(list(zip(leaves, parts, strict=True)))
        except RuntimeError as error:
            if "a second time" in str(error):
                _checks.second_backward(self.who, error)
            raise
        if not deferring():
            for leaf in leaves:
                if leaf.grad_fn is not None:  # a leaf has no graph that could be used up
                    leaf.register_hook(partial(_refuse_second_backward, self.who))  # type: ignore[no-untyped-call]


def _refuse_second_backward(who: str, gradient: Tensor) -> None:
    """A hook on a trigger whose graph has been used up."""
    _checks.second_backward(who)
