"""What the callbacks here have in common: schedules of ``mix`` and ``factor``."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from torch import nn

from dni.interfaces import BackwardInterface, ForwardInterface

__all__ = ["Schedules", "early"]

Schedule = Callable[[int], float]


class Schedules(NamedTuple):
    """Functions of the step; those that are left out change nothing."""

    mix: Schedule | None = None
    factor: Schedule | None = None

    def apply(self, model: nn.Module, step: int) -> None:
        """Set the values for ``step`` in every backward interface of ``model``."""
        for interface in model.modules():
            if isinstance(interface, BackwardInterface):
                if self.mix is not None:
                    interface.mix = self.mix(step)
                if self.factor is not None:
                    interface.factor = self.factor(step)


def early(model: nn.Module) -> list[str]:
    """The names of interfaces that send during the forward pass."""
    return [
        name
        for name, module in model.named_modules()
        if isinstance(module, (BackwardInterface, ForwardInterface)) and module.unlock
    ]
