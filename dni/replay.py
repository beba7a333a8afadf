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
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import mse_loss
from torch.utils.hooks import RemovableHandle

from dni import _checks, _trees
from dni.interfaces import interfaces_of
from dni.interfaces.unshaped import Unshaped

__all__ = ["Replay"]


class Moment(NamedTuple):
    """What a synthesizer was asked, what it should have said, and the autocast it was asked in."""

    trigger: Tensor
    context: Any
    target: Tensor
    narrow: torch.dtype | None


class Replay:
    r"""Remembers what the synthesizers of ``model`` have learnt from, to be learnt from again.

    A memory holds the last ``keep`` triples :math:`(h, c, m / r)` of each synthesizer: the
    trigger, the context, and the real message in units of the scale that it was regressed with
    (:mod:`dni._objective`). Each loss that :meth:`losses` gives is

    .. math:: L = \sum_S \frac{1}{n} \big\lVert S(h, c) - m / r \big\rVert^2

    over the synthesizers :math:`S`, with a moment of its own memory drawn for each.

    Such gradients join those of the newest messages, and one step of the optimiser uses all of
    them: a larger batch for the regression alone, which bears a higher rate.

    Old messages teach what the network was: ``keep`` steps of the network should not change
    it much. A short memory is learnt by heart instead. ``benchmarks/README.rst`` has figures.

    Args:
        model: any module with interfaces; all of them are remembered until this is closed. Not
            replicas of ``DistributedDataParallel``, which averages no gradients but its own.
        keep: moments in a memory. It costs ``keep`` times what a step sends, and is not part
            of a checkpoint.

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
        _checks.positive("dni.Replay", keep=keep)
        interfaces = interfaces_of(model)
        waiting = [module.name for module in model.modules() if isinstance(module, Unshaped)]
        _checks.not_replicated(model, "dni.Replay")
        _checks.shaped_before_watching(waiting, "dni.Replay")
        _checks.has_interfaces(len(interfaces), "dni.Replay")
        found = {id(one.synthesizer): one.synthesizer for one in interfaces.values()}
        self._memories = [_Memory(synthesizer, keep) for synthesizer in found.values()]
        self._draw = random.Random(0)  # one of its own: the training's random numbers stay
        hooks = [memory.synthesizer.register_forward_hook(memory) for memory in self._memories]
        self._stop = weakref.finalize(self, _remove, hooks)

    def losses(self, count: int = 3) -> Iterator[Tensor]:
        """``count`` losses, each made when it is asked for; none while nothing is remembered."""
        _checks.loss_count(count, "dni.Replay")
        for _ in range(count):
            losses = [memory.loss(self._draw) for memory in self._memories if memory.moments]
            if losses:
                yield torch.stack([loss.to(losses[0]) for loss in losses]).sum()

    def close(self) -> None:
        """Remember nothing more; what is remembered can still be learnt. Losing it closes it."""
        self._stop()


class _Memory:
    """A forward hook of one synthesizer, and what it has seen being learnt."""

    def __init__(self, synthesizer: nn.Module, keep: int) -> None:
        self.synthesizer = synthesizer
        self.moments: deque[Moment] = deque(maxlen=keep)
        self._replaying = False

    def __call__(self, synthesizer: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        """Wait for the gradient of the regression: with the output it tells the target."""
        if self._replaying or not (isinstance(output, Tensor) and output.requires_grad):
            return
        if torch.compiler.is_compiling():  # no graph holds a memory
            torch.compiler.disable(self._wait)(inputs, output)  # type: ignore[no-untyped-call]
        else:
            self._wait(inputs, output)

    def _wait(self, inputs: tuple[Any, ...], output: Tensor) -> None:
        trigger, context = _trees.map_tensors(lambda _, one: one.detach().clone(), inputs)
        device = trigger.device.type
        narrow = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else None
        moment = Moment(trigger, context, output.detach(), narrow)
        output.register_hook(partial(self._arrived, moment))  # type: ignore[no-untyped-call]

    def _arrived(self, moment: Moment, gradient: Tensor) -> None:
        """``dL/du = 2 (u - m / r) / n``."""
        target = moment.target - gradient * (gradient.numel() / 2)
        self.moments.append(moment._replace(target=target))

    def loss(self, draw: random.Random) -> Tensor:
        """The regression of a moment drawn."""
        trigger, context, target, narrow = draw.choice(self.moments)
        self._replaying = True
        try:
            with torch.autocast(trigger.device.type, narrow, enabled=narrow is not None):
                return mse_loss(self.synthesizer(trigger, context), target)
        finally:
            self._replaying = False

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
