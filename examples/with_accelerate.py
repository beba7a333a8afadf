"""Decoupled in a loop of Accelerate: ``python -m examples.with_accelerate``.

The network's optimiser is prepared, so it deals with the gradient scaler, where the precision has
one. The synthesizers' gradients are not scaled, even where the loss is. So their optimiser is not
prepared, and steps separately.
"""

from __future__ import annotations

import argparse

import torch
import torch.nn.functional as F
from accelerate import Accelerator
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import dni
from examples.data import CLASSES, load
from examples.with_lightning import network


def train(accelerator: Accelerator, model: nn.Module, loader: DataLoader, steps: int) -> nn.Module:  # type: ignore[type-arg]
    """The usual loop, and one more optimiser."""
    base = torch.optim.Adam(dni.base_parameters(model), lr=3e-4)
    synthesizers = torch.optim.Adam(dni.synthesizer_parameters(model), lr=3e-3)
    model, base, loader = accelerator.prepare(model, base, loader)
    done = 0
    while done < steps:
        for x, y in loader:
            base.zero_grad()
            synthesizers.zero_grad()
            with dni.synthesizer_context(y):
                loss = F.cross_entropy(model(x), y)
            accelerator.backward(loss)
            base.step()
            synthesizers.step()
            done += 1
            if done == steps:
                break
    plain: nn.Module = dni.strip(accelerator.unwrap_model(model))
    return plain.eval()


def main() -> None:
    """Train; print the error."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", help="digits (default), mnist, or a folder of IDX files")
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--precision", default="bf16", choices=["no", "bf16", "fp16"])
    arguments = parser.parse_args()
    torch.manual_seed(0)
    data = load(arguments.data)
    train_x, test_x = data.train_x.flatten(1), data.test_x.flatten(1)
    model = network(train_x.shape[1])
    dni.decouple(model, nn.ReLU, sample=train_x[:2], context_classes=CLASSES, nonfinite="skip")
    loader = DataLoader(TensorDataset(train_x, data.train_y), 256, shuffle=True, drop_last=True)
    accelerator = Accelerator(mixed_precision=arguments.precision)
    model = train(accelerator, model, loader, arguments.steps)
    with torch.no_grad():
        scores = model(test_x.to(accelerator.device))
    wrong = (scores.argmax(1).cpu() != data.test_y).float().mean()
    print(f"test error {100 * float(wrong):.2f} %")


if __name__ == "__main__":
    main()
