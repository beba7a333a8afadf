"""Train every arm on every network with every seed; each finished run is a file."""

from __future__ import annotations

import json
import time
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import nn
from tqdm import tqdm

import dni
from benchmarks.evidence.arms import ALL, Arm
from benchmarks.evidence.networks import NETWORKS
from dni.diagnostics import Monitor
from examples.data import Images, load
from examples.training import environment, error_rate


class Run(NamedTuple):
    """One cell of the table, for one seed."""

    network: str
    arm: str
    seed: int
    steps: int
    batch: int
    data: str  # its name

    def file(self, folder: Path) -> Path:
        """Where its outcome is."""
        name = f"{self.data} {self.network} {self.arm} {self.steps} {self.seed}.json"
        return folder / name.replace(" ", "-")

    def found(self, folder: Path) -> dict[str, Any] | None:
        """Its outcome, if there is one; never that of another batch size or of an arm as it was."""
        path = self.file(folder)
        if not path.is_file():
            return None
        try:
            content: dict[str, Any] = json.loads(path.read_text())
        except json.JSONDecodeError as error:
            raise SystemExit(f"{path} is not whole ({error}): remove it.") from None
        if (content["run"], Arm(**content["arm"])) != (self._asdict(), ALL[self.arm]):
            raise SystemExit(
                f"{path} is of another run or arm: remove it, or name other --results."
            )
        return content


def run_all(runs: list[Run], source: str | None, folder: Path, processes: int) -> None:
    """What is not there yet, several at a time with one thread each; a failure ends the rest."""
    folder.mkdir(parents=True, exist_ok=True)
    missing = [run for run in runs if run.found(folder) is None]
    with ProcessPoolExecutor(processes) as pool:
        started = [pool.submit(write_outcome, run, source, folder) for run in missing]
        try:
            for future in tqdm(as_completed(started), total=len(missing), disable=None):
                future.result()
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def write_outcome(run: Run, source: str | None, folder: Path) -> None:
    """A whole file, or none."""
    partial = run.file(folder).with_suffix(".partial")
    partial.write_text(json.dumps(outcome(run, source)) + "\n")
    partial.replace(run.file(folder))


def outcome(run: Run, source: str | None) -> dict[str, Any]:
    """Train on the data of ``source``, and say what came of it."""
    torch.set_num_threads(1)
    torch.manual_seed(run.seed)
    images, arm, plan = load(source), ALL[run.arm], NETWORKS[run.network]
    network = plan.build(images.train_x.shape[1:])
    arm.decouple(network, plan.at, images.train_x[:8])
    start = time.perf_counter()
    curve, cuts = train(network, arm, images, run)
    return {
        "run": run._asdict(),
        "arm": vars(arm),
        "error": curve[-1][1],
        "curve": curve,
        "cosines": cuts,
        "seconds": time.perf_counter() - start,
        "environment": environment(),
    }


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
            look = step % max(1, run.steps // 6) == 0 or step == run.steps
            if look or (arm.trust and step % 50 == 0):
                cosines = {name: one.cosine for name, one in monitor.read().items()}
            for name in cosines if arm.trust else ():
                cuts[name].factor = max(cosines[name], 0.0)
            if look:
                curve.append((step, error_rate(network, images, takes_labels=False)))
    return curve, cosines
