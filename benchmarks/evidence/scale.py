r"""Why regression on raw gradients fails: the size of a step, not the size of a gradient.

Adam moves a weight by about its rate, however small the gradient. The gradient of a mean loss is
around 1e-5; the last layer of a synthesizer that is to say it has weights far below a rate of 1e-3,
and is thrown about by every step. If that is the reason, raw regression must predict as well as the
normalised one once its rate is as small as its messages, and Adam's epsilon smaller still. This
script trains the same network with both, over rates that span five powers of ten.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from statistics import mean

import torch
import torch.nn.functional as F

import dni
from benchmarks import measure
from benchmarks.evidence.networks import NETWORKS
from dni.diagnostics import Monitor
from examples.data import CLASSES, Images, load
from examples.training import error_rate

RATES = (3e-3, 3e-4, 3e-5, 3e-6, 3e-7, 3e-8)
EPSILON = 1e-18  # below every gradient of a regression here: it is not what hides them


def cosines(
    images: Images, normalize: bool, rate: float, steps: int, seed: int
) -> tuple[float, list[float]]:
    """Test error, and the cosine at each cut over the last third of the steps."""
    torch.manual_seed(seed)
    plan = NETWORKS["fc3"]
    network = plan.build(images.train_x.shape[1:])
    sample = images.train_x[:8]
    dni.decouple(network, plan.at, sample=sample, context_classes=CLASSES, normalize=normalize)
    optimizer = torch.optim.Adam(
        [
            {"params": dni.base_parameters(network)},
            {"params": dni.synthesizer_parameters(network), "lr": rate, "eps": EPSILON},
        ],
        lr=1e-3,
    )
    with Monitor(network) as monitor:
        for step in range(steps):
            if step == 2 * steps // 3:
                monitor.read()
            index = torch.randint(len(images.train_y), (128,))
            x, y = images.train_x[index], images.train_y[index]
            optimizer.zero_grad()
            with dni.synthesizer_context(y):
                F.cross_entropy(network(x), y).backward()
            optimizer.step()
        measured = monitor.read()
    error = error_rate(network, images, takes_labels=False)
    return error, [one.cosine for one in measured.values()]


def main() -> None:
    """A line for each way and rate, the mean over seeds."""
    parser = argparse.ArgumentParser(description="Raw and normalised regression over rates")
    parser.add_argument("--data", help="digits (default), mnist, or a folder: see examples.data")
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--json", type=Path, help="write the outcome to this file")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    images = load(arguments.data)
    print(f"{'regression':12s}{'rate':>8s}{'test error, %':>15s}   cosines of cuts 1, 2, 3")
    lines = []
    for normalize in (True, False):
        for rate in RATES:
            runs = [
                cosines(images, normalize, rate, arguments.steps, seed)
                for seed in range(arguments.seeds)
            ]
            error = mean(run[0] for run in runs)
            seen = [mean(cut) for cut in zip(*(run[1] for run in runs), strict=True)]
            kind = "normalised" if normalize else "raw"
            said = ", ".join(f"{cosine:.2f}" for cosine in seen)
            print(f"{kind:12s}{rate:>8.0e}{error:>15.2f}   {said}", flush=True)
            lines.append({"regression": kind, "rate": rate, "error": error, "cosines": seen})
    if arguments.json:
        measure.write(arguments.json, arguments, lines)


if __name__ == "__main__":
    main()
