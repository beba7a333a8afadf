"""Train every arm on every network with every seed; each finished run is a file."""

from __future__ import annotations

import itertools
import json
import os
import time
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any, NamedTuple

import torch
from tqdm import tqdm

from benchmarks.evidence.subjects import SUBJECTS
from examples.training import environment

RESULTS = Path(__file__).parent / "results"


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
        """Its outcome, if there is one; never that of another batch size or of an arm as it was.

        What an arm of today has no field for, has to have been left out.
        """
        path = self.file(folder)
        if not path.is_file():
            return None
        try:
            content: dict[str, Any] = json.loads(path.read_text())
            curve, then = content["curve"], content["arm"].items()
        except (ValueError, TypeError, KeyError) as error:
            raise SystemExit(f"{path} is not whole ({error}): remove it.") from None
        arm = SUBJECTS[self.network].arms[self.arm]
        was = {name: value for name, value in then if value or name in vars(arm)}
        same = was.keys() <= vars(arm).keys() and type(arm)(**was) == arm
        if not same or content["run"] != self._asdict() or "score" not in content or not curve:
            raise SystemExit(
                f"{path} is of another run or arm: remove it, or name other --results."
            )
        return content


def grid(
    networks: list[str],
    arms: list[str] | None,
    seeds: int,
    steps: int | None,
    batch: int | None,
    source: str | None,
) -> list[Run]:
    """Seed by seed, so that a first one is there soon; each network with those arms it has."""
    names = {network: SUBJECTS[network].data(source) for network in networks}  # once each
    return [
        Run(network, arm, seed, steps or subject.steps, batch or subject.batch, names[network])
        for seed, network in itertools.product(range(seeds), names)
        for subject in (SUBJECTS[network],)
        for arm in dict.fromkeys(arms or subject.told)
        if arm in subject.arms
    ]


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
    """A whole file, or none; nothing where somebody else has written it meanwhile."""
    if run.found(folder) is not None:
        return
    partial = run.file(folder).with_suffix(f".{os.getpid()}.partial")
    partial.write_text(json.dumps(outcome(run, source)) + "\n")
    partial.replace(run.file(folder))


def outcome(run: Run, source: str | None) -> dict[str, Any]:
    """Train on the data of ``source``, and say what came of it."""
    torch.set_num_threads(1)
    subject, start = SUBJECTS[run.network], time.perf_counter()
    arm = subject.arms[run.arm]
    return {
        "run": run._asdict(),
        "arm": vars(arm),
        **subject.learn(run, arm, source),
        "seconds": time.perf_counter() - start,
        "environment": environment(),
    }
