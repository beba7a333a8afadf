r"""How much of a gradient can be predicted at all, from an activation alone or with its label?

A synthesizer that learns on line chases a network that moves. Here the network stands still:
it is trained by backpropagation for a while and frozen; the gradients at each cut are collected
over the training set; and a synthesizer is fitted to five sixths of them for some epochs. What it
explains of the others, which it has never seen, in its best epoch,

.. math:: R^2 = 1 - \frac{\sum \lVert s - g \rVert^2}{\sum \lVert g \rVert^2},

estimates what a synthesizer of this kind can know of *that* network. With cross-entropy the best
prediction from :math:`h` alone is :math:`W^T (p - q(y | h))`, :math:`p` being the network's
output and :math:`q` the true posterior: as the network becomes calibrated, nothing is left.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import dni
from benchmarks import measure
from benchmarks.evidence.networks import NETWORKS
from examples.data import CLASSES, Images, load

BATCH, EPOCHS, HELD_OUT = 256, 15, 6


def gradients(network: nn.Sequential, images: Images) -> dict[int, tuple[Tensor, Tensor, Tensor]]:
    """``(h, g, y)`` at each cut, batch by batch as in training; ``g`` of a sum over samples."""
    found: dict[int, list[tuple[Tensor, Tensor, Tensor]]] = {}
    for x, y in zip(images.train_x.split(BATCH), images.train_y.split(BATCH), strict=True):
        reached: dict[int, Tensor] = {}
        for number, part in enumerate(network):
            x = part(x)
            if isinstance(part, nn.Sequential):
                reached[number] = x
        loss = F.cross_entropy(x, y, reduction="sum")
        for number, g in zip(
            reached, torch.autograd.grad(loss, list(reached.values())), strict=True
        ):
            found.setdefault(number, []).append((reached[number].detach(), g, y))
    return {
        number: tuple(map(torch.cat, zip(*all_, strict=True))) for number, all_ in found.items()
    }


def explained(h: Tensor, g: Tensor, y: Tensor, labels: bool) -> float:
    """:math:`R^2` of a fitted synthesizer on samples that it has never seen."""
    synthesizer = dni.BasicSynthesizer(
        h.shape[1], n_hidden=1, hidden_dim=1024, context_classes=CLASSES if labels else None
    )
    optimizer = torch.optim.Adam(synthesizer.parameters(), 1e-3, fused=True)
    g = g / g.square().mean().sqrt()
    order = torch.randperm(len(h), generator=torch.Generator().manual_seed(0))
    held, fit = order[: len(h) // HELD_OUT], order[len(h) // HELD_OUT :]
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, EPOCHS)
    best = 0.0
    for _ in range(EPOCHS):
        for index in fit[torch.randperm(len(fit))].split(BATCH):
            optimizer.zero_grad()
            F.mse_loss(synthesizer(h[index], y[index] if labels else None), g[index]).backward()
            optimizer.step()
        schedule.step()
        with torch.no_grad():
            missed = (synthesizer(h[held], y[held] if labels else None) - g[held]).square().sum()
        best = max(best, 1 - float(missed / g[held].square().sum()))
    return best


def main() -> None:
    """Measure at several times of a training; print a table, write JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", help="digits (default), mnist, or a folder of IDX files")
    parser.add_argument("--network", choices=[n for n in NETWORKS if n[0] == "f"], default="fc3")
    parser.add_argument("--at", type=int, nargs="+", default=[30, 300, 1000, 3000], help="steps")
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, default=Path("results/limit.json"))
    arguments = parser.parse_args()
    torch.manual_seed(arguments.seed)
    images = load(arguments.data)
    network = NETWORKS[arguments.network].build(images.train_x.shape[1:])
    optimizer = torch.optim.Adam(network.parameters(), arguments.lr, fused=True)
    batches = torch.Generator().manual_seed(arguments.seed)
    rows: list[dict[str, object]] = []
    print("steps   loss   cut   R2 from h   R2 with the label")
    for step in range(1, max(arguments.at) + 1):
        index = torch.randint(len(images.train_y), (BATCH,), generator=batches)
        optimizer.zero_grad()
        loss = F.cross_entropy(network(images.train_x[index]), images.train_y[index])
        loss.backward()
        optimizer.step()
        if step not in arguments.at:
            continue
        for cut, data in gradients(network, images).items():
            alone, told = (explained(*data, labels) for labels in (False, True))
            rows.append({"step": step, "cut": cut, "alone": alone, "labels": told})
            print(
                f"{step:5d}{float(loss.detach()):7.3f}{cut:6d}{alone:12.2f}{told:20.2f}", flush=True
            )
    measure.write(arguments.json, arguments, rows)


if __name__ == "__main__":
    main()
