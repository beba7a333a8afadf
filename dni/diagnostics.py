"""What was predicted and what came: is a synthesizer any good?

A training loss hides it. Parts below a cut learn *something* from any message, so the
question is asked at the cut itself, where synthetic and real message meet during the
backward pass. There three numbers are summed up in a buffer: no graph is kept, nothing
is copied to the host until somebody reads, and without a monitor nothing is computed.
"""

from __future__ import annotations

import itertools
from types import TracebackType
from typing import NamedTuple

import torch
from torch import nn

from dni import _checks
from dni.interfaces import UnidirectionalInterface

__all__ = ["Measurement", "Monitor"]


class Measurement(NamedTuple):
    """Means over the messages of one cut; zero messages do not count."""

    loss: float
    """The synthesizer's objective; 1 is as good as predicting 0 where it is normalized."""
    cosine: float
    """Between synthetic and real message: 1 is perfect, 0 is noise."""
    norm_ratio: float
    """The synthetic message's norm over the real one's."""
    messages: int
    """Messages measured."""


class Monitor:
    r"""Measures every interface of ``model`` until it is closed.

    With :math:`s` a synthetic and :math:`m` the real message of one step,

    .. math::
        \text{cosine} = \frac{\langle s, m \rangle}{\lVert s \rVert \lVert m \rVert},
        \qquad \text{norm\_ratio} = \frac{\lVert s \rVert}{\lVert m \rVert}.

    Args:
        model: any module; interfaces are reported under their qualified names.

    Example:
        >>> cut = dni.BackwardInterface(dni.BasicSynthesizer(output_dim=3), unlock=False)
        >>> model = torch.nn.Sequential(torch.nn.Linear(2, 3), cut, torch.nn.Linear(3, 1))
        >>> with dni.diagnostics.Monitor(model) as monitor:
        ...     model(torch.ones(5, 2)).mean().backward()
        ...     measured = monitor.read()
        >>> measured["1"].cosine, measured["1"].messages    # a new synthesizer predicts 0
        (0.0, 1)
    """

    def __init__(self, model: nn.Module) -> None:
        interfaces = {
            name: module
            for name, module in model.named_modules()
            if isinstance(module, UnidirectionalInterface)
        }
        self._objectives = {name: module.objective for name, module in interfaces.items()}
        _checks.monitored_once(any(one.record is not None for one in self._objectives.values()))
        for name, objective in self._objectives.items():
            like = next(itertools.chain(objective.buffers(), interfaces[name].parameters()), None)
            device = None if like is None else like.device
            objective.record = torch.zeros(4, dtype=torch.float32, device=device)
        self._open = True

    def read(self) -> dict[str, Measurement]:
        """The means since the last call, by the interface's name."""
        _checks.monitor_open(self._open)
        measured = {}
        for name, objective in self._objectives.items():
            assert objective.record is not None
            count, *sums = objective.record.tolist()
            objective.record.zero_()
            loss, cosine, norm_ratio = (total / max(count, 1) for total in sums)
            measured[name] = Measurement(loss, cosine, norm_ratio, int(count))
        return measured

    def close(self) -> None:
        """Stop measuring."""
        if self._open:
            for objective in self._objectives.values():
                objective.record = None
        self._open = False

    def __enter__(self) -> Monitor:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()
