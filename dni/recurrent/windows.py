r"""Truncated BPTT whose windows know of the future.

The loop of truncated BPTT is short, and easy to get wrong: the state must be cut between
two windows, the real gradient of a window's first state must meet the synthetic one that
was sent into the same state a window ago, both gradients of a window must go through its
graph in one pass, and a sequence has an end. :func:`.windows` is that loop::

          window k                                   window k + 1
    --> core ... core --> h --- detach ---> 1. trigger h --> core ... core --> h'
             |            |                      |              |              |
            loss    3. s(h) sent            4. the real       loss       3. s(h') sent
             |            |                    gradient         |              |
             '- 2. one pass over both          arrives: s(h)    '- 2. one pass '
                                               learns it

The target of :math:`s(h)` is *bootstrapped*: the gradient of window :math:`k+1`'s own
loss, plus what :math:`s(h')` sends back through that window,

.. math::
    m(h) = \frac{\partial L_{k+1}}{\partial h}
         + \Big(\frac{\partial h'}{\partial h}\Big)^{\!\top} s(h'), \qquad
    m(h_{last}) = 0,

so that what is learnt about the last windows moves to earlier ones, one window at a time.
Nothing follows the last state of a sequence: nothing is sent into it, and the synthesizer
learns 0 for it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor

from dni import _checks, _trees
from dni.contexts import (
    backward,
    current_context,
    defer_backward,
    deferring,
    synthesizer_context,
)
from dni.interfaces import BackwardInterface
from dni.recurrent.auxiliary import AuxiliaryTask

WHO = "dni.windows"


def windows(
    *sequences: Tensor,
    size: int,
    interface: BackwardInterface | None = None,
    state: Any = None,
    auxiliary: AuxiliaryTask | None = None,
    lengths: Tensor | None = None,
    batch_first: bool = False,
    ends: bool = True,
) -> Loop:
    r"""Truncated BPTT over ``sequences``, with synthetic gradients from beyond each window.

    Yields one :class:`.Window` after another, each of at most ``size`` steps. The body of the
    loop runs the core from ``window.state`` and ends with ``window.backward(loss, state)``. It
    may step the optimiser after each window, or once per sequence.

    Args:
        sequences: tensors that share a time axis: inputs, targets, whatever the body needs.
        size: steps per window.
        interface: predicts the gradient of a window's last state; without one this is
            plain truncated BPTT, the baseline in the same loop.
        state: the first state, of any structure: a learnt one receives its gradient, one
            from an earlier piece of the same stream teaches the synthesizer. Leave it out
            if a sequence starts here and the core makes its own.
        auxiliary: adds the auxiliary task.
        lengths: steps of each row, ``(batch,)``, if they differ. A row that has ended is
            sent nothing and teaches 0; leave its steps out of the loss with ``window.mask``.
            A state has its batch in the last dimension but one, as all of PyTorch's do.
            With ``ends=False``, a row that is as long as the piece goes on in the next one.
        batch_first: sequences are ``(batch, time, ...)``; if not, ``(time, batch, ...)``.
        ends: whether the sequence ends here. Pass ``False`` for a piece of a stream that goes
            on, and the loop's ``state`` to the next call.

    A context (:func:`dni.synthesizer_context`) may stand around the loop, or around
    ``window.backward`` alone if it belongs to one state: the context in which a state's
    synthetic gradient was asked for is used again when the state is learnt. For a first
    ``state``, it is the context around this call.

    Example:
        >>> core, readout = torch.nn.LSTM(3, 8), torch.nn.Linear(8, 1)
        >>> interface = dni.BackwardInterface(dni.BasicSynthesizer(2 * 8, n_hidden=1))
        >>> modules = torch.nn.ModuleList([core, readout, interface])
        >>> optimizer = torch.optim.Adam(modules.parameters())
        >>> x, y = torch.randn(20, 4, 3), torch.randn(20, 4, 1)
        >>> for window in dni.windows(x, y, size=5, interface=interface):
        ...     x_k, y_k = window
        ...     output, state = core(x_k, window.state)
        ...     loss = torch.nn.functional.mse_loss(readout(output), y_k)
        ...     window.backward(loss, state)
        ...     optimizer.step()
        ...     optimizer.zero_grad()
        >>> window.start, window.last
        (15, True)
    """
    time = 1 if batch_first else 0
    _checks.sequences(sequences, time, WHO)
    _checks.window_size(size, WHO)
    _checks.helpers(interface, BackwardInterface, auxiliary, AuxiliaryTask, WHO)
    steps = sequences[0].shape[time]
    if lengths is not None:
        longest = _checks.lengths(lengths, sequences[0], time, WHO)
        lengths = lengths.to(sequences[0].device)
        if not ends:
            lengths = torch.where(lengths == steps, steps + 1, lengths)
        steps = longest
    slices = [torch.split(s.narrow(time, 0, steps), size, time) for s in sequences]
    parts = list(zip(*slices, strict=True))
    return Loop(parts, time, interface, state, auxiliary, lengths, ends)


class Window:
    """A few steps of a sequence, from :func:`.windows`; unpacks into its parts.

    Attributes:
        parts: the slices of the sequences.
        state: what the recurrent core starts from; ``None`` where the core makes its own.
        start: index of the first step in the sequence.
        last: whether the sequence ends with this window.
        mask: ``True`` for the steps within ``lengths``, in the parts' layout; else ``None``.
    """

    def __init__(
        self, loop: Loop, parts: tuple[Tensor, ...], start: int, state: Any, last: bool
    ) -> None:
        self.parts, self.start, self.state, self.last = parts, start, state, last
        self.mask: Tensor | None = None
        if loop.lengths is not None:
            stop = start + parts[0].shape[loop.time]
            index = torch.arange(start, stop, device=loop.lengths.device)
            mask = index[:, None] < loop.lengths
            self.mask = mask.t() if loop.time else mask
            # rows that have steps in this window, and after it: (batch, 1)
            self._inside, self._ahead = ((loop.lengths > step)[:, None] for step in (start, stop))
        self._loop = loop

    def __iter__(self) -> Iterator[Tensor]:
        return iter(self.parts)

    def backward(self, loss: Tensor | None, state: Any) -> None:
        r"""Backpropagate this window: its loss, and the synthetic gradient of ``state``.

        Afterwards the gradients are in ``.grad``, and ``state`` is handed on to the next
        window. Under ``no_grad``, the state is only handed on. If this raises, no synthesizer
        has learnt from the window's gradient; call ``zero_grad()``.

        Args:
            loss: the loss of this window; ``None`` where it has none.
            state: the state after it.
        """
        self._loop._finish(self, loss, state)

    def _after(self, message: Any, other: Callable[[Tensor], Tensor]) -> Any:
        """``message`` in the rows that go on after this window, ``other(message)`` elsewhere."""
        return message if self.mask is None else _choose(self._ahead, message, other)

    def _before(self, message: Any, other: Callable[[Tensor], Tensor]) -> Any:
        """Likewise, with the rows that had not ended before this window."""
        return message if self.mask is None else _choose(self._inside, message, other)


def _choose(rows: Tensor, message: Any, other: Callable[[Tensor], Tensor]) -> Any:
    leaves, rebuild = _trees.flatten(message, WHO)
    return rebuild(torch.where(rows, leaf, other(leaf)) for leaf in leaves)


class Loop:
    """What :func:`.windows` returns: an iterator over windows, for one pass.

    Attributes:
        state: the state after the last finished window, detached: what the next piece of
            a stream starts from, or what a checkpoint keeps.
    """

    def __init__(
        self,
        parts: list[tuple[Tensor, ...]],
        time: int,
        interface: BackwardInterface | None,
        state: Any,
        auxiliary: AuxiliaryTask | None,
        lengths: Tensor | None,
        ends: bool,
    ) -> None:
        self.state, self.time, self.lengths = state, time, lengths
        self._interface, self._auxiliary = interface, auxiliary
        self._parts, self._next, self._start, self._ends = parts, 0, 0, ends
        self._open: Window | None = None
        self._context = current_context()  # in which the last state was asked about

    def __len__(self) -> int:
        return len(self._parts)

    def __iter__(self) -> Iterator[Window]:
        _checks.loop_is_new(self._next < len(self._parts), WHO)
        return self

    def __next__(self) -> Window:
        _checks.window_finished(self._open is None, WHO)
        if self._next == len(self._parts):
            raise StopIteration
        state = self.state
        if state is not None and self._interface is not None:
            with synthesizer_context(self._context):
                state = self._interface.make_trigger(state)  # 1.
        parts, start = self._parts[self._next], self._start
        self._next += 1
        self._start += parts[0].shape[self.time]
        last = self._ends and self._next == len(self._parts)
        self._open = Window(self, parts, start, state, last)
        return self._open

    def _finish(self, window: Window, loss: Tensor | None, state: Any) -> None:
        """:meth:`Window.backward`."""
        _checks.window_open(self._open is window, WHO)
        leaves, rebuild = _trees.flatten(state, WHO)
        if window.state is not None:
            _checks.same_structure(window.state, state, WHO)
        _checks.layout(leaves, window.parts[0], self.time, WHO)
        if self.lengths is not None:
            _checks.batch_of_state(leaves, len(self.lengths), WHO)
        if torch.is_grad_enabled():
            self._backpropagate(window, loss, state, leaves, rebuild)
        self.state = rebuild(leaf.detach() for leaf in leaves)
        self._context, self._open = current_context(), None

    def _backpropagate(
        self,
        window: Window,
        loss: Tensor | None,
        state: Any,
        leaves: list[Tensor],
        rebuild: _trees.Rebuild,
    ) -> None:
        ahead = None if window.last else self._interface  # what predicts beyond this window
        if ahead is not None and ahead.training:
            _checks.state_has_graph(leaves, WHO)
        synthetic = None
        with nullcontext() if deferring() else defer_backward():
            if loss is not None:
                backward(loss)  # 2.
            if ahead is not None:
                synthetic = ahead.backward(window._after(state, Tensor.detach))  # 3.
            if synthetic is None:
                synthetic = rebuild(torch.zeros_like(leaf) for leaf in leaves)
            if self._auxiliary is not None and window.state is not None:
                told = window._after(synthetic, torch.zeros_like)
                with synthesizer_context(self._context):
                    self._auxiliary.send(told, window._before(window.state, Tensor.detach))
        if window.last and self._interface is not None:
            self._interface.send(synthetic, state)
