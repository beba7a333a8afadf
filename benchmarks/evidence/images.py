"""Networks that are cut, on images."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import nn

import dni
from benchmarks.evidence.arms import Arm
from benchmarks.evidence.networks import NETWORKS
from dni.diagnostics import Monitor
from examples.data import Images, load
from examples.training import error_rate

if TYPE_CHECKING:
    from benchmarks.evidence.run import Run


def learn(run: Run, arm: Arm, source: str | None) -> dict[str, Any]:
    """Cut the network and train it: its error, how it fell, and the cosines of its cuts."""
    torch.manual_seed(run.seed)
    data, plan = load(source), NETWORKS[run.network]
    network = plan.build(data.train_x.shape[1:])
    arm.decouple(network, plan.at, data.train_x[:8])
    curve, cosines = train(network, arm, data, run)
    return {"score": curve[-1][1], "curve": curve, "cosines": cosines}


def train(
    network: nn.Module, arm: Arm, images: Images, run: Run
) -> tuple[list[tuple[int, float]], dict[str, float]]:
    """The curve of test errors, and the cosines of the last sixth, by cut."""
    optimizer = torch.optim.Adam(
        [
            {"params": dni.base_parameters(network), "lr": arm.lr},
            {"params": dni.synthesizer_parameters(network), "lr": arm.synthesizer_lr},
        ],
        fused=True,
    )
    cuts = dni.interfaces_of(network)
    replay = dni.Replay(network, arm.keep) if arm.replay else None
    batches = torch.Generator().manual_seed(run.seed)
    curve, cosines, told = [], {}, arm.labels or arm.learn == "local"
    with Monitor(network) as monitor:
        for step in range(1, run.steps + 1):
            if arm.decay:
                optimizer.param_groups[0]["lr"] = arm.lr * (1 - step / run.steps)
            for cut in cuts.values() if step == arm.observe + 1 else ():
                cut.mix = arm.mix
            index = torch.randint(len(images.train_y), (run.batch,), generator=batches)
            x, y = images.train_x[index], images.train_y[index]
            optimizer.zero_grad()
            with dni.synthesizer_context(y if told else None):
                F.cross_entropy(network(x), y).backward()
            for regression in replay.losses(arm.replay) if replay else ():
                if arm.own_steps:
                    optimizer.step()
                    optimizer.zero_grad()
                regression.backward()
            optimizer.step()
            look = step * 6 // run.steps > (step - 1) * 6 // run.steps
            if look or (arm.trust and step % 50 == 0):
                cosines = {name: one.cosine for name, one in monitor.read().items()}
            for name in cosines if arm.trust else ():
                cuts[name].factor = max(cosines[name], 0.0)
            if look:
                curve.append((step, error_rate(network, images, takes_labels=False)))
    return curve, cosines
