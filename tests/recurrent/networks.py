"""Recurrent networks with states of every structure, and an oracle for their future."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from dni import _trees

INPUT, HIDDEN, BATCH = 3, 4, 2


class Cell(nn.Module):
    """One input at a time, as many loops are written."""

    def __init__(self, cell: nn.Module) -> None:
        super().__init__()
        self.cell = cell

    def forward(self, x: Tensor, state: Any) -> tuple[Tensor, Any]:
        outputs = []
        for x_t in x:
            state = self.cell(x_t, state)
            outputs.append(state[0] if isinstance(state, tuple) else state)
        return torch.stack(outputs), state


class Ragged(nn.Module):
    """Layers of different width and kind; the state is a list of their states."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.LSTM(INPUT, HIDDEN + 1), nn.GRU(HIDDEN + 1, HIDDEN)

    def forward(self, x: Tensor, state: Any) -> tuple[Tensor, Any]:
        first, second = state or (None, None)
        x, first = self.first(x, first)
        x, second = self.second(x, second)
        return x, [first, second]


class Gated(nn.Module):
    """Convolutional candidates and gates, pooled over time: a QRNN."""

    def __init__(self) -> None:
        super().__init__()
        self.gates = nn.Conv1d(INPUT, 2 * HIDDEN, kernel_size=1)

    def forward(self, x: Tensor, state: Any) -> tuple[Tensor, Any]:
        candidates, forget = self.gates(x.permute(1, 2, 0)).permute(2, 0, 1).chunk(2, -1)
        c = x.new_zeros(x.shape[1], HIDDEN) if state is None else state["c"]
        outputs = []
        for z, f in zip(candidates.tanh(), forget.sigmoid(), strict=True):
            c = f * c + (1 - f) * z
            outputs.append(c)
        return torch.stack(outputs), {"c": c}


NETWORKS = {
    "RNN": lambda: nn.RNN(INPUT, HIDDEN),
    "GRU": lambda: nn.GRU(INPUT, HIDDEN),
    "LSTM": lambda: nn.LSTM(INPUT, HIDDEN),
    "LSTM of two layers": lambda: nn.LSTM(INPUT, HIDDEN, num_layers=2),
    "LSTM with projection": lambda: nn.LSTM(INPUT, 2 * HIDDEN, proj_size=HIDDEN),
    "batch first": lambda: nn.LSTM(INPUT, HIDDEN, batch_first=True),
    "RNNCell": lambda: Cell(nn.RNNCell(INPUT, HIDDEN)),
    "GRUCell": lambda: Cell(nn.GRUCell(INPUT, HIDDEN)),
    "LSTMCell": lambda: Cell(nn.LSTMCell(INPUT, HIDDEN)),
    "ragged list": Ragged,
    "QRNN": Gated,
}


class Model(nn.Module):
    """A recurrent core and a readout, in float64; the loss weighs steps differently."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.core, self.readout = NETWORKS[name](), nn.Linear(HIDDEN, 1)
        self.batch_first = name == "batch first"
        self.double()

    def loss(self, x: Tensor, target: Tensor, state: Any, mask: Any = None) -> tuple[Tensor, Any]:
        output, state = self.core(x, state)
        errors = (self.readout(output) - target).square().squeeze(-1)
        return (errors if mask is None else errors * mask).sum(), state

    def zeros(self) -> tuple[Tensor, Tensor]:
        """A first state for an LSTM that can receive a gradient."""
        zeros = torch.zeros(1, BATCH, HIDDEN, dtype=torch.float64)
        return zeros.clone().requires_grad_(), zeros.clone().requires_grad_()

    def data(self, steps: int) -> tuple[Tensor, Tensor]:
        """Inputs and targets."""
        shape = (BATCH, steps) if self.batch_first else (steps, BATCH)
        return torch.randn(*shape, INPUT).double(), torch.randn(*shape, 1).double()


class Future(nn.Module):
    """A synthesizer that knows the message of every trigger it has been shown."""

    def __init__(self) -> None:
        super().__init__()
        self.known: list[tuple[Tensor, Tensor]] = []

    def learn(self, state: Any, message: Sequence[Tensor]) -> None:
        leaves, _ = _trees.flatten(state, "Future")
        trigger = _trees.join([leaf.detach() for leaf in leaves], "Future")
        self.known.append((trigger, _trees.join(list(message), "Future")))

    def forward(self, trigger: Tensor, context: Any) -> Tensor:
        for known, message in self.known:
            if known.shape == trigger.shape and torch.allclose(known, trigger, 1e-9, 1e-9):
                return message
        raise LookupError("asked about a state that it was not shown")


def zeros_like(state: Any) -> list[Tensor]:
    """The leaves of ``state``, as zeros."""
    return [torch.zeros_like(leaf) for leaf in _trees.flatten(state, "zeros")[0]]
