"""What was predicted and what came: is a synthesizer any good?

The training loss does not tell: the parts below a cut learn *something* from any message. So
the question is asked at the cut itself, where the synthetic and the real message meet during
the backward pass. Three numbers are summed up there in a buffer: no graph is kept, nothing is
copied to the host until the monitor is read, and without a monitor nothing is computed.
"""

from __future__ import annotations

import csv
import itertools
import weakref
from collections import deque
from os import PathLike
from types import TracebackType
from typing import Any, NamedTuple

import torch
from torch import nn

from dni import _checks
from dni._objective import Objective
from dni.interfaces import interfaces_of
from dni.interfaces.unshaped import waiting

__all__ = ["Measurement", "Monitor"]


class Measurement(NamedTuple):
    """Means over the messages of one cut; messages that are all zero do not count."""

    loss: float
    """The synthesizer's objective; if it is normalised, 1 is as good as predicting 0."""
    cosine: float
    """Between synthetic and real message; 1 is perfect, 0 is noise."""
    norm_ratio: float
    """The synthetic message's norm over the real one's."""
    messages: int
    """How many messages were measured."""


class Monitor:
    r"""Measures every interface of ``model`` until the monitor is closed.

    With :math:`s` a synthetic and :math:`m` the real message of one step,

    .. math::
        \text{cosine} = \frac{\langle s, m \rangle}{\lVert s \rVert \lVert m \rVert},
        \qquad \text{norm\_ratio} = \frac{\lVert s \rVert}{\lVert m \rVert}.

    Args:
        model: any module. Interfaces are reported under their names (:func:`.interfaces_of`);
            one attached by :func:`.decouple` has the name of the module that it is attached to.
        keep: how many of the last reads the history keeps; all, if left out.

    Example:
        >>> cut = dni.BackwardInterface(dni.BasicSynthesizer(output_dim=3), unlock=False)
        >>> model = torch.nn.Sequential(torch.nn.Linear(2, 3), cut, torch.nn.Linear(3, 1))
        >>> with dni.diagnostics.Monitor(model) as monitor:
        ...     model(torch.ones(5, 2)).mean().backward()
        ...     measured = monitor.read()
        >>> measured["1"].cosine, measured["1"].messages    # a new synthesizer predicts 0
        (0.0, 1)
    """

    def __init__(self, model: nn.Module, keep: int | None = None) -> None:
        _checks.positive("dni.diagnostics.Monitor", keep=keep)
        interfaces = interfaces_of(model)
        if not interfaces:
            _checks.shaped_before_watching(waiting(model), "dni.diagnostics.Monitor")
        self._objectives = {name: module.objective for name, module in interfaces.items()}
        _checks.monitored_once(any(one.record is not None for one in self._objectives.values()))
        for name, objective in self._objectives.items():
            like = next(itertools.chain(objective.buffers(), interfaces[name].parameters()), None)
            device = None if like is None else like.device
            objective.record = torch.zeros(4, dtype=torch.float32, device=device)
        self._history = {name: deque[Measurement](maxlen=keep) for name in interfaces}
        self._reads = 0
        self._open = True
        self._stop = weakref.finalize(self, _stop, list(self._objectives.values()))

    def read(self) -> dict[str, Measurement]:
        """Return the means since the last call, by interface name, and add them to the history.

        This is the only place where the monitor waits for the device: once an epoch, or every
        hundred steps, costs nothing.
        """
        _checks.monitor_open(self._open)
        self._reads += 1
        measured = {}
        for name, objective in self._objectives.items():
            assert objective.record is not None
            count, *sums = objective.record.tolist()
            objective.record.zero_()
            loss, cosine, norm_ratio = (total / max(count, 1) for total in sums)
            measured[name] = Measurement(loss, cosine, norm_ratio, int(count))
            self._history[name].append(measured[name])
        return measured

    def history(self) -> dict[str, list[Measurement]]:
        """The results of each :meth:`read`, by interface name, the oldest first."""
        return {name: list(seen) for name, seen in self._history.items()}

    def table(self) -> str:
        """The last :meth:`read` as text, one line per interface.

        Example:
            >>> cut = dni.BackwardInterface(dni.BasicSynthesizer(output_dim=3), unlock=False)
            >>> model = torch.nn.Sequential(torch.nn.Linear(2, 3), cut, torch.nn.Linear(3, 1))
            >>> with dni.diagnostics.Monitor(model) as monitor:
            ...     model(torch.ones(5, 2)).mean().backward()
            >>> print(monitor.table())
            interface      loss  cosine  norm ratio  messages
            1             1.000   0.000       0.000         1
        """
        if not self._history:
            return "no interfaces"
        width = max(map(len, ["interface", *self._history]))
        lines = [f"{'interface':{width}s}{'loss':>10s}{'cosine':>8s}{'norm ratio':>12s}  messages"]
        for name, seen in self._history.items():
            if seen:
                loss, cosine, ratio, messages = seen[-1]
                said = f"{loss:10.3f}{cosine:8.3f}{ratio:12.3f}{messages:10d}"
                lines.append(f"{name:{width}s}{said}")
        return "\n".join(lines)

    def to_csv(self, path: str | PathLike[str]) -> None:
        """Write the history as comma-separated values, one line per read and interface."""
        with open(path, "w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["read", "interface", *Measurement._fields])
            for name, seen in self._history.items():
                first = self._reads - len(seen) + 1
                writer.writerows([read, name, *one] for read, one in enumerate(seen, first))

    def scalars(self) -> dict[str, float]:
        """The last :meth:`read` as ``dni/<cut>/<quantity>``, for the cuts that had messages.

        Example:
            >>> cut = dni.BackwardInterface(dni.BasicSynthesizer(output_dim=3), unlock=False)
            >>> model = torch.nn.Sequential(torch.nn.Linear(2, 3), cut, torch.nn.Linear(3, 1))
            >>> with dni.diagnostics.Monitor(model) as monitor:
            ...     model(torch.ones(5, 2)).mean().backward()
            >>> monitor.scalars()
            {'dni/1/loss': 1.0, 'dni/1/cosine': 0.0, 'dni/1/norm_ratio': 0.0}
        """
        return {
            f"dni/{name}/{quantity}": getattr(seen[-1], quantity)
            for name, seen in self._history.items()
            if seen and seen[-1].messages
            for quantity in ("loss", "cosine", "norm_ratio")
        }

    def log(self, writer: Any, step: int) -> None:
        """Write the last :meth:`read` to TensorBoard or to Weights & Biases.

        Args:
            writer: a ``torch.utils.tensorboard.SummaryWriter``, or any object with a
                ``log(dict, step=step)``, such as a W&B run.
            step: the step of the training.
        """
        _checks.writes_scalars(writer)
        if hasattr(writer, "add_scalar"):
            for name, value in self.scalars().items():
                writer.add_scalar(name, value, step)
        else:
            writer.log(self.scalars(), step=step)

    def plot(self, path: str | PathLike[str] | None = None) -> Any:
        """Draw the history as curves over the reads: loss, cosine and norm ratio of each interface.

        Args:
            path: where to save the picture, if anywhere.

        Returns:
            the ``matplotlib`` figure; :mod:`dni.plot` draws single curves, and more.
        """
        from dni import plot

        figure = _checks.plotting().Figure(figsize=(10, 3), layout="constrained")
        for quantity, axes in zip(plot.TITLES, figure.subplots(1, 3), strict=True):
            plot.curves(self, quantity, axes)
        if path is not None:
            figure.savefig(path)
        return figure

    def close(self) -> None:
        """Read what is left, and stop measuring; the history stays."""
        if self._open:
            if any(float(one.record[0]) for one in self._objectives.values()):  # type: ignore[index]
                self.read()
            self._stop()
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


def _stop(objectives: list[Objective]) -> None:
    """Called when a monitor is closed, or garbage collected."""
    for objective in objectives:
        objective.record = None
