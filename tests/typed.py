"""What a user writes, for ``mypy --strict`` to read."""

from __future__ import annotations

import torch
from torch import Tensor, nn

import dni
from dni.diagnostics import Measurement, Monitor


class Network(nn.Module):
    """Interfaces in a module of one's own."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 8), nn.Linear(8, 2)
        self.cut = dni.BackwardInterface(dni.BasicSynthesizer(8, context_classes=2), unlock=False)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.b(self.cut(torch.relu(self.a(x))))
        return out


class Doubling(nn.Module):
    """A synthesizer of one's own."""

    def forward(self, trigger: Tensor, context: Tensor | None) -> Tensor:
        return 2 * trigger


def train(model: Network, x: Tensor, y: Tensor) -> dict[str, Measurement]:
    optimizer = torch.optim.Adam(dni.parameter_groups(model, lr=1e-2))
    with Monitor(model) as monitor, dni.synthesizer_context(y):
        dni.backward(nn.functional.cross_entropy(model(x), y))
        optimizer.step()
        return monitor.read()


def recurrent(core: nn.LSTM, x: Tensor) -> Tensor:
    interface = dni.BackwardInterface(dni.Centered(dni.BasicSynthesizer(2 * core.hidden_size)))
    total = torch.zeros(())
    for window in dni.windows(x, size=5, interface=interface):
        output, state = core(*window, window.state)
        loss = output.square().mean()
        window.backward(loss, state)
        total += loss.detach()
    return total


def attached() -> nn.Sequential:
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    plain: nn.Sequential = dni.strip(dni.decouple(model, nn.ReLU, lambda h: Doubling()))
    return plain
