"""The arms: ways to train one network, as data."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor, nn

import dni
from examples.data import CLASSES


@dataclass(frozen=True)
class Arm:
    """How the parts below the cuts learn; rates are those of Adam.

    ``lr`` is the network's rate, ``synthesizer_lr`` that of its synthesizers or local heads,
    ``decay`` brings both down to zero in a straight line.
    """

    name: str
    learn: str = "synthetic"  # or "backprop", "nothing", "local"
    labels: bool = False
    raw: bool = False
    mix: float = 0.0
    lr: float = 1e-3
    synthesizer_lr: float = 1e-3
    decay: bool = False
    plain: bool = False  # as older libraries build a synthesizer: not centred
    hidden: int = 1024

    def decouple(self, network: nn.Module, at: str, sample: Tensor) -> None:
        """Put what this arm needs behind the modules ``at``."""
        if self.learn == "backprop":
            return
        options = {"mix": self.mix, "normalize": False if self.raw else None}
        dni.decouple(network, at, self.builder(), sample=sample, **options)

    def builder(self) -> Callable[[Tensor], nn.Module]:
        """What stands behind a module."""
        if self.learn == "local":
            return lambda h: dni.LocalLossSynthesizer(head_for(h), F.cross_entropy)
        if self.learn == "nothing":
            return lambda h: Nothing()
        classes = CLASSES if self.labels else None

        def build(h: Tensor) -> nn.Module:
            made = dni.synthesizer_for(h, hidden=self.hidden, context_classes=classes)
            return made.synthesizer if self.plain else made

        return build


class Nothing(nn.Module):
    """No gradient passes, and none is predicted: only the part above the last cut learns."""

    def forward(self, trigger: Tensor, context: object) -> Tensor:
        """Zeros."""
        return trigger.new_zeros(trigger.shape)


def head_for(h: Tensor) -> nn.Module:
    """A linear classifier of features, or of maps that are averaged to 4 x 4."""
    if h.dim() == 4:
        pool = (nn.AdaptiveAvgPool2d(min(4, h.shape[2])), nn.Flatten())
        return nn.Sequential(*pool, nn.Linear(h.shape[1] * min(4, h.shape[2]) ** 2, CLASSES))
    return nn.Linear(h.shape[-1], CLASSES)


ARMS = {
    arm.name: arm
    for arm in (
        Arm("backprop", "backprop"),
        Arm("no backprop", "nothing"),
        Arm("raw DNI", raw=True, plain=True),
        Arm("raw cDNI", raw=True, plain=True, labels=True),
        Arm("DNI", lr=2e-5, synthesizer_lr=3e-3),
        Arm("cDNI", labels=True),
        Arm("uncentred cDNI", labels=True, plain=True),
        Arm("local loss", "local"),
        Arm("mix 0.1", mix=0.1),
        Arm("mix 0.5", mix=0.5),
    )
}
