"""The real ``Trainer`` gives the weights of a plain loop, and the callback says how it went."""

from __future__ import annotations

from typing import Any

import lightning.pytorch as pl
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import DataLoader

import dni
from dni.integrations.lightning import DNICallback
from tests.cases import CLASSES, Chain, batch, synthesizer

STEPS = 6


class Module(pl.LightningModule):
    def __init__(self, unlock: bool, by_hand: bool) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.network = Chain(
            lambda: dni.BackwardInterface(synthesizer(context_classes=CLASSES), unlock=unlock)
        )
        self.automatic_optimization = not by_hand

    def loss(self, x: Tensor, y: Tensor) -> Tensor:
        with dni.synthesizer_context(y):
            return F.cross_entropy(self.network(x), y)

    def training_step(self, pair: tuple[Tensor, Tensor], index: int) -> Tensor | None:
        if self.automatic_optimization:
            return self.loss(*pair)
        optimizer: Any = self.optimizers()
        optimizer.zero_grad()
        self.manual_backward(self.loss(*pair))
        optimizer.step()
        return None

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(dni.parameter_groups(self, lr=1e-2), lr=1e-3)


def data() -> list[tuple[Tensor, Tensor]]:
    torch.manual_seed(2)
    return [batch() for _ in range(STEPS)]


def fit(module: Module, callback: DNICallback, **options: Any) -> pl.Trainer:
    trainer = pl.Trainer(
        max_epochs=1, callbacks=[callback], accelerator="cpu", logger=False,
        enable_checkpointing=False, enable_model_summary=False, enable_progress_bar=False,
        **options,
    )  # fmt: skip
    trainer.fit(module, DataLoader(data(), batch_size=None))  # type: ignore[arg-type]
    return trainer


@pytest.mark.parametrize(("unlock", "by_hand"), [(False, False), (False, True), (True, True)])
def test_the_trainer_gives_the_weights_of_a_plain_loop(unlock: bool, by_hand: bool) -> None:
    trained, plain = Module(unlock, by_hand), Module(unlock, by_hand)
    trainer = fit(trained, DNICallback(every=3))
    optimizer = plain.configure_optimizers()
    for x, y in data():
        optimizer.zero_grad()
        plain.loss(x, y).backward()
        optimizer.step()
    for name, value in plain.state_dict().items():
        assert torch.equal(trained.state_dict()[name], value), name
    assert {
        f"dni/network.cuts.{n}/{q}" for n in "01" for q in ("loss", "cosine", "norm_ratio")
    } <= {*trainer.callback_metrics}


def test_mix_and_factor_follow_the_step() -> None:
    module, seen = Module(unlock=False, by_hand=False), []
    module.register_forward_pre_hook(lambda *_: None)
    cut = module.network.cuts[0]
    cut.register_forward_hook(lambda *_: seen.append((cut.mix, cut.factor)))
    fit(module, DNICallback(mix=lambda step: 1 - step / 10, factor=lambda step: step / 2))
    assert seen == [(1 - step / 10, step / 2) for step in range(STEPS)]


def test_of_the_batches_of_one_step_only_the_last_is_followed_by_a_log() -> None:
    module, callback = Module(unlock=False, by_hand=False), DNICallback(every=1)
    fit(module, callback, accumulate_grad_batches=2)
    assert callback.monitor is not None
    (seen, _) = callback.monitor.history().values()
    assert [measured.messages for measured in seen] == [2] * (STEPS // 2)


def test_nobody_measures_after_the_training_or_an_error() -> None:
    module = Module(unlock=False, by_hand=False)
    fit(module, DNICallback())
    assert module.network.cuts[0].objective.record is None
    module.network.cuts[0].register_forward_hook(lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        fit(module, DNICallback())
    assert module.network.cuts[0].objective.record is None


def test_the_early_form_needs_optimisation_by_hand() -> None:
    with pytest.raises(RuntimeError, match=r"zero_grad between .* network\.cuts\.0, network\.cuts"):
        fit(Module(unlock=True, by_hand=False), DNICallback())


def test_a_bad_interval_is_named() -> None:
    with pytest.raises(ValueError, match=r"DNICallback: expected every to be an integer from 1"):
        DNICallback(every=0)
