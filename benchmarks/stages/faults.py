"""What deaths cost: ``kill -9`` of one stage after another, twenty times in one run.

Claims: the stages that are left pause for less than a second; the run ends where an undisturbed
one ends, within half a point; and what a stage reported as saved before it died, it has afterwards.
The victims are processes of ``examples.mnist_stages``, killed from outside, each while all stages
are at work; both runs have the same steps, seed and machine.
"""

from __future__ import annotations

import argparse
import os
import signal
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from benchmarks import measure
from dni import distributed
from dni.distributed.launch import launch
from examples import training
from examples.data import load
from examples.mnist_stages.main import WIDTH, network

View = Mapping[int, Mapping[str, Any]]


class Killer:
    """Kills stage after stage, ``every`` steps of it apart; sees what the others do meanwhile."""

    def __init__(self, kills: int, every: int) -> None:
        self.left, self.every = kills, every
        self.victim = 0
        self.next_at = every
        self.saved: dict[int, int] = {}
        self.lives: dict[int, int] = {}
        self.pauses: dict[int, float] = {}
        self.lost: list[int] = []
        self.killed: list[int] = []
        self.counts: dict[int, Mapping[str, Any]] = {}

    def watch(self, view: View) -> None:
        """Called by the launcher."""
        if not view or any("clock" not in status for status in view.values()):
            return
        for stage, status in view.items():
            self._look(stage, status)
        alive = all(self.lives.get(stage) == status["life"] for stage, status in view.items())
        at_work = all(status["saved"] > 0 and not status["done"] for status in view.values())
        if self.left and alive and at_work and view[self.victim]["clock"] >= self.next_at:
            status = view[self.victim]
            with suppress(ProcessLookupError):
                os.kill(status["pid"], signal.SIGKILL)
            self.killed.append(self.victim)
            self.left -= 1
            self.victim = (self.victim + 1) % len(view)
            self.next_at = view[self.victim]["clock"] + self.every

    def _look(self, stage: int, status: Mapping[str, Any]) -> None:
        if status["life"] != self.lives.get(stage):
            if stage in self.counts and status["pid"] == self.counts[stage]["pid"]:
                return  # the status is still that of the life before
            if status["resumed"] < self.saved.get(stage, 0):
                self.lost.append(stage)
            self.lives[stage] = status["life"]
        self.saved[stage] = max(self.saved.get(stage, 0), status["saved"])
        self.pauses[stage] = max(self.pauses.get(stage, 0.0), status["longest_pause"])
        self.counts[stage] = status


def run(arguments: argparse.Namespace, kills: int) -> dict[str, Any]:
    """One run of the example; what came of it."""
    killer = Killer(kills, arguments.every)
    flags = {"--steps": arguments.steps, "--stages": arguments.stages, "--seed": arguments.seed}
    with tempfile.TemporaryDirectory() as folder:
        command = ["examples.mnist_stages", "--checkpoints", folder]
        command += ["--data", arguments.data] if arguments.data else []
        command += [str(word) for pair in flags.items() for word in pair]
        launch(
            command, arguments.stages, module=True, max_restarts=kills + 3, watch=killer.watch
        )  # fmt: skip
        data = load(arguments.data)
        model = network(data.train_x[0].numel(), WIDTH, arguments.stages)
        model.load_state_dict(distributed.merged(folder))
        clocks = [
            (distributed.Checkpoints(folder, stage).newest() or {})["clock"]
            for stage in range(arguments.stages)
        ]
    return {
        "kills": len(killer.killed),
        "test_error": training.error_rate(model, data, takes_labels=False),
        "longest_pause": max(killer.pauses.values(), default=0.0),
        "saved_and_lost": len(killer.lost),
        "clocks": clocks,
        "dropped": sum(one["dropped"] for one in killer.counts.values()),
        "rehearsed": sum(one["rehearsed"] for one in killer.counts.values()),
    }


def main() -> None:
    """Both runs; a table, and JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", help="digits (default), mnist, or a folder of IDX files")
    parser.add_argument("--stages", type=int, default=3)
    parser.add_argument("--steps", type=int, default=3000)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--every", type=int, default=60, help="steps between two kills")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, default=Path("results/stages-faults.json"))
    arguments = parser.parse_args()
    runs = [run(arguments, kills) for kills in (0, arguments.kills)]
    print("kills  longest pause, s  test error, %  saved and lost  clocks")
    for one in runs:
        print(
            f"{one['kills']:5d}  {one['longest_pause']:16.2f}  {one['test_error']:13.2f}  "
            f"{one['saved_and_lost']:14d}  {one['clocks']}"
        )
    measure.write(arguments.json, arguments, {"runs": runs})
    print(arguments.json)


if __name__ == "__main__":
    main()
