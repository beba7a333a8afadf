"""The arms: ways to train one network, as data."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch.nn.functional as F
from torch import Tensor, nn

import dni
from benchmarks.evidence.pieces import (
    Averaged,
    Normed,
    Nothing,
    PerFeature,
    Unheld,
    close,
    head_for,
    loss,
)
from examples.data import CLASSES

KINDS: dict[str, Callable[[Tensor, int | None], nn.Module]] = {
    "loss": partial(loss, dni.LossSynthesizer),
    "unheld": partial(loss, Unheld),
    "map": lambda h, classes: dni.synthesizer_for(h, 1, context_classes=classes),
    "close": close,
    "normed": lambda h, classes: dni.Centered(Normed(h.shape[1])),
}
"""A synthesizer for a first activation, and a number of classes where labels are told."""


@dataclass(frozen=True)
class Arm:
    """How the parts below the cuts learn.

    ``lr`` is Adam's rate for the network, ``synthesizer_lr`` that for its synthesizers or local
    heads; ``decay`` brings the network's down to zero in a straight line. ``replay`` messages of
    the last ``keep`` join each regression, or have steps of their own. For ``observe`` steps the
    real gradient passes on. ``average`` is the decay of an applied mean of the synthesizer. With
    ``trust`` what is sent is multiplied by the cosine of the last fifty messages. The synthesizer
    is of a ``kind``, or the one that :func:`dni.synthesizer_for` finds.
    """

    name: str
    learn: str = "synthetic"  # or "backprop", "nothing", "local"
    labels: bool = False
    raw: bool = False
    mix: float = 0.0
    lr: float = 1e-3
    synthesizer_lr: float = 1e-3
    decay: bool = False
    replay: int = 0
    keep: int = 100
    own_steps: bool = False
    observe: int = 0
    average: float = 0.0
    plain: bool = False  # as older libraries build a synthesizer: not centred
    hidden: int | None = None
    n_hidden: int = 1
    per_feature: bool = False  # a scale for each feature of a message
    trust: bool = False
    kind: str = ""  # of KINDS

    def decouple(self, network: nn.Module, at: str, sample: Tensor) -> None:
        """Put what this arm needs after the modules ``at``."""
        if self.learn == "backprop":
            return
        mix = 1.0 if self.observe else self.mix
        options = {"mix": mix, "normalize": False if self.raw else None}
        dni.decouple(network, at, self.builder(), sample=sample, **options)

    def builder(self) -> Callable[[Tensor], nn.Module]:
        """What stands after a module."""
        if self.learn == "local":
            return lambda h: dni.LocalLossSynthesizer(head_for(h), F.cross_entropy)
        if self.learn == "nothing":
            return lambda h: Nothing()
        classes = CLASSES if self.labels else None

        def build(h: Tensor) -> nn.Module:
            if self.kind:
                return KINDS[self.kind](h, classes)
            layers = self.n_hidden if self.n_hidden != 1 else None
            made = dni.synthesizer_for(h, layers, self.hidden, context_classes=classes)
            made = made.synthesizer if self.plain else made
            made = PerFeature(made, h.shape[1]) if self.per_feature else made
            return Averaged(made, self.average) if self.average else made

        return build


ARMS = {
    arm.name: arm
    for arm in (
        Arm("backprop", "backprop"),
        Arm("no backprop", "nothing"),
        Arm("raw DNI", raw=True, plain=True),
        Arm("raw cDNI", raw=True, plain=True, labels=True),
        Arm("DNI", lr=2e-5, synthesizer_lr=3e-3),
        Arm("DNI replay", lr=6e-5, synthesizer_lr=3e-3, replay=3, decay=True),
        Arm("cDNI", labels=True),
        Arm("cDNI loss", labels=True, kind="loss"),
        Arm("local loss", "local"),
        Arm("mix 0.1", mix=0.1),
        Arm("mix 0.5", mix=0.5),
    )
}
"""What the table has."""

TRIALS = {
    arm.name: arm
    for arm in (
        # the ratio of the two rates
        Arm("1e-3 1e-3"),
        Arm("1e-4 3e-3", lr=1e-4, synthesizer_lr=3e-3),
        Arm("5e-5 3e-3", lr=5e-5, synthesizer_lr=3e-3),
        Arm("3e-5 3e-3", lr=3e-5, synthesizer_lr=3e-3),
        Arm("1e-5 3e-3", lr=1e-5, synthesizer_lr=3e-3),
        # about "DNI"
        Arm("decay from 5e-5", lr=5e-5, synthesizer_lr=3e-3, decay=True),
        Arm("observe 500", lr=2e-5, synthesizer_lr=3e-3, observe=500),
        Arm("average 0.99", lr=2e-5, synthesizer_lr=3e-3, average=0.99),
        Arm("hidden 256", lr=2e-5, synthesizer_lr=3e-3, hidden=256),
        Arm("hidden 2048", lr=2e-5, synthesizer_lr=3e-3, hidden=2048),
        Arm("two layers", lr=2e-5, synthesizer_lr=3e-3, n_hidden=2),
        Arm("batch norm", lr=2e-5, synthesizer_lr=3e-3, kind="normed"),
        Arm("per feature", lr=2e-5, synthesizer_lr=3e-3, per_feature=True),
        Arm("trust", lr=2e-5, synthesizer_lr=3e-3, trust=True),
        Arm("1e-3 1e-3 trust", trust=True),
        Arm("uncentred DNI", lr=2e-5, synthesizer_lr=3e-3, plain=True),
        Arm("raw DNI slow", raw=True, plain=True, lr=2e-5, synthesizer_lr=3e-3),
        # about "DNI replay"
        Arm("replay constant", lr=3e-5, synthesizer_lr=3e-3, replay=3),
        Arm("replay of 8", lr=3e-5, synthesizer_lr=3e-3, replay=3, keep=8),
        Arm("replay steps", lr=3e-5, replay=3, own_steps=True),
        Arm("replay 5e-5", lr=5e-5, synthesizer_lr=3e-3, replay=3),
    )
}
"""What was tried to make synthesizers better, without labels."""

TOLD_TRIALS = {
    arm.name: arm
    for arm in (
        Arm("backprop 3e-4", "backprop", lr=3e-4),
        Arm("backprop decay", "backprop", decay=True),
        Arm("cDNI decay", labels=True, decay=True),
        Arm("cDNI 3e-4 3e-3", labels=True, lr=3e-4, synthesizer_lr=3e-3),
        Arm("uncentred cDNI", labels=True, plain=True),
        Arm("cDNI per feature", labels=True, per_feature=True),
        Arm("cDNI hidden 256", labels=True, hidden=256),
        Arm("cDNI two layers", labels=True, hidden=512, n_hidden=2),
        Arm("cDNI linear", labels=True, n_hidden=0),
        Arm("cDNI loss decay", labels=True, kind="loss", decay=True),
        Arm("local decay", "local", decay=True),
        Arm("cDNI average 0.99", labels=True, average=0.99),
        Arm("cDNI replay", labels=True, replay=3),
    )
}
"""And with labels."""

MAP_TRIALS = {
    arm.name: arm
    for arm in (
        Arm("DNI decay", lr=3e-4, synthesizer_lr=3e-3, decay=True),
        Arm("no backprop decay", "nothing", decay=True),
        Arm("cDNI unheld", labels=True, kind="unheld"),
        Arm("cDNI map", labels=True, kind="map"),
        Arm("cDNI close", labels=True, kind="close"),
    )
}
"""And between convolutions."""

ALL = ARMS | TRIALS | TOLD_TRIALS | MAP_TRIALS
