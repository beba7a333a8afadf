"""Networks to decouple, small, and what plain backpropagation says about them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dni import _trees
from examples.decouple_any.networks import ResNet18, Transformer
from tests.cases import Oracle


class Encoder(nn.Module):
    """PyTorch's own transformer over features, with a head over the first place."""

    def __init__(self) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 3, enable_nested_tensor=False)
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.encoder(x)[:, 0])


class Recurrent(nn.Module):
    """A module that puts out a tuple, all of which is used."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(4, 6)
        self.core = nn.LSTM(6, 5, num_layers=2, batch_first=True)
        self.head = nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        output, (h, c) = self.core(self.first(x))
        return self.head(output.mean(1) + h[-1] * c[0])


class Named(nn.Module):
    """A module that puts out a dict with things that are no activation."""

    class Part(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(4, 6)

        def forward(self, x: Tensor) -> dict[str, Any]:
            h = torch.tanh(self.linear(x))
            return {"h": h, "also": [h.square(), None], "rows": torch.arange(len(x)), "name": "a"}

    def __init__(self) -> None:
        super().__init__()
        self.part = Named.Part()
        self.head = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        found = self.part(x)
        assert found["name"] == "a"
        return self.head(found["h"] + found["also"][0]) + found["rows"][:, None]


class Shared(nn.Module):
    """One module, under two names, at two places."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(4, 4)
        self.again = self.first
        self.head = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.tanh(self.again(torch.tanh(self.first(x)))))


def mlp() -> nn.Sequential:
    return nn.Sequential(
        *(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 8)),
        *(nn.Dropout(0.1), nn.Tanh(), nn.Linear(8, 3)),
    )


def images(*size: int) -> Tensor:
    return torch.randn(6, *size)


def tokens() -> Tensor:
    return torch.randint(7, (3, 5))


# name: (network, input, classes, at, the names of the cuts)
CASES: dict[str, tuple[Callable[[], nn.Module], Callable[[], Tensor], Any, list[str]]] = {
    "sequential": (mlp, lambda: images(4), ["2", "5"], ["2", "5"]),
    "residual": (
        lambda: ResNet18(width=4),
        lambda: images(1, 8, 8),
        ["layer[123]"],
        ["layer1.1", "layer2.1", "layer3.1"],
    ),
    "transformer": (
        lambda: Transformer(7, width=8, layers=3, heads=2),
        tokens,
        "layers.*",
        ["layers.0", "layers.1", "layers.2"],
    ),
    "encoder": (
        Encoder,
        lambda: images(5, 8),
        nn.TransformerEncoderLayer,
        [f"encoder.layers.{k}" for k in range(3)],
    ),
    "tuple": (Recurrent, lambda: images(5, 4), ["first", nn.LSTM], ["first", "core"]),
    "dict": (Named, lambda: images(4), "part", ["part"]),
    "shared": (Shared, lambda: images(4), ["first", "again"], ["first"]),
}


def loss_of(model: nn.Module, x: Tensor) -> Tensor:
    """A loss whose labels follow from the input."""
    scores = model(x)
    labels = torch.arange(scores[..., 0].numel(), device=x.device) % scores.shape[-1]
    return F.cross_entropy(scores.flatten(0, -2), labels)


def real_messages(model: nn.Module, names: list[str], x: Tensor) -> dict[str, list[Tensor]]:
    """What backpropagation sends to each tensor after each cut, in the order of the calls."""
    reached: list[tuple[str, Tensor]] = []

    def keep(name: str) -> Callable[..., Any]:
        def hook(module: nn.Module, arguments: Any, output: Any) -> Any:
            def one(place: _trees.Place, tensor: Tensor) -> Tensor:
                if not tensor.requires_grad:
                    return tensor
                apart = tensor.clone()
                reached.append((name + _trees.written(place), apart))
                return apart

            return _trees.map_tensors(one, output)

        return hook

    handles = [model.get_submodule(name).register_forward_hook(keep(name)) for name in names]
    found = torch.autograd.grad(loss_of(model, x), [tensor for _, tensor in reached])
    for handle in handles:
        handle.remove()
    messages: dict[str, list[Tensor]] = {}
    for (name, _), message in zip(reached, found, strict=True):
        messages.setdefault(name, []).append(message)
    return messages


def oracles(messages: dict[str, list[Tensor]]) -> Callable[[Tensor], nn.Module]:
    """A function that builds, for each cut in order, one that knows what will come."""
    known = iter(messages.values())
    return lambda output: Oracle(next(known))
