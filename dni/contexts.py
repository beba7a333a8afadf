r"""The only state of the library: a context to condition on, and gradients to defer.

PyTorch has no channel besides a module's arguments. A label that should reach a
synthesizer three modules down would have to be threaded through every ``forward`` on
the way, and a gradient that may only run *later* has nowhere to wait. This file gives
each of them a place, private to the thread that put it there and gone when its ``with``
block ends, however it ends::

    synthesizer_context(y)          defer_backward()
    ----------------------          ----------------
    push y                          open a list
      interface(h): reads y           backward(a, g_a): append
    pop, in ``finally``               backward(b, g_b): append
                                    close it; torch.autograd.backward([a, b], [g_a, g_b])

It is a ``threading.local``, not a ``ContextVar``: ``torch.compile`` traces the former.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor

from dni import _checks

__all__ = ["backward", "defer_backward", "synthesizer_context"]


class _ThreadState(threading.local):
    def __init__(self) -> None:
        self.contexts: list[Any] = []
        self.deferred: list[tuple[Tensor, Tensor | None]] | None = None


_state = _ThreadState()


@contextmanager
def synthesizer_context(context: Any) -> Iterator[None]:
    r"""Condition every synthesizer called inside the block on ``context`` (*cDNI*).

    Blocks nest, the innermost wins, and ``None`` hides an outer context. The context
    is read when an interface runs *forward*; the backward pass may come after the
    block. It reaches ``synthesizer.forward(trigger, context)`` unchanged.

    Args:
        context: anything the synthesizers understand. The ready-made ones take a
            float tensor (``context_dim``) or integer labels (``context_classes``).

    Example:
        >>> synthesizer = dni.BasicSynthesizer(output_dim=4, context_classes=10)
        >>> interface = dni.BackwardInterface(synthesizer, unlock=False)
        >>> h = torch.ones(2, 4, requires_grad=True)
        >>> with dni.synthesizer_context(torch.tensor([3, 7])):
        ...     h_cut = interface(h)
        >>> torch.equal(h_cut, h)
        True
    """
    _state.contexts.append(context)
    try:
        yield
    finally:
        _state.contexts.pop()


@contextmanager
def defer_backward() -> Iterator[None]:
    r"""Collect gradients inside the block and backpropagate them in one pass at its end.

    Real and synthetic gradients often meet in the same nodes: the loss of a window and
    the synthetic gradient of its last state both run through the same recurrent graph,
    which PyTorch frees after the first of two passes. Inside this block
    :func:`backward` and every interface only *note* their gradient; at the end

    .. math:: \frac{\partial}{\partial \theta} \sum_i \langle g_i, t_i(\theta) \rangle

    is computed by one ``torch.autograd.backward`` over all noted pairs
    :math:`(t_i, g_i)`. If the block raises, what was noted is discarded.

    Raises:
        RuntimeError: if a block is already open in this thread.

    Example:
        >>> w = torch.tensor(3.0, requires_grad=True)
        >>> h = w * w
        >>> with dni.defer_backward():
        ...     dni.backward(h, torch.tensor(1.0))
        ...     dni.backward(2 * h)
        ...     print(w.grad)
        None
        >>> w.grad
        tensor(18.)
    """
    _checks.not_deferring(_state.deferred is not None)
    noted: list[tuple[Tensor, Tensor | None]] = []
    _state.deferred = noted
    try:
        yield
    finally:
        _state.deferred = None
    if noted:
        backward_all(noted, "dni.defer_backward")


def backward(tensor: Tensor, gradient: Tensor | None = None) -> None:
    r"""Backpropagate ``gradient`` from ``tensor``, or note it for :func:`defer_backward`.

    Args:
        tensor: what to backpropagate from; it must be part of a graph.
        gradient: :math:`\partial L / \partial` ``tensor``, of the same shape; may be
            left out where ``tensor`` is a scalar loss.

    Example:
        >>> w = torch.tensor([1.0, 2.0], requires_grad=True)
        >>> dni.backward(w * w, torch.tensor([1.0, 0.5]))
        >>> w.grad
        tensor([2., 2.])
    """
    _checks.backward_arguments(tensor, gradient)
    backward_all([(tensor, gradient)], "dni.backward")


def backward_all(pairs: Sequence[tuple[Tensor, Tensor | None]], who: str) -> None:
    """Backpropagate all ``(tensor, gradient)`` pairs in one pass, now or deferred."""
    if _state.deferred is not None:
        _state.deferred.extend(pairs)
        return
    try:
        with outside_autocast(pairs[0][0]):
            torch.autograd.backward([t for t, _ in pairs], [g for _, g in pairs])
    except RuntimeError as error:
        if "a second time" in str(error):
            _checks.second_backward(who, error)
        if "functorch" in str(error):
            _checks.inside_transform(who, error)
        raise


def outside_autocast(tensor: Tensor) -> AbstractContextManager[None]:
    """Autocast turned off, for a backward pass during the forward pass.

    Its operations then run in the dtypes of their forward. Under autocast they would all be
    narrow, and 1e-9 is 0 in half precision.
    """
    device = tensor.device.type
    if torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device):
        return torch.autocast(device, enabled=False)
    return nullcontext()


def current_context() -> Any:
    """The innermost context of this thread, or ``None``."""
    return _state.contexts[-1] if _state.contexts else None


def inside_backward() -> bool:
    """Whether this thread is in a backward pass: the engine takes a callback only there."""
    try:
        torch.autograd.Variable._execution_engine.queue_callback(_nothing)
    except RuntimeError:
        return False
    return True


def _nothing() -> None:
    pass


def deferring() -> bool:
    """Whether this thread is inside :func:`defer_backward`."""
    return _state.deferred is not None
