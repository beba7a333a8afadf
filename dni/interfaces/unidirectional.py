"""Messages in one direction: the base class of forward and backward interfaces."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from dni import _checks, _trees
from dni._objective import Objective
from dni.contexts import backward_all, current_context, deferring, inside_backward


class Prediction(NamedTuple):
    """What a synthesizer answered to one trigger."""

    output: Tensor
    """The synthetic message, in units of its scale."""
    snapshot: Tensor | None
    """The scale at that time (:mod:`dni._objective`)."""


class UnidirectionalInterface(nn.Module):
    r"""One direction of messages: a synthesizer, its objective, ``send`` and ``receive``.

    The two ends may live in different places. One end has the real message and the
    trigger, and *sends*: the synthesizer learns. The other has only the trigger, and
    *receives*: the synthesizer predicts. With :math:`m` the real message of :math:`n` elements
    and :math:`u = S(\text{trigger}, \text{context})`,

    .. math::
        \text{learnt on send: } \frac{1}{n} \sum_i \Big(u_i - \frac{m_i}{r}\Big)^2, \qquad
        \text{received: } r u,

    where :math:`r` is a running root mean square of the messages (:mod:`dni._objective`).

    Args:
        synthesizer: any module with ``forward(trigger, context)`` that returns one
            tensor of the message's shape. If a message has several tensors, the synthesizer
            sees and returns them joined along the last dimension.
        normalize: regress the message divided by its running root mean square, and
            scale predictions back (:mod:`dni._objective`). If left out, yes, unless the
            synthesizer says that its messages have a scale of their own
            (:class:`dni.LossSynthesizer`, :class:`dni.LocalLossSynthesizer`). If the
            synthesizer is frozen, the scale stays as it is: 1, if it never learnt. Weights
            saved without a scale, by an older library say, need ``normalize=False`` to load.
        nonfinite: what to do with a real message that holds NaN or Inf: ``"raise"`` an
            error that names the interface, or ``"skip"`` it. Either way the synthesizer
            does not learn from it; the share that ``mix`` sends upstream is sent as it came.
            The check reads one number per message (two, if the synthesizer has a scale of
            its own), for which the host waits on an accelerator. A compiled region neither
            waits nor raises: it skips.
        name: what errors call this interface.

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
        normalize: bool | None = None,
        nonfinite: str = "raise",
        name: str | None = None,
    ) -> None:
        super().__init__()
        kind = type(self).__name__
        self.who = kind if name is None else f"{kind} {name!r}"  # what errors call this interface
        _checks.is_synthesizer(synthesizer, self.who)
        _checks.one_of("nonfinite", nonfinite, ("raise", "skip"), self.who)
        self.synthesizer = synthesizer
        own_scale = bool(getattr(synthesizer, "own_scale", False))
        normalize = _checks.normalize(normalize, own_scale, synthesizer, self.who)
        self.objective = Objective(normalize, nonfinite, own_scale)
        self._sent = False  # in the last forward pass that was not part of a backward pass
        self.register_load_state_dict_pre_hook(_checks.fits_checkpoint)  # type: ignore[no-untyped-call]

    def send(self, message: Any, trigger: Any) -> None:
        r"""Teach the synthesizer that ``trigger`` came with the real ``message``.

        The gradient of the objective accumulates in the synthesizer's parameters at once,
        or at the end of :func:`dni.defer_backward`. No gradient flows into either argument.
        In eval mode and under ``no_grad`` nothing is taught.
        """
        if self._learning:
            real, _ = _trees.flatten(message, self.who)
            known, _ = _trees.flatten(trigger, self.who)
            self._regress(real, self._predict(known, real))

    def receive(self, trigger: Any) -> Any:
        r"""The synthetic message for ``trigger``: plain data, part of no graph.

        It is one tensor, as the synthesizer returns it: only a :class:`BackwardInterface`,
        whose message has the structure of its trigger, knows how to split it.
        """
        known, _ = _trees.flatten(trigger, self.who)
        with torch.no_grad():
            predicted = self._predict(known, None)
            return self.objective.scaled(predicted.output, predicted.snapshot)

    def extra_repr(self) -> str:
        """What ``print(interface)`` shows besides the synthesizer."""
        return "" if self.objective.moments is not None else "normalize=False"

    @property
    def _learning(self) -> bool:
        return self.training and torch.is_grad_enabled()

    def _predict(
        self, trigger: list[Tensor], like: list[Tensor] | None, *, attached: bool = False
    ) -> Prediction:
        """Ask the synthesizer, and check its answer against the real message ``like``."""
        seen = trigger if attached else [tensor.detach() for tensor in trigger]
        joined = _trees.join(seen, self.who)
        if like is not None:
            _checks.floating(like, self.who)
        version = _version(joined)
        try:
            output = self.synthesizer(joined, current_context())
        except RuntimeError as error:  # PyTorch's, perhaps about tensors that do not fit
            _checks.misplaced(self.synthesizer, joined, self.who, error)
            raise
        _checks.unchanged(version, _version(joined), self.synthesizer, self.who)
        _checks.is_tensor(output, self.synthesizer, self.who)
        if like is not None:
            same = len(like) == len(trigger) and all(
                a is b for a, b in zip(like, trigger, strict=True)
            )
            expected = joined if same else _trees.join(like, self.who)
            _checks.prediction(output, expected, self.who)
        return Prediction(output, self.objective.snapshot())

    def _regress(self, real: list[Tensor], predicted: Prediction) -> None:
        """One backward pass into the synthesizer, now or deferred."""
        self._may_backpropagate()
        output, snapshot = predicted
        learning = output.requires_grad
        message = _trees.join(real, self.who)
        gradient = self.objective.gradient(output, message, snapshot, learning, self.who)
        if gradient is not None:
            backward_all([(output, gradient)], self.who)

    def _sends_in(self, forward_pass: bool) -> None:
        """Refuse to send when a forward pass that has already sent is run a second time.

        Checkpointing does so during the backward pass. Its reentrant kind is allowed: there the
        first run builds no graph and sends nothing.
        """
        if torch.compiler.is_compiling():
            return
        again = forward_pass and inside_backward()
        _checks.not_run_again(again and self._sent, self.who)
        self._sent = forward_pass and not again

    def _may_backpropagate(self) -> None:
        """Refuse a backward pass during the forward pass where it would go wrong."""
        if deferring():
            return
        if torch.compiler.is_compiling():
            # Left to the interpreter: an exception *inside* a traced region makes the
            # compiler fall back to eager mode in silence. With fullgraph=True nothing is
            # left to it, and the compiler's own error shows this line, reason and all.
            refuse = _checks.refuse_compiled_unlock
            torch.compiler.disable(refuse, reason="pass unlock=False")(self.who)  # type: ignore[no-untyped-call]
        _checks.not_distributed(inside_ddp(), self.who)


def _version(tensor: Tensor) -> int:
    """A number that grows with each in-place operation; 0 if these are not counted."""
    uncounted = torch.compiler.is_compiling() or tensor.is_inference()
    return 0 if uncounted else tensor._version


def inside_ddp() -> bool:
    """Whether a ``DistributedDataParallel`` forward pass is running around this call.

    DDP has no public sign of it; the attribute read here is one that DDP sets for the
    compiler. In a release without it, the answer is no.
    """
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return False
    ddp = torch.nn.parallel.DistributedDataParallel
    return getattr(ddp, "_active_ddp_module", None) is not None
