"""What a stage keeps: whole, the newest, and nothing that can be executed."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed.checkpoint as dcp
from torch import nn

from dni.distributed import Checkpoints, export, merged, split


def model() -> nn.Sequential:
    return nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3), nn.Linear(3, 1))


def saved(folder: Path, whole: nn.Sequential) -> None:
    for number, part in enumerate(split(whole, at=["1"])):
        Checkpoints(folder, number).save(7, {"part": part.state_dict()})


def test_the_last_few_are_kept_and_the_newest_counts(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, 0, keep=2)
    assert checkpoints.newest() is None
    for clock in (9, 10, 100):
        checkpoints.save(clock, {"clock": clock})
    assert [path.name for path in checkpoints.paths()] == ["000000000010.pt", "000000000100.pt"]
    assert checkpoints.newest() == {"clock": 100}
    assert not list(tmp_path.rglob("*.partial"))


def test_one_that_was_not_finished_does_not_count(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, 0)
    checkpoints.save(1, {"clock": 1})
    (checkpoints.folder / "000000000002.partial").write_bytes(b"half")
    assert checkpoints.newest() == {"clock": 1}


def test_a_damaged_one_is_named_and_the_one_before_it_taken(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, 0)
    checkpoints.save(1, {"clock": 1})
    path = checkpoints.save(2, {"clock": 2, "weights": torch.ones(1000)})
    path.write_bytes(path.read_bytes()[:500])
    with pytest.warns(UserWarning, match=r"000000000002\.pt cannot be read.*before it is taken"):
        assert checkpoints.newest() == {"clock": 1}


def test_what_could_not_be_read_again_is_named_at_once(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, 0)
    path = checkpoints.save(1, {"optimizer": {"lr": 0.1}})
    for clock in range(2, 6):  # at every save: a schedule may make such a number late
        with pytest.raises(TypeError, match=r"plain containers.*numpy.*scalar.*float\(rate\)"):
            checkpoints.save(clock, {"optimizer": {"lr": np.float64(0.1)}})
    assert list(checkpoints.folder.iterdir()) == [path]
    assert checkpoints.newest() == {"optimizer": {"lr": 0.1}}


def test_nothing_in_it_is_executed(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, 0)
    checkpoints.save(1, {"clock": 1})
    torch.save({"clock": nn.Linear(2, 2)}, checkpoints.folder / "000000000002.pt")
    with pytest.warns(UserWarning, match="cannot be read"):
        assert checkpoints.newest() == {"clock": 1}


def test_merged_ones_load_into_the_plain_model(tmp_path: Path) -> None:
    whole, other = model(), model()
    saved(tmp_path, whole)
    other.load_state_dict(merged(tmp_path))
    assert all(
        torch.equal(a, b) for a, b in zip(whole.parameters(), other.parameters(), strict=True)
    )


def test_an_exported_one_loads_by_the_framework(tmp_path: Path) -> None:
    whole, other = model(), model()
    saved(tmp_path / "run", whole)
    export(tmp_path / "run", tmp_path / "exported")
    state = other.state_dict()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "torch.distributed is disabled")
        dcp.load(state, checkpoint_id=tmp_path / "exported", no_dist=True)
    assert all(torch.equal(tensor, state[name]) for name, tensor in whole.state_dict().items())


def test_a_missing_stage_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="checkpoints of all stages.*got none"):
        merged(tmp_path)
    Checkpoints(tmp_path, 1).save(1, {"part": {}})
    with pytest.raises(FileNotFoundError, match="got stage-1"):
        merged(tmp_path)


def test_another_file_is_refused(tmp_path: Path) -> None:
    Checkpoints(tmp_path, 0).save(1, {"clock": 1})
    with pytest.raises(ValueError, match=r"expected a stage's checkpoint.*stage-0"):
        merged(tmp_path)


@pytest.mark.parametrize(("stage", "keep", "match"), [(-1, 1, "stage to be"), (0, 0, "keep to be")])
def test_numbers_are_checked(tmp_path: Path, stage: int, keep: int, match: str) -> None:
    with pytest.raises(ValueError, match=f"Checkpoints: expected {match} an integer"):
        Checkpoints(tmp_path, stage, keep)
