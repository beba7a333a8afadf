r"""Local learning: a message that is computed from a loss of its own, not predicted.

A synthesizer predicts what a loss far above will send back. A *local* loss needs no
prediction: a small head looks at the activation, its loss is known at once, and so is
the gradient of that loss. Seen from a cut, this is one more way to answer before the
real gradient is there; the only difference is what the synthesizer is trained on::

    trigger --> head --> local loss <-- context (labels)
       ^                    |
       '--- dL/dtrigger ----+---> message, as it is
            dL/dhead -------'---> kept; given to the head when the real message comes
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from dni import _checks
from dni.contexts import outside_autocast


class LocalLossSynthesizer(nn.Module):
    r"""A synthesizer whose message is the gradient of a local loss (*decoupled greedy learning*).

    With a head :math:`q` over the trigger :math:`h` and a context :math:`c`,

    .. math::
        s = \frac{\partial}{\partial h} \, \ell\big(q(h), c\big),

    and the head learns from :math:`\ell` too, when an ordinary synthesizer would learn: in the
    backward pass that brings the real message. That message itself teaches nothing;
    :class:`dni.diagnostics.Monitor` still compares the two. The synthesizer has a scale of its
    own, so interfaces do not normalize it; a factor on the network's loss (from a GradScaler, or
    for accumulation) belongs in ``loss`` as well. ``mix`` and ``factor`` weigh what is sent to
    the part below, never what the head learns.

    Args:
        head: any module from a trigger to the first argument of ``loss``. An interface trains
            it, and :func:`dni.synthesizer_parameters` finds its parameters.
        loss: ``loss(head(trigger), context)``, a scalar: the mean over a batch, if the
            network's own loss is a mean.

    Shapes:
        trigger: whatever ``head`` takes; message: that of the trigger; context: whatever
        ``loss`` takes.

    See Belilovsky et al. 2020, *Decoupled Greedy Learning of CNNs*.

    Example:
        >>> head = torch.nn.Linear(4, 10)
        >>> cut = dni.BackwardInterface(
        ...     dni.LocalLossSynthesizer(head, torch.nn.functional.cross_entropy), unlock=False
        ... )
        >>> h, labels = torch.randn(3, 4, requires_grad=True), torch.tensor([1, 2, 3])
        >>> with dni.synthesizer_context(labels):
        ...     cut(h).sum().backward()
        >>> local = torch.nn.functional.cross_entropy(head(h), labels)
        >>> torch.allclose(h.grad, *torch.autograd.grad(local, h))
        True
    """

    own_scale = True

    def __init__(self, head: nn.Module, loss: Callable[[Any, Any], Tensor]) -> None:
        super().__init__()
        _checks.local_head(head, loss, type(self).__name__)
        self.head = head
        self.loss = loss

    def forward(self, trigger: Tensor, context: Any = None) -> Tensor:
        """The gradient of the local loss at ``trigger``."""
        learning = [p for p in self.head.parameters() if p.requires_grad]
        with torch.enable_grad():
            h = trigger.detach().requires_grad_()
            predicted = self.head(h)
            try:
                loss = self.loss(predicted, context)
            except TypeError as error:
                _checks.local_context(context, type(self).__name__, error)
                raise
            _checks.local_loss(loss, type(self).__name__)
            with outside_autocast(h):
                message, *gradients = torch.autograd.grad(loss, [h, *learning], allow_unused=True)
        _checks.head_looks(message, type(self).__name__)
        if not torch.is_grad_enabled() or not learning:
            return message
        count = len(learning)
        return _Given.apply(count, message, *gradients, *learning)  # type: ignore[no-untyped-call, no-any-return]


class _Given(torch.autograd.Function):
    """``message``, with a backward that hands out gradients that are already known."""

    @staticmethod
    def forward(count: int, message: Tensor, *tensors: Tensor | None) -> Tensor:
        return message.clone()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        count, _, *tensors = inputs
        ctx.save_for_backward(*tensors[:count])

    @staticmethod
    def backward(ctx: Any, *regression: Tensor) -> tuple[Tensor | None, ...]:
        gradients = ctx.saved_tensors
        return (None, None, *(None for _ in gradients), *gradients)
