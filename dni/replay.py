r"""Regression on past messages, not only on the newest batch.

A network that learns without labels is held back by its synthesizers: they have to know more
of an activation than the network does, and to know it before the network moves on. One batch
is a noisy teacher for that. Past messages can teach too, and no part of the network has to run.
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
    r"""Remembers what the synthesizers of ``model`` learn from, so that they can learn it again.

    A memory holds the last ``keep`` triples :math:`(h, c, m / r)` of each synthesizer: the
    trigger, the context, and the real message in units of the scale that it was regressed with
    (:mod:`dni._objective`). Each loss that :meth:`losses` yields is

    .. math:: L = \sum_S \frac{1}{n} \big\lVert S(h, c) - m / r \big\rVert^2

    over the synthesizers :math:`S`. For each of them one moment is drawn from its own memory; the
    term of an :class:`AuxiliaryTask` counts by its weight.

    These gradients are added to those of the newest messages, and one step of the optimiser uses
    both: a larger batch, for the regression alone.

    Old messages describe the network as it was, so it should not change much in ``keep`` steps.
    ``docs/results.rst`` has figures.

    Args:
        model: any module with interfaces; a compiled one must not have been called yet. All
            interfaces are remembered until the replay is closed. ``fullgraph=True`` does not work.
        keep: how many moments a memory holds, each a trigger, a context and a message. A memory
            is not part of a checkpoint.

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
        self._random = random.Random(0)  # leaves the training's random numbers alone
        hooks = [memory.synthesizer.register_forward_hook(memory) for memory in self._memories]
        self._stop = weakref.finalize(self, _remove, hooks)

    def losses(self, count: int = 3) -> Iterator[Tensor]:
        """``count`` losses, each computed when asked for; none while nothing is remembered."""
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
        """Remember nothing more; what is remembered can still be learnt. Deletion closes it too."""
        self._stop()

    def __reduce__(self) -> NoReturn:
        """Refuse: a replay stays with its model, and a copy of the model needs its own."""
        _checks.stays_with_its_model(WHO)


class Moment(NamedTuple):
    """What a synthesizer was asked, what it should have said, and under which autocast."""

    trigger: Tensor
    context: Any
    target: Tensor
    narrow: torch.dtype | None


class _Memory:
    """A forward hook on one synthesizer, and the moments that the synthesizer has learnt from."""

    def __init__(self, interface: UnidirectionalInterface, keep: int) -> None:
        self.interface = interface
        self.synthesizer = interface.synthesizer
        self.moments: deque[Moment] = deque(maxlen=keep)

    @property
    def weight(self) -> float:
        """An auxiliary task's weight beside other losses, which may change; for others 1."""
        return getattr(self.interface, "weight", 1.0)

    def __call__(self, synthesizer: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        """Wait for the gradient of the regression: it and the output give the target."""
        if _replaying.get() or not (isinstance(output, Tensor) and output.requires_grad):
            return
        if torch.compiler.is_compiling():  # a compiled graph cannot hold a memory
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
        """Recover the target from ``weight * 2 (u - m / r) / n``; a skipped message has none."""
        if gradient is not None and gradient.any():
            target = moment.target - gradient * (gradient.numel() / (2 * self.weight))
            self.moments.append(moment._replace(target=target))

    def loss(self, draw: random.Random) -> Tensor:
        """The regression of one moment, drawn at random."""
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
