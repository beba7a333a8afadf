"""What the three-line documents leave to their reader: data, a loss, a stepwise LSTM."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import dni

MODEL_SIZE, BATCH_SIZE, STEPS = 10, 16, 9


class StepwiseLSTM(nn.LSTM):
    """An LSTM fed one input at a time, that returns ``out, (h, c)``.

    The documents write ``out, hn = nn.LSTMCell(...)(X, hn)`` with states of three
    dimensions. PyTorch's cell returns ``h, c`` and wants two; the loop, which is what the
    documents show, needs a core that does what they say of it.
    """

    def forward(self, x: Tensor, state: Any) -> Any:
        return super().forward(x[None], state)


def regression(out: Tensor, targets: Tensor) -> Tensor:
    """A loss for outputs of any number of steps: the documents give one target for all."""
    return F.mse_loss(out.mean(1) if out.shape[0] == BATCH_SIZE else out[0], targets)


class Optimizers:
    """An optimiser for a network that the block makes itself: found at its first step."""

    def __init__(self) -> None:
        self.parameters: list[nn.Parameter] = []
        self.gradients: list[list[Tensor]] = []
        self.optimizer: torch.optim.Optimizer | None = None

    def watch(self, module: type[nn.Module]) -> Any:
        def make(**sizes: Any) -> nn.Module:
            made = module(**sizes)
            self.parameters = list(made.parameters())
            self.optimizer = torch.optim.SGD(self.parameters, lr=0.05)
            return made

        return make

    def step(self) -> None:
        self.gradients.append([parameter.grad.clone() for parameter in self.parameters])
        self.optimizer.step()

    def zero_grad(self) -> None:
        self.optimizer.zero_grad()


def names(steps_of_one_input: bool) -> dict[str, Any]:
    """The names that the documents' loops use without saying where they come from."""
    optim = Optimizers()
    networks = SimpleNamespace(LSTM=optim.watch(nn.LSTM), LSTMCell=optim.watch(StepwiseLSTM))
    shape = (BATCH_SIZE, MODEL_SIZE) if steps_of_one_input else (BATCH_SIZE, STEPS, MODEL_SIZE)
    batches = [
        (torch.randn(shape), torch.randn(BATCH_SIZE, MODEL_SIZE))
        for _ in range(24 if steps_of_one_input else 4)
    ]
    return {
        "torch": torch,
        "nn": networks,
        "dni": dni,
        "dataloader": batches,
        "loss_func": regression,
        "optim": optim,
        "MODEL_SIZE": MODEL_SIZE,
        "BATCH_SIZE": BATCH_SIZE,
    }
