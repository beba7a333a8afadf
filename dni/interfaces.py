r"""Interfaces: where two parts of a network exchange messages.

PyTorch couples the parts of a network through one graph: part A hands an activation
:math:`h` to part B and then waits, for B's forward pass and for the gradient
:math:`g = \partial L / \partial h` to come back. An interface stands at that place. It
asks a *synthesizer* for the message that is not there yet, hands that on, and when the
real message arrives teaches it to the synthesizer (:mod:`dni._objective`):

==========================  ===================  ==============================  ===================
interface                   predicts             from the trigger                for whom
==========================  ===================  ==============================  ===================
:class:`BackwardInterface`  the gradient ``g``   the activation ``h``            A need not wait
:class:`ForwardInterface`   the activation       what both know, e.g. the input  B need not wait
both, as one                both                 both                            nobody waits
==========================  ===================  ==============================  ===================

In eval mode and under ``torch.no_grad()`` every interface is the identity, bit for bit,
and calls no synthesizer.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from dni import _checks, _trees
from dni._autograd import Cut, Substitute, Weight, weighted
from dni._objective import Objective
from dni.contexts import backward_all, current_context, deferring

__all__ = [
    "BackwardInterface",
    "BidirectionalInterface",
    "ForwardInterface",
    "UnidirectionalInterface",
]


class UnidirectionalInterface(nn.Module):
    r"""One direction of messages: a synthesizer, its objective, ``send`` and ``receive``.

    The two ends may live in different places. One end has the real message and the
    trigger, and *sends*: the synthesizer learns. The other has only the trigger, and
    *receives*: the synthesizer predicts.

    Args:
        synthesizer: any module with ``forward(trigger, context)`` that returns one
            tensor of the message's shape. Of a message of several tensors it sees, and
            returns, them joined along the last dimension.
        normalize: regress the message divided by its running root mean square, and
            scale predictions back (:mod:`dni._objective`). An interface whose
            synthesizer has no parameters that require grad never learns a scale, and
            sends its output as it is.
        nonfinite: what to do with a real message that holds NaN or Inf: ``"raise"`` an
            error that names the interface, or ``"skip"`` it. Either way the synthesizer
            does not learn from it. A compiled region cannot raise, and skips.
        name: how errors call this interface.

    Shapes:
        trigger: whatever the synthesizer takes; message: whatever it returns.

    Example:
        >>> interface = dni.UnidirectionalInterface(dni.BasicSynthesizer(output_dim=3))
        >>> trigger, message = torch.eye(3), torch.ones(3, 3)
        >>> optimizer = torch.optim.SGD(interface.parameters(), lr=0.5)
        >>> for _ in range(50):
        ...     optimizer.zero_grad()
        ...     interface.send(message, trigger)
        ...     optimizer.step()
        >>> interface.receive(trigger).mean().round(decimals=2)
        tensor(1.)
    """

    def __init__(
        self,
        synthesizer: nn.Module,
        *,
        normalize: bool = True,
        nonfinite: str = "raise",
        name: str | None = None,
    ) -> None:
        super().__init__()
        self.name = name
        _checks.is_synthesizer(synthesizer, self.who)
        _checks.one_of("nonfinite", nonfinite, ("raise", "skip"), self.who)
        self.synthesizer = synthesizer
        self.objective = Objective(normalize, nonfinite)

    @property
    def who(self) -> str:
        """How errors call this interface."""
        kind = type(self).__name__
        return kind if self.name is None else f"{kind} {self.name!r}"

    def send(self, message: Any, trigger: Any) -> None:
        r"""Teach the synthesizer that ``trigger`` came with the real ``message``.

        The gradient of the objective is added to the synthesizer's parameters at once,
        or at the end of :func:`dni.defer_backward`. None flows into either argument. In
        eval mode and under ``no_grad`` there is nothing to teach.
        """
        if self._learning:
            real, _ = _trees.flatten(message, self.who)
            known, _ = _trees.flatten(trigger, self.who)
            prediction, snapshot = self._predict(known, real)
            self._regress(prediction, real, snapshot)

    def receive(self, trigger: Any) -> Any:
        r"""The synthetic message for ``trigger``: plain data, part of no graph."""
        known, _ = _trees.flatten(trigger, self.who)
        with torch.no_grad():
            return self.objective.scaled(*self._predict(known, None))

    def extra_repr(self) -> str:
        """What ``print(interface)`` says beside the synthesizer."""
        return "" if self.objective.moments is not None else "normalize=False"

    @property
    def _learning(self) -> bool:
        return self.training and torch.is_grad_enabled()

    def _predict(
        self, trigger: list[Tensor], like: list[Tensor] | None
    ) -> tuple[Tensor, Tensor | None]:
        """The synthesizer's output, checked against the message, and the scale to use."""
        joined = _trees.join([tensor.detach() for tensor in trigger], self.who)
        prediction = self.synthesizer(joined, current_context())
        _checks.is_tensor(prediction, self.synthesizer, self.who)
        if like is not None:
            expected = joined if like is trigger else _trees.join(like, self.who)
            _checks.prediction(prediction, expected, self.who)
        return prediction, self.objective.snapshot()

    def _regress(self, prediction: Tensor, real: list[Tensor], snapshot: Tensor | None) -> None:
        """One backward pass into the synthesizer, now or deferred."""
        if prediction.requires_grad:
            message = _trees.join(real, self.who)
            gradient = self.objective.gradient(prediction, message, snapshot, self.who)
            if gradient is not None:
                backward_all([(prediction, gradient)])

    def _check_unlock(self) -> None:
        """``unlock=True`` runs a backward pass of its own: not everywhere possible."""
        if torch.compiler.is_compiling():
            # Left to the interpreter: an exception *inside* a traced region makes the
            # compiler fall back to eager mode in silence. With fullgraph=True nothing is
            # left to it, and the compiler's own error shows this line: it names the remedy.
            refuse: Any = torch.compiler.disable(_checks.refuse_compiled_unlock)  # type: ignore[no-untyped-call]
            refuse(self.who, use="unlock=False")
        _checks.not_distributed(_inside_ddp(), self.who)


class ForwardInterface(UnidirectionalInterface):
    r"""Predicts part B's *input*, so that B can run before part A has.

    Called as ``interface(message, trigger)`` where both are at hand: the synthesizer is
    taught the real message :math:`h`, and the synthetic one takes its place,

    .. math:: \hat h = r \, S(\text{trigger}),

    with no path for a gradient back into ``message``: no original information passes.

    Args:
        unlock: teach the synthesizer during the forward pass (``True``), or together
            with the loss's backward pass (``False``), as compiled regions and DDP need.
        synthesizer, normalize, nonfinite, name: see :class:`UnidirectionalInterface`.

    Example:
        >>> synthesizer = dni.BasicSynthesizer(output_dim=3, trigger_dim=2)
        >>> interface = dni.ForwardInterface(synthesizer)
        >>> h, x = torch.ones(4, 3), torch.ones(4, 2)
        >>> interface(h, x).abs().max()    # a new synthesizer predicts 0
        tensor(0.)
        >>> torch.equal(interface.eval()(h, x), h)
        True
    """

    def __init__(
        self,
        synthesizer: nn.Module,
        *,
        unlock: bool = True,
        normalize: bool = True,
        nonfinite: str = "raise",
        name: str | None = None,
    ) -> None:
        super().__init__(synthesizer, normalize=normalize, nonfinite=nonfinite, name=name)
        self.unlock = unlock

    def forward(self, message: Any, trigger: Any) -> Any:
        """The synthetic message for ``trigger``, having taught the real one."""
        if not self._learning:
            return message
        leaves, rebuild = _trees.flatten(message, self.who)
        return rebuild(self._substitute([leaf.detach() for leaf in leaves], trigger))

    def _substitute(self, real: list[Tensor], trigger: Any) -> tuple[Tensor, ...]:
        """Synthetic values; a gradient goes straight through to ``real``."""
        known, _ = _trees.flatten(trigger, self.who)
        prediction, snapshot = self._predict(known, real)
        if self.unlock and not deferring():
            self._check_unlock()
            self._regress(prediction, real, snapshot)
            prediction = prediction.detach()
        return Substitute.apply(prediction, snapshot, self, *real)  # type: ignore[no-untyped-call, no-any-return]


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


class BidirectionalInterface(nn.Module):
    r"""A :class:`ForwardInterface` and a :class:`BackwardInterface` at one cut.

    Part B runs on a synthetic input, part A learns from a synthetic gradient: a
    *complete unlock*. Called as ``interface(message, trigger)``, with :math:`h` the
    message:

    1. :math:`s = r_g \, S_g(h)` is sent into part A (as :class:`BackwardInterface`);
    2. :math:`\hat h = r_h \, S_h(\text{trigger})` goes on to part B, and :math:`S_h` is
       taught :math:`h` (as :class:`ForwardInterface`);
    3. the gradient that B sends back at :math:`\hat h` is taught to :math:`S_g`.

    In separate processes, A calls :meth:`send` and B calls :meth:`receive`, each on its
    own copy of the interface; synchronise the copies once in a while.

    Args:
        forward_synthesizer: predicts the message from the trigger.
        backward_synthesizer: predicts its gradient from the message.
        unlock, mix, factor: see :class:`BackwardInterface`; ``unlock`` holds for both.
        normalize, nonfinite, name: see :class:`UnidirectionalInterface`.

    See Jaderberg et al. 2017, section 2.2.

    Example:
        >>> interface = dni.BidirectionalInterface(
        ...     dni.BasicSynthesizer(output_dim=3, trigger_dim=2),
        ...     dni.BasicSynthesizer(output_dim=3),
        ... )
        >>> A, x = torch.nn.Linear(2, 3), torch.ones(4, 2)
        >>> interface(A(x), x).shape
        torch.Size([4, 3])
    """

    def __init__(
        self,
        forward_synthesizer: nn.Module,
        backward_synthesizer: nn.Module,
        *,
        unlock: bool = True,
        mix: float = 0.0,
        factor: float = 1.0,
        normalize: bool = True,
        nonfinite: str = "raise",
        name: str | None = None,
    ) -> None:
        super().__init__()
        common: dict[str, Any] = {
            "unlock": unlock,
            "normalize": normalize,
            "nonfinite": nonfinite,
            "name": name,
        }
        self.forward_interface = ForwardInterface(forward_synthesizer, **common)
        self.backward_interface = BackwardInterface(
            backward_synthesizer, mix=mix, factor=factor, **common
        )

    def forward(self, message: Any, trigger: Any) -> Any:
        """The synthetic message for ``trigger``; a synthetic gradient goes into ``message``."""
        if not (self.training and torch.is_grad_enabled()):
            return message
        real = self.backward_interface(message)
        leaves, rebuild = _trees.flatten(real, self.forward_interface.who)
        return rebuild(self.forward_interface._substitute(leaves, trigger))

    def send(self, message: Any, trigger: Any) -> None:
        """Part A's end: teach the message, and learn from a synthetic gradient."""
        self.forward_interface.send(message, trigger)
        self.backward_interface.backward(message)

    def receive(self, trigger: Any) -> Any:
        """Part B's end: a synthetic message that intercepts its real gradient."""
        return self.backward_interface.make_trigger(self.forward_interface.receive(trigger))


def _refuse_second_backward(who: str, gradient: Tensor) -> None:
    """A hook on a trigger whose graph has been used up."""
    _checks.second_backward(who)


def _inside_ddp() -> bool:
    """Whether a ``DistributedDataParallel`` forward pass is running around this call.

    DDP has no public sign of it; the attribute read here is the one that it sets for
    the compiler. Where a release lacks it, this check says no.
    """
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return False
    ddp = torch.nn.parallel.DistributedDataParallel
    return getattr(ddp, "_active_ddp_module", None) is not None
