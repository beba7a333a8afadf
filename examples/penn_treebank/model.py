"""The language model."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

CORES = {
    "LSTM": (nn.LSTM, {}),
    "GRU": (nn.GRU, {}),
    "RNN_TANH": (nn.RNN, {"nonlinearity": "tanh"}),
    "RNN_RELU": (nn.RNN, {"nonlinearity": "relu"}),
}


class LanguageModel(nn.Module):
    """Embedding, recurrent core, linear readout; tied: the readout is the embedding."""

    def __init__(
        self, tokens: int, core: str, embedding: int, units: int, layers: int, tied: bool
    ) -> None:
        super().__init__()
        if tied and embedding != units:
            raise SystemExit(
                f"--tied makes the readout the embedding: expected equal sizes, got --embedding "
                f"{embedding} and --units {units}."
            )
        kind, options = CORES[core]
        self.embedding = nn.Embedding(tokens, embedding)
        self.core = kind(embedding, units, layers, **options)
        self.readout = nn.Linear(units, tokens)
        if tied:
            nn.init.uniform_(self.embedding.weight, -0.1, 0.1)
            self.readout.weight = self.embedding.weight
        self.state_width = layers * units * (2 if core == "LSTM" else 1)

    def forward(self, tokens: Tensor, state: Any = None) -> tuple[Tensor, Any]:
        """Scores of the tokens that follow ``tokens``, ``(time, batch)``, and the state."""
        output, state = self.core(self.embedding(tokens), state)
        return self.readout(output), state
