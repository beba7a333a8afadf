r"""Synthetic gradients for an existing loop, in three lines.

:class:`Synthesizer` is for those who have a training loop and want to keep it: it owns its
interface and its optimiser, and needs two calls. That is possible because nothing is learnt
until :meth:`.Synthesizer.step`::

    out, h = rnn(window, h)
    loss.backward(retain_graph=True)   # or after the next line, then without retain_graph
    h = synth.backward_synthetic(h)    # 1. s(h) goes into the window, h is cut: a leaf
    optimizer.step()
       ...                             # 2. the next window's gradients, real and
       ...                             #    synthetic, add up in the leaf's .grad
    synth.step()                       # 3. s(h) learns what its leaf has collected

Whether a window's loss comes before or after its synthetic gradient makes no difference to
the sum in ``.grad``, so both orders work.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dni import _checks, _trees
from dni.contexts import current_context, outside_autocast, synthesizer_context
from dni.interfaces import BackwardInterface
from dni.recurrent.auxiliary import AuxiliaryTask
from dni.synthesizers import BasicSynthesizer, Centered

WHO = "dni.Synthesizer"


@dataclass
class _Boundary:
    """A state between two windows, and what is known of it."""

    leaves: list[Tensor]
    """Handed to the user; the next window's gradient arrives in their ``.grad``."""
    synthetic: list[Tensor]
    """What was predicted for it."""
    context: Any
    kept: bool = False
    """Whether a ``step()`` has left it to the next one, as its gradient is still to come."""

    @property
    def reached(self) -> bool:
        return any(leaf.grad is not None for leaf in self.leaves)

    @property
    def message(self) -> list[Tensor]:
        """The real gradient; zero where the sequence ended here."""
        return [
            torch.zeros_like(leaf) if leaf.grad is None else leaf.grad.clone()
            for leaf in self.leaves
        ]


class Synthesizer(nn.Module):
    r"""Synthetic gradients for an existing loop of truncated BPTT, in three lines.

    The signature is that of an older library, whose loops run unchanged. It wraps a
    :class:`dni.BackwardInterface` with a multi-layer perceptron (:class:`dni.Centered`), and
    an optimiser of its own: do not give its parameters to another one. For a state :math:`h`
    it learns the gradient that the next window leaves there, including what :math:`s(h')` at
    the end of that window sends back,

    .. math::
        m(h) = \frac{\partial L}{\partial h}
             + \Big(\frac{\partial h'}{\partial h}\Big)^{\!\top} \mathit{factor} \cdot s(h') .

    Args:
        size: width of the hidden state.
        is_lstm: whether the state is ``(h, c)``; if not, it is a tensor, or any structure
            whose widths add up to ``size``. Stacked layers share one small perceptron.
        hidden_layers: number of hidden layers of the perceptron; 0 is linear.
        factor: scale of the synthetic gradient where it is sent; the paper uses 0.1.
        allow_backwarding: whether the loss of the regression also reaches the state, in
            units of the real gradients. Like every loss after the state, it gets there by
            way of the synthetic gradient.
        activation: class of the perceptron's activation.
        optimizer: class of its optimiser.
        lr: the optimiser's rate. A synthesizer follows a network that moves: faster is
            better, until it diverges.
        aux: whether to add the auxiliary task (:class:`dni.AuxiliaryTask`).
        use_improvement: whether to teach 0 for the last state of a sequence. That is a state
            that was the newest at one ``step()`` and has no gradient by the next.
        context_dim, context_classes: see :class:`dni.BasicSynthesizer`; the context is that of
            :func:`dni.synthesizer_context` around :meth:`backward_synthetic`.
        normalize: see :class:`dni.UnidirectionalInterface`; ``False`` was the older library's way.

    Shapes:
        state: ``(h, c)``, each ``(layers, batch, size)`` or ``(batch, size)``; without
        ``is_lstm``, one such tensor.

    Example:
        >>> rnn = torch.nn.GRU(3, 8)
        >>> optimizer = torch.optim.SGD(rnn.parameters(), lr=0.1)
        >>> synth = dni.Synthesizer(size=8, is_lstm=False)
        >>> h = None
        >>> for x in torch.randn(20, 4, 3).split(5):
        ...     out, h = rnn(x, h)
        ...     out.square().mean().backward(retain_graph=True)
        ...     h = synth.backward_synthetic(h)
        ...     optimizer.step()
        ...     optimizer.zero_grad()
        >>> synth.step()
        >>> h.requires_grad, h.is_leaf
        (True, True)
    """

    def __init__(
        self,
        size: int,
        is_lstm: bool = True,
        hidden_layers: int = 1,
        factor: float = 1,
        allow_backwarding: bool = False,
        activation: type[nn.Module] = nn.GELU,
        optimizer: type[torch.optim.Optimizer] = torch.optim.AdamW,
        lr: float = 1e-4,
        aux: bool = False,
        use_improvement: bool = True,
        *,
        context_dim: int | None = None,
        context_classes: int | None = None,
        normalize: bool | None = None,
    ) -> None:
        super().__init__()
        _checks.positive(WHO, size=size)
        _checks.classes(WHO, activation=activation, optimizer=optimizer)
        width = 2 * size if is_lstm else size

        def perceptron() -> nn.Module:
            made = BasicSynthesizer(
                width,
                n_hidden=hidden_layers,
                context_dim=context_dim,
                context_classes=context_classes,
                activation=activation(),
            )
            return Centered(made)

        self.is_lstm, self.use_improvement = is_lstm, use_improvement
        self.allow_backwarding = allow_backwarding
        self.interface = BackwardInterface(
            perceptron(), factor=factor, normalize=normalize, name=WHO
        )
        self.auxiliary = AuxiliaryTask(perceptron(), name=f"{WHO}, aux") if aux else None
        self.optimizer = optimizer(self.parameters(), lr=lr)  # type: ignore[call-arg]
        self.register_load_state_dict_pre_hook(_checks.fits_checkpoint)  # type: ignore[no-untyped-call]
        self.register_load_state_dict_post_hook(_follow_parameters)  # type: ignore[no-untyped-call]
        self._boundaries: list[_Boundary] = []
        self._idle_steps = 0  # steps in a row in which no state had received a gradient

    @property
    def factor(self) -> float:
        """Scale of the synthetic gradient where it is sent."""
        return self.interface.factor

    @factor.setter
    def factor(self, value: float) -> None:
        self.interface.factor = value

    def backward_synthetic(self, hidden: Any, loss: Tensor | None = None) -> Any:
        r"""Backpropagate a synthetic gradient from ``hidden``, and cut it.

        Call it after ``loss.backward(retain_graph=True)``, or before ``loss.backward()``;
        before ``optimizer.step()`` either way.

        Args:
            hidden: the state after the window, as the network returned it.
            loss: not needed; older loops pass it.

        Returns:
            ``hidden``, detached, as a leaf that collects its gradient: the next window
            must start from it.
        """
        if not (self.training and torch.is_grad_enabled()):
            return hidden
        leaves, rebuild = _trees.flatten(hidden, WHO)
        _checks.lstm_state(hidden, self.is_lstm, WHO)
        before = self._boundaries[-1] if self._boundaries else None
        _checks.state_to_cut(leaves, before.leaves if before and not before.kept else None, WHO)
        synthetic, _ = _trees.flatten(self.interface.receive(rebuild(leaves)), WHO)
        loss_was_first = before is not None and before.reached
        with _checks.misplaced_line(WHO), outside_autocast(leaves[0]):
            torch.autograd.backward(
                leaves,
                [self.factor * part for part in synthetic],
                retain_graph=not loss_was_first,  # else the loss is done: free the graph
            )
        fresh = [leaf.detach().requires_grad_() for leaf in leaves]
        self._boundaries.append(_Boundary(fresh, synthetic, current_context()))
        return rebuild(fresh)

    def step(self) -> None:
        """Learn from the windows since the last ``step()``.

        Call it after the last window of a sequence; after every window works as well. The
        newest state waits for the next call: its gradient is still to come. What waits to
        be learnt is kept until then, one state per window.
        """
        if not (self.training and torch.is_grad_enabled()):
            return
        boundaries, self._boundaries = self._boundaries, []
        _checks.stepped_after_a_window(bool(boundaries) and not boundaries[-1].kept, WHO)
        *done, newest = boundaries
        for boundary in done:
            _checks.state_was_used(boundary.reached or boundary.kept, WHO)
            _checks.finite_gradients(boundary.message, WHO)
        newest.kept = True
        self._boundaries = [newest]
        try:
            for boundary, after in pairwise(boundaries):
                if boundary.reached or self.use_improvement:
                    self._learn(boundary, after)
            self.optimizer.step()
        finally:
            self.optimizer.zero_grad()
        self._idle_steps = 0 if any(boundary.reached for boundary in done) else self._idle_steps + 1
        _checks.idle_steps(self._idle_steps, WHO)

    def _learn(self, boundary: _Boundary, after: _Boundary) -> None:
        """3. One regression: the gradients of all losses after the state are its target."""
        with synthesizer_context(boundary.context):
            if self.auxiliary is not None and boundary.reached:
                self.auxiliary.send(after.synthetic, boundary.leaves)
            message = boundary.message
            if self.allow_backwarding:
                message = self._with_own_loss(boundary, message)
            self.interface.send(message, boundary.leaves)
        for leaf in boundary.leaves:  # a gradient from now on comes too late
            leaf.register_hook(_refuse_late_gradient)  # type: ignore[no-untyped-call]

    def _with_own_loss(self, boundary: _Boundary, message: list[Tensor]) -> list[Tensor]:
        """``message`` plus the gradient of the regression itself."""
        objective = self.interface.objective
        trigger, target = (_trees.join(part, WHO) for part in (boundary.leaves, message))
        scale = objective.scaled(target.new_ones(()), objective.snapshot())
        loss = F.mse_loss(self.interface.synthesizer(trigger, boundary.context), target / scale)
        with outside_autocast(loss):
            own = torch.autograd.grad(loss, boundary.leaves)
        return [real + scale * extra for real, extra in zip(message, own, strict=True)]

    def get_extra_state(self) -> dict[str, Any]:
        """The optimiser's state: ``state_dict`` has all that a resumed run needs."""
        return self.optimizer.state_dict()

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """The inverse of :meth:`get_extra_state`."""
        _checks.same_optimizer(self.optimizer.state_dict(), state, WHO)
        self.optimizer.load_state_dict(state)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Synthesizer:
        """``.to(device)`` takes the optimiser along; earlier states are of no use afterwards."""
        before = next(self.parameters())
        kind = before.device, before.dtype
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        _follow_parameters(self)
        after = next(self.parameters())
        if (after.device, after.dtype) != kind:
            self._boundaries = []
        return self

    def __getstate__(self) -> dict[str, Any]:
        """A copy starts between sequences: no gradient reaches copied states."""
        return self.__dict__ | {"_boundaries": []}


def _follow_parameters(synthesizer: Synthesizer, *_: Any) -> None:
    """Give the optimiser the module's parameters again, after a move or ``assign=True``."""
    state = synthesizer.optimizer.state_dict()
    synthesizer.optimizer.param_groups[0]["params"] = list(synthesizer.parameters())
    synthesizer.optimizer.state.clear()
    synthesizer.optimizer.load_state_dict(state)


def _refuse_late_gradient(gradient: Tensor) -> None:
    """A hook on a state that has been learnt."""
    _checks.late_gradient(WHO)
