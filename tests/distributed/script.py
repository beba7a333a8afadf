"""What the stages of ``test_faults.py`` run: ``script.py CHECKPOINTS STEPS WORD ...``.

``complete``: that unlock; ``wider``: another model in each stage; ``exact``: in lock-step, and
every gradient compared with a single process's; ``dies STAGE``: as it is about to end, in its
first life; ``raises STAGE``: after a few steps of that.
"""

from __future__ import annotations

import os
import signal
import sys
import time

import torch
import torch.nn.functional as F
from torch import nn

import dni
from dni.distributed import Stage, UpdateA, this_stage
from dni.distributed.here import random_alike

DTYPE = torch.float64
Batch = tuple[torch.Tensor, torch.Tensor, torch.Tensor]

INPUTS, WIDTH, CLASSES = 20, 32, 4


def network(width: int = WIDTH) -> nn.Sequential:
    """Three layers, cut after the first two."""
    torch.manual_seed(0)
    layers = [
        nn.Sequential(nn.Linear(inputs, width), nn.BatchNorm1d(width), nn.ReLU())
        for inputs in (INPUTS, width, width)
    ]
    return nn.Sequential(*layers, nn.Linear(width, CLASSES)).to(DTYPE)


def labels(x: torch.Tensor) -> torch.Tensor:
    """What is to be learnt."""
    teacher = torch.randn(INPUTS, CLASSES, generator=torch.Generator().manual_seed(1), dtype=DTYPE)
    return (x @ teacher).argmax(1)


def main() -> None:
    """Train this process's stage."""
    folder, steps, *words = sys.argv[1:]
    torch.set_num_threads(1)
    number = int(os.environ["DNI_STAGE"])

    def batches(start: int):  # type: ignore[no-untyped-def]
        for step in range(start, int(steps)):
            x = torch.randn(32, INPUTS, generator=torch.Generator().manual_seed(step), dtype=DTYPE)
            yield x, labels(x), labels(x)

    stage = this_stage(
        network(WIDTH + number if "wider" in words else WIDTH),
        at=["0", "1"],
        sample=torch.zeros(2, INPUTS, dtype=DTYPE),
        optimizer=lambda own, synthesizers: torch.optim.Adam([*own, *synthesizers], 3e-3),
        loss=F.cross_entropy,
        synthesizer=lambda h: dni.synthesizer_for(h, hidden=32, context_classes=CLASSES),
        input_synthesizer=Blind if "complete" in words else None,
        checkpoints=folder,
        checkpoint_every=10,
        silence=2.0,
        queue=0 if "exact" in words else 2,
    )
    print("starts at", stage.clock)
    if "exact" in words:
        compare_gradients(stage, network(), list(batches(0)))
    if "dies" in words and words[-1] == str(number) and os.environ["DNI_LIFE"] == "1":
        end = stage.downstream or stage.upstream
        end.finish = end.channel.close = lambda: die(stage)
    for clock in stage.train(batches(stage.clock)):
        time.sleep(0.002)
        if "raises" in words and words[-1] == str(number) and os.environ["DNI_LIFE"] == "1":
            assert clock < 5, "an error in step 5"


def die(stage: Stage) -> None:
    """By SIGKILL, once all batches are answered: what is still on its way out would be lost."""
    latest = time.monotonic() + 60
    while isinstance(stage.downstream, UpdateA) and stage.downstream.unanswered:
        assert time.monotonic() < latest, "the next stage does not answer"
        stage.downstream.learn(stage.clock)
        time.sleep(0.01)
    os.kill(os.getpid(), signal.SIGKILL)


def compare_gradients(stage: Stage, whole: nn.Sequential, data: list[Batch]) -> None:
    """Train ``whole`` in this process; raise where the stage's gradients are not the same."""
    cuts = []
    for cut in range(2):
        with random_alike(cut):
            made = dni.synthesizer_for(torch.zeros(2, WIDTH, dtype=DTYPE), 1, 32, context_classes=4)
        cuts.append(dni.BackwardInterface(made))
    own = [*whole.parameters(), *(p for cut in cuts for p in cut.parameters())]
    optimizer = torch.optim.Adam(own, 3e-3)
    expected = []
    for x, y, context in data:
        optimizer.zero_grad()
        with dni.synthesizer_context(context):
            h = cuts[1](whole[1](cuts[0](whole[0](x))))
        F.cross_entropy(whole[3](whole[2](h)), y).backward()
        expected.append({name: p.grad.clone() for name, p in whole.named_parameters()})
        optimizer.step()

    def compare(*_: object) -> None:
        for name, parameter in stage.part.named_parameters():
            assert torch.equal(parameter.grad, expected[stage.clock - 1][name]), name
        print("compared", stage.clock)

    stage.optimizer.register_step_pre_hook(compare)


class Blind(nn.Module):
    """Predicts an input from the network's, whatever the context."""

    def __init__(self, x: torch.Tensor, h: torch.Tensor) -> None:
        super().__init__()
        self.inner = dni.BasicSynthesizer(h.shape[-1], 1, 32, trigger_dim=x.shape[-1]).to(DTYPE)

    def forward(self, trigger: torch.Tensor, context: torch.Tensor) -> torch.Tensor:
        """Without the label."""
        out: torch.Tensor = self.inner(trigger)
        return out


if __name__ == "__main__":
    main()
