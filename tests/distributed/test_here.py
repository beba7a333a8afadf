"""Which stage a process is."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import dni
from dni.distributed import (
    Checkpoints,
    CompleteA,
    CompleteB,
    Place,
    Stage,
    UpdateA,
    UpdateB,
    this_stage,
)
from dni.distributed.here import _fingerprint, _shapes, random_alike
from tests.distributed.networks import adam, network


def stage(place: Place | None, **options: object) -> Stage:
    given: dict[str, object] = {
        "sample": torch.zeros(2, 6, dtype=torch.float64),
        "optimizer": adam,
        "loss": F.cross_entropy,
        "place": place,
    }
    return this_stage(network(), ["0", "1"], **given | options)  # type: ignore[arg-type]


def guess(x: torch.Tensor, h: torch.Tensor) -> nn.Module:
    return dni.BasicSynthesizer(h.shape[-1], 1, 4, trigger_dim=x.shape[-1])


def test_each_stage_has_its_part_and_its_ends(tmp_path: object) -> None:
    url = f"file://{tmp_path}/store"
    stages = [stage(Place(number, 3, url)) for number in range(3)]
    names = [next(iter(one.part.state_dict())).split(".")[0] for one in stages]
    assert names == ["0", "1", "2"]
    kinds = [(type(one.upstream), type(one.downstream)) for one in stages]
    assert kinds == [(type(None), UpdateA), (UpdateB, UpdateA), (UpdateB, type(None))]
    complete = stage(Place(1, 3, url), input_synthesizer=guess)
    assert (type(complete.upstream), type(complete.downstream)) == (CompleteB, CompleteA)
    assert [one.reads for one in (*stages, complete)] == [True, False, False, True]


def test_both_ends_of_an_edge_start_from_the_same_synthesizers(tmp_path: object) -> None:
    url = f"file://{tmp_path}/store"
    a, b = (stage(Place(number, 3, url), input_synthesizer=guess) for number in (0, 1))
    mine, theirs = a.downstream.interface(), b.upstream.interface()  # type: ignore[union-attr]
    for one, other in zip(mine.parameters(), theirs.parameters(), strict=True):  # type: ignore[union-attr]
        assert torch.equal(one, other)


def test_activations_may_be_structures(tmp_path: Path) -> None:
    class Pair(nn.Module):
        def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            return x, x.tanh()

    class Sum(nn.Module):
        def forward(self, pair: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
            return pair[0] + pair[1]

    parts = _shapes([nn.Sequential(Pair()), nn.Sequential(Sum()), nn.Sequential()], torch.ones(2))
    assert [type(h) for h in parts] == [tuple, torch.Tensor]


def test_a_folder_with_stages_of_another_run_is_named(tmp_path: Path) -> None:
    Checkpoints(tmp_path, 3).save(1, {"part": {}})
    with pytest.raises(ValueError, match=r"checkpoints of 3 stages in .*, got some of stage-3 too"):
        stage(Place(0, 3, f"file://{tmp_path}/store"), checkpoints=str(tmp_path))


def test_making_a_stage_leaves_the_random_state_alone() -> None:
    before = torch.get_rng_state()
    with random_alike(0):
        torch.randn(3)
    assert torch.equal(torch.get_rng_state(), before)


def test_a_fingerprint_is_of_the_model_and_its_cuts() -> None:
    model = network()
    print_of = _fingerprint(model, ["0"], False)
    assert len(print_of) == 16
    assert print_of == _fingerprint(copy.deepcopy(model), ["0"], False)
    others = [
        _fingerprint(model, ["1"], False),
        _fingerprint(model, ["0"], True),
        _fingerprint(copy.deepcopy(model).float(), ["0"], False),
        _fingerprint(nn.Sequential(*list(network())[:-1]), ["0"], False),
    ]
    assert len({print_of, *others}) == 5


def test_the_environment_says_which_stage_this_is(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("DNI_STAGE", "DNI_STAGES", "DNI_STORE", "DNI_INTERFACE", "DNI_RUN"):
        monkeypatch.delenv(name, raising=False)
    for name, value in {
        "RANK": "1", "WORLD_SIZE": "3", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29400",
        "TORCHELASTIC_RESTART_COUNT": "2",
    }.items():  # fmt: skip
        monkeypatch.setenv(name, value)
    assert Place.of_environment() == Place(1, 3, "tcp://127.0.0.1:29400", None, "2")
    for name, value in {
        "DNI_STAGE": "0", "DNI_STAGES": "2", "DNI_STORE": "file:///run/store",
        "DNI_INTERFACE": "eth1",
    }.items():  # fmt: skip
        monkeypatch.setenv(name, value)
    assert Place.of_environment() == Place(0, 2, "file:///run/store", "eth1", "0")
    monkeypatch.setenv("DNI_RUN", "tuesday")
    assert Place.of_environment().run == "tuesday"


def test_an_environment_that_says_nothing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("DNI_STAGE", "DNI_STAGES", "DNI_STORE", "RANK", "WORLD_SIZE", "MASTER_ADDR"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(RuntimeError, match=r"in DNI_STAGE \(or RANK\); got ''.*launch"):
        Place.of_environment()
    monkeypatch.setenv("DNI_STAGE", "0")
    monkeypatch.setenv("DNI_STAGES", "2")
    with pytest.raises(RuntimeError, match=r"where stages meet, in DNI_STORE"):
        Place.of_environment()


def test_unfitting_numbers_are_named(tmp_path: object) -> None:
    url = f"file://{tmp_path}/store"
    with pytest.raises(ValueError, match=r"expected 2 stages.*`at` makes 3. Name 1 modules"):
        stage(Place(0, 2, url))
    with pytest.raises(ValueError, match="expected a stage from 0 to 2, got 3"):
        stage(Place(3, 3, url))
    with pytest.raises(ValueError, match="expected accumulate to be an integer from 1, got 0"):
        stage(Place(0, 3, url), accumulate=0)
