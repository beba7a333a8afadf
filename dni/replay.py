r"""Regression on more than the newest batch.

A network that learns without labels is held back by its synthesizers: they have to know more
of an activation than the network does, and to know it before the network moves on. One batch
is a noisy teacher for that. Messages that have come already cost no part of the network.
"""

from __future__ import annotations

import random
import weakref
from collections import deque
from collections.abc import Iterator
from contextvars import ContextVar
from functools import partial
from typing import Any, NamedTuple, NoReturn

import torch
from torch import Tensor, nn
from torch.nn.functional import mse_loss
from torch.utils.hooks import RemovableHandle

from dni import _checks, _trees
from dni.interfaces import UnidirectionalInterface, interfaces_of
from dni.interfaces.unidirectional import inside_ddp
from dni.interfaces.unshaped import waiting

__all__ = ["Replay"]

WHO = "dni.Replay"
_replaying = ContextVar("_replaying", default=False)


class Replay:
    r"""Remembers what the synthesizers of ``model`` have learnt from, to be learnt from again.

    A memory holds the last ``keep`` triples :math:`(h, c, m / r)` of each synthesizer: the
    trigger, the context, and the real message in units of the scale that it was regressed with
    (:mod:`dni._objective`). Each loss that :meth:`losses` gives is

    .. math:: L = \sum_S \frac{1}{n} \big\lVert S(h, c) - m / r \big\rVert^2

    over the synthesizers :math:`S`, with a moment of its own memory drawn for each; that of an
    :class:`AuxiliaryTask` counts by its weight.

    Such gradients join those of the newest messages, and one step of the optimiser uses all of
    them: a larger batch for the regression alone.

    Old messages teach what the network was: ``keep`` steps of the network should not change
    it much. ``docs/results.rst`` has figures.

    Args:
        model: any module with interfaces, not compiled and called yet; all of them are remembered
            until this is closed. ``fullgraph=True`` leaves no room for a memory.
        keep: moments in a memory, each a trigger, a context and a message. It is not part of a
            checkpoint.

    Shapes:
        each loss: a scalar.

    Example:
        >>> cut = dni.BackwardInterface(dni.BasicSynthesizer(output_dim=3), unlock=False)
        >>> model = torch.nn.Sequential(torch.nn.Linear(2, 3), cut, torch.nn.Linear(3, 1))
        >>> optimizer = torch.optim.Adam(model.parameters())
        >>> replay = dni.Replay(model)
        >>> for x in torch.randn(10, 5, 2):
        ...     optimizer.zero_grad()
        ...     model(x).square().mean().backward()
        ...     for loss in replay.losses():
        ...         loss.backward()    # reaches the synthesizers alone
        ...     optimizer.step()
    """

    def __init__(self, model: nn.Module, keep: int = 100) -> None:
        _checks.positive(WHO, keep=keep)
        interfaces = interfaces_of(model)
        _checks.shaped_before_watching(waiting(model), WHO)
        _checks.has_interfaces(len(interfaces), WHO)
        found = {id(one.synthesizer): one for one in interfaces.values()}
        self._memories = [_Memory(one, keep) for one in found.values()]
        self._random = random.Random(0)  # the training's random numbers stay what they are
        hooks = [memory.synthesizer.register_forward_hook(memory) for memory in self._memories]
        self._stop = weakref.finalize(self, _remove, hooks)

    def losses(self, count: int = 3) -> Iterator[Tensor]:
        """``count`` losses, each made when it is asked for; none while nothing is remembered."""
        _checks.loss_count(count, WHO)
        learnt = (p for m in self._memories for p in m.synthesizer.parameters())
        if not any(memory.moments for memory in self._memories):
            _checks.remembers_what_is_learnt(any(p.grad is not None for p in learnt))
        return self._losses(count)

    def _losses(self, count: int) -> Iterator[Tensor]:
        for _ in range(count):
            losses = [memory.loss(self._random) for memory in self._memories if memory.moments]
            learning = [loss for loss in losses if loss.requires_grad]
            if learning:
                yield torch.stack([loss.to(learning[0]) for loss in learning]).sum()

    def close(self) -> None:
        """Remember nothing more; what is remembered can still be learnt. Losing it closes it."""
        self._stop()

    def __reduce__(self) -> NoReturn:
        """It stays with its model: a copy of that needs another."""
        _checks.stays_with_its_model(WHO)


class Moment(NamedTuple):
    """What a synthesizer was asked, what it should have said, and the autocast it was asked in."""

    trigger: Tensor
    context: Any
    target: Tensor
    narrow: torch.dtype | None


class _Memory:
    """A forward hook of one synthesizer, and what it has seen being learnt."""

    def __init__(self, interface: UnidirectionalInterface, keep: int) -> None:
        self.interface = interface
        self.synthesizer = interface.synthesizer
        self.moments: deque[Moment] = deque(maxlen=keep)

    @property
    def weight(self) -> float:
        """An auxiliary task's, beside other losses; it may change."""
        return getattr(self.interface, "weight", 1.0)

    def __call__(self, synthesizer: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        """Wait for the gradient of the regression: with the output it tells the target."""
        if _replaying.get() or not (isinstance(output, Tensor) and output.requires_grad):
            return
        if torch.compiler.is_compiling():  # no graph holds a memory
            torch.compiler.disable(self._wait)(inputs, output)  # type: ignore[no-untyped-call]
        else:
            self._wait(inputs, output)

    def _wait(self, inputs: tuple[Any, ...], output: Tensor) -> None:
        _checks.not_replicated(inside_ddp(), WHO)
        given = _trees.map_tensors(lambda _, one: one.detach().clone(), inputs)
        trigger, context = (*given, None)[:2]
        device = trigger.device.type
        narrow = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else None
        moment = Moment(trigger, context, output.detach(), narrow)
        output.register_hook(partial(self._arrived, moment))  # type: ignore[no-untyped-call]

    def _arrived(self, moment: Moment, gradient: Tensor | None) -> None:
        """``weight * 2 (u - m / r) / n``; there is none of a message that was skipped."""
        if gradient is not None and gradient.any():
            target = moment.target - gradient * (gradient.numel() / (2 * self.weight))
            self.moments.append(moment._replace(target=target))

    def loss(self, draw: random.Random) -> Tensor:
        """The regression of a moment drawn."""
        trigger, context, target, narrow = draw.choice(self.moments)
        token = _replaying.set(True)
        try:
            with torch.autocast(trigger.device.type, narrow, enabled=narrow is not None):
                return self.weight * mse_loss(self.synthesizer(trigger, context), target)
        finally:
            _replaying.reset(token)

    def __reduce__(self) -> tuple[Any, ...]:
        """Copies of a synthesizer remember nothing: a replay knows only the original."""
        return _nothing, ()


def _nothing() -> Any:
    return _no_hook


def _no_hook(synthesizer: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
    pass


def _remove(hooks: list[RemovableHandle]) -> None:
    for hook in hooks:
        hook.remove()
