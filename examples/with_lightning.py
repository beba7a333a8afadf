"""Decoupled in Lightning, by its own ``Trainer``: ``python -m examples.with_lightning``.

Two modules train one network. The first uses automatic optimisation, Lightning's default: the
network is decoupled from outside, and nothing else changes. The second uses the early form, which
sends its gradients during ``training_step``, and so optimises by hand.
"""

from __future__ import annotations

import argparse
from typing import Any

import lightning.pytorch as pl
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import dni
from dni.integrations.lightning import DNICallback
from examples.data import CLASSES, load

WIDTH = 256


class Decoupled(pl.LightningModule):
    """Automatic optimisation: cut from outside, in one graph."""

    def __init__(self, inputs: int) -> None:
        super().__init__()
        self.network = network(inputs)
        sample = torch.zeros(2, inputs)
        dni.decouple(self.network, nn.ReLU, sample=sample, context_classes=CLASSES)

    def training_step(self, batch: tuple[Tensor, Tensor], index: int) -> Tensor:
        """The loss, with the labels as context."""
        x, y = batch
        with dni.synthesizer_context(y):
            return F.cross_entropy(self.network(x), y)

    def validation_step(self, batch: tuple[Tensor, Tensor], index: int) -> None:
        """The error."""
        x, y = batch
        self.log("error", 100 * (self.network(x).argmax(1) != y).float().mean(), prog_bar=True)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Adam, with a rate ten times as high for the synthesizers."""
        return torch.optim.Adam(dni.parameter_groups(self, lr=3e-3), lr=3e-4)


class Early(Decoupled):
    """Manual optimisation: parts learn while the forward pass is still going on."""

    def __init__(self, inputs: int) -> None:
        super().__init__(inputs)
        dni.strip(self.network)
        self.network = nn.Sequential(*(part for layer in self.network for part in cut(layer)))
        self.automatic_optimization = False

    def training_step(self, batch: tuple[Tensor, Tensor], index: int) -> None:  # type: ignore[override]
        """``zero_grad`` comes before the forward pass, or it would erase that pass's gradients."""
        x, y = batch
        optimizer: Any = self.optimizers()
        optimizer.zero_grad()
        with dni.synthesizer_context(y):
            loss = F.cross_entropy(self.network(x), y)
        self.manual_backward(loss)
        optimizer.step()


def network(inputs: int) -> nn.Sequential:
    """Three layers."""
    layers: list[nn.Module] = []
    for size in (inputs, WIDTH):
        layers += [nn.Linear(size, WIDTH), nn.BatchNorm1d(WIDTH), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(WIDTH, CLASSES))


def cut(layer: nn.Module) -> list[nn.Module]:
    """``layer``, followed by an interface if the network is to be cut there."""
    if not isinstance(layer, nn.ReLU):
        return [layer]
    synthesizer = dni.synthesizer_for(torch.zeros(2, WIDTH), context_classes=CLASSES)
    return [layer, dni.BackwardInterface(synthesizer)]


def main() -> None:
    """Train both; print their errors, and what the callback has logged."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", help="digits (default), mnist, or a folder of IDX files")
    parser.add_argument("--steps", type=int, default=500)
    arguments = parser.parse_args()
    data = load(arguments.data)
    train, test = (
        TensorDataset(x.flatten(1), y)
        for x, y in ((data.train_x, data.train_y), (data.test_x, data.test_y))
    )
    for kind in (Decoupled, Early):
        pl.seed_everything(0, verbose=False)
        callback = DNICallback(every=min(50, arguments.steps))
        trainer = pl.Trainer(
            max_steps=arguments.steps, callbacks=[callback], accelerator="cpu", logger=False,
            enable_checkpointing=False, enable_model_summary=False, enable_progress_bar=False,
        )  # fmt: skip
        module = kind(data.train_x[0].numel())
        trainer.fit(module, DataLoader(train, 256, shuffle=True, drop_last=True))
        logged = {name: float(value) for name, value in trainer.callback_metrics.items()}
        (tested,) = trainer.validate(module, DataLoader(test, 1000), verbose=False)
        print(f"{kind.__name__}: test error {tested['error']:.2f} %")
        for name, value in logged.items():
            if name.endswith("cosine"):
                print(f"    {name} {value:.2f}")


if __name__ == "__main__":
    main()
