"""The smallest script for stages: a network in two processes.

``python -m dni.distributed.launch --stages 2 examples/two_stages.py`` runs it in both processes,
and each finds out which stage it is.
"""

import torch

import dni
from dni import distributed

torch.manual_seed(0)  # the same model in all processes
model = torch.nn.Sequential(
    torch.nn.Linear(20, 64), torch.nn.BatchNorm1d(64), torch.nn.ReLU(), torch.nn.Linear(64, 4)
)
teacher = torch.randn(20, 4)


def batches(start, end=400):
    """Input, target, and a context for the synthesizers; read by the first stage only."""
    for step in range(start, end):
        x = torch.randn(32, 20, generator=torch.Generator().manual_seed(step))
        y = (x @ teacher).argmax(1)
        yield x, y, y


stage = distributed.this_stage(
    model,
    at=["2"],  # after the ReLU
    sample=torch.zeros(2, 20),
    optimizer=lambda network, synthesizers: torch.optim.Adam([*network, *synthesizers]),
    loss=torch.nn.functional.cross_entropy,
    synthesizer=lambda h: dni.synthesizer_for(h, hidden=64, context_classes=4),
)
for _ in stage.train(batches(stage.clock)):
    pass  # after each step: stage.clock, stage.status.read(), a schedule of yours

print({name: stage.status.read()[name] for name in ("clock", "loss", "cosine")})
