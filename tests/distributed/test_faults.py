"""Stages in processes of their own: they train, they die, they come again, they make an end."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from dni.distributed import Checkpoints, merged
from dni.distributed.launch import StageFailed, launch
from tests.distributed.script import DTYPE, labels, network

SCRIPT = str(Path(__file__).with_name("script.py"))
View = Mapping[int, Mapping[str, Any]]


def accuracy(folder: Path) -> float:
    """Of the parts, put together."""
    model = network()
    model.load_state_dict(merged(folder))
    x = torch.randn(1000, 20, generator=torch.Generator().manual_seed(10**6), dtype=DTYPE)
    return float((model.eval()(x).argmax(1) == labels(x)).float().mean())


def clock(folder: Path, stage: int) -> int:
    """Of its newest checkpoint."""
    content = Checkpoints(folder, stage).newest()
    assert content is not None
    return int(content["clock"])


@pytest.mark.parametrize("unlock", ["update", "complete"])
def test_three_processes_train_one_network(tmp_path: Path, unlock: str) -> None:
    launch([SCRIPT, str(tmp_path), "400", unlock], 3)
    assert [clock(tmp_path, stage) for stage in range(3)] == [400] * 3
    assert accuracy(tmp_path) > (0.75 if unlock == "update" else 0.5)


def test_in_lock_step_three_processes_have_the_gradients_of_one(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    launch([SCRIPT, str(tmp_path), "12", "exact"], 3)
    printed = capfd.readouterr().out
    for stage in range(3):
        assert f"[stage {stage}] compared 12" in printed


@pytest.mark.parametrize("stage", [0, 1, 2])
def test_a_stage_may_die_as_it_is_about_to_end(
    tmp_path: Path, stage: int, capfd: pytest.CaptureFixture[str]
) -> None:
    launch([SCRIPT, str(tmp_path), "60", "dies", str(stage)], 3)
    assert f"stage {stage} was killed by SIGKILL" in capfd.readouterr().err
    assert [clock(tmp_path, number) for number in range(3)] == [60] * 3


@pytest.mark.parametrize("stage", [0, 1, 2])
def test_an_error_in_one_stage_restarts_that_one_alone(
    tmp_path: Path, stage: int, capfd: pytest.CaptureFixture[str]
) -> None:
    launch([SCRIPT, str(tmp_path), "60", "raises", str(stage)], 3)
    printed = capfd.readouterr().err
    assert printed.count("; restarting") == 1
    assert f"stage {stage} raised AssertionError" in printed
    assert "terminate called" not in printed
    assert clock(tmp_path, 0) == 60


def test_a_stage_may_die_at_the_start_and_at_once_again(tmp_path: Path) -> None:
    killed: list[int] = []

    def watch(view: View) -> None:
        status = view[1]
        if len(killed) < 2 and status.get("pid") and status["pid"] not in killed:
            killed.append(status["pid"])
            os.kill(status["pid"], signal.SIGKILL)

    launch([SCRIPT, str(tmp_path), "300"], 3, watch=watch)
    assert len(killed) == 2
    assert clock(tmp_path, 0) == 300


class Killer:
    """Kills each stage in turn, once all have come so far; sees their lives and what was saved."""

    def __init__(self, with_signal: int = signal.SIGKILL) -> None:
        self.signal = with_signal
        self.killed: dict[int, Mapping[str, Any]] = {}
        self.seen: list[dict[int, Mapping[str, Any]]] = []

    def watch(self, view: View) -> None:
        self.seen.append({stage: dict(status) for stage, status in view.items()})
        if any(status.get("saved", 0) < 10 for status in view.values()):
            return
        if not all(view[stage]["life"] == 2 for stage in self.killed):
            return
        if any(view[stage]["pid"] == status["pid"] for stage, status in self.killed.items()):
            return  # its status is still that of the life before
        victim = len(self.killed)
        if victim < len(view):
            self.killed[victim] = dict(view[victim])
            os.kill(view[victim]["pid"], self.signal)


def test_each_stage_may_die_and_the_others_go_on(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    killer = Killer()
    launch([SCRIPT, str(tmp_path), "3000"], 3, watch=killer.watch)
    assert list(killer.killed) == [0, 1, 2]
    assert {stage: status["life"] for stage, status in killer.seen[-1].items()} == dict.fromkeys(
        range(3), 2
    )
    printed = capfd.readouterr()
    for stage, status in killer.killed.items():
        assert f"stage {stage} was killed by SIGKILL" in printed.err
        starts = [
            int(line.split()[-1])
            for line in printed.out.splitlines()
            if line.startswith(f"[stage {stage}] starts at")
        ]
        assert starts[0] == 0
        assert starts[1] >= status["saved"] >= 10  # what was reported is not lost
    assert clock(tmp_path, 0) == 3000
    assert accuracy(tmp_path) > 0.75


def test_a_stage_that_hangs_is_replaced(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    stopped: list[int] = []

    def watch(view: View) -> None:
        if not stopped and all(status.get("saved", 0) >= 10 for status in view.values()):
            stopped.append(view[1]["pid"])
            os.kill(stopped[0], signal.SIGSTOP)

    launch([SCRIPT, str(tmp_path), "2500"], 3, silence=2.0, watch=watch)
    assert "stage 1 was silent for 2 s and was killed" in capfd.readouterr().err
    assert clock(tmp_path, 0) == 2500


def test_sigterm_ends_all_stages_with_a_checkpoint(tmp_path: Path) -> None:
    asked: list[float] = []

    def watch(view: View) -> None:
        if not asked and all(status.get("saved", 0) >= 10 for status in view.values()):
            asked.append(time.monotonic())
            os.kill(os.getpid(), signal.SIGTERM)

    launch([SCRIPT, str(tmp_path), "1000000"], 3, watch=watch)
    clocks = [clock(tmp_path, stage) for stage in range(3)]
    assert 10 <= clocks[0] < 1000000
    assert clocks == [clocks[0]] * 3  # the others have trained on all that the first one sent


def test_peers_of_different_models_refuse_each_other(tmp_path: Path) -> None:
    with pytest.raises(StageFailed, match=r"expected a message of the model .*, got one of"):
        launch([SCRIPT, str(tmp_path), "100", "wider"], 3, max_restarts=0)
