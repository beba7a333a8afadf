"""Decoupled stages on the same network, split and samples: the arm that all others are for.

Each stage trains on a batch as soon as it has one. Its synthesizer is told the labels, and predicts
a loss; ``--hidden`` makes it a perceptron. ``pieces`` is how many parts a batch is trained on in,
before the optimiser steps: unlike a pipeline's, they fill nothing, and only bound what is held at
once.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import dni
from benchmarks.stages import network
from benchmarks.stages.memory import Held
from benchmarks.stages.processes import Clock, Outcome, Setting, Share, launch, outcome
from dni.distributed import Place, this_stage
from examples.data import CLASSES, Images, load

QUEUE = 2


def train_decoupled(rank: int, folder: str, setting: Setting, pieces: int, queue: int) -> Share:
    """The work of one stage."""
    data = load(setting.data)
    model = setting.network(data)

    def adam(own: list[nn.Parameter], synthesizers: list[nn.Parameter]) -> torch.optim.Optimizer:
        groups = [{"params": own}, {"params": synthesizers, "lr": setting.rate * setting.pace}]
        return torch.optim.Adam(
            [group for group in groups if group["params"]], setting.rate, fused=True
        )

    stage = this_stage(
        model,
        network.cuts(model, setting.stages),
        sample=setting.batch_of(data, 0)[0][:2],
        optimizer=adam,
        loss=F.cross_entropy,
        synthesizer=lambda h: synthesizer(h, setting.hidden, pieces),
        queue=queue,
        accumulate=pieces,
        place=Place(rank, setting.stages, f"file://{Path(folder, 'store')}"),
    )
    clock = Clock(stage.part, setting)
    interfaces = [one for end in stage.ends if (one := end.interface()) is not None]
    with Held(stage.part, *interfaces) as held:
        for done in stage.train(batches(setting, data, pieces)):
            if done % pieces == 0:
                clock.tick()
    counters = [end.channel.counters.bytes_sent for end in stage.ends]
    return Share(clock.states, clock.stamps, clock.busy, held.peak, sum(counters))


def synthesizer(h: Tensor, hidden: int, pieces: int) -> nn.Module:
    """A predicted loss, of which each piece is a part; or a perceptron with ``hidden`` units."""
    if hidden:
        return dni.synthesizer_for(h, hidden=hidden, context_classes=CLASSES)
    return dni.Centered(dni.LossSynthesizer(h.shape[1], CLASSES, scale=1 / pieces))


def batches(setting: Setting, data: Images, pieces: int) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Those of every arm, with labels as context."""
    for step in range(setting.steps):
        x, y = setting.batch_of(data, step)
        size = setting.batch // pieces
        for part_x, part_y in zip(x.split(size), y.split(size), strict=True):
            yield part_x.clone(), part_y.clone(), part_y.clone()


def decoupled(setting: Setting, data: Images, pieces: int = 1, queue: int = QUEUE) -> Outcome:
    """A process of one thread for each stage."""
    shares = launch(train_decoupled, setting.stages, setting, pieces, queue)
    made = outcome(f"decoupled, pieces: {pieces}", shares, setting, data)
    made.at_most = float(setting.stages)
    return made
