"""A decoupled causal language model, trained by the real ``Trainer``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)

import dni
from dni.integrations.transformers import DNICallback

WORDS, LENGTH, STEPS = 11, 5, 4


def language_model() -> GPT2LMHeadModel:
    torch.manual_seed(1)
    return GPT2LMHeadModel(
        GPT2Config(
            vocab_size=WORDS, n_positions=LENGTH, n_embd=8, n_layer=3, n_head=2, bos_token_id=0,
            eos_token_id=0, attn_pdrop=0.0, embd_pdrop=0.0, resid_pdrop=0.0, use_cache=False,
        )
    )  # fmt: skip


def decoupled(**options: Any) -> GPT2LMHeadModel:
    sample = {"input_ids": torch.zeros(2, LENGTH, dtype=torch.long)}
    model: GPT2LMHeadModel = dni.decouple(
        language_model(), ["transformer.h.0", "transformer.h.1"], sample=sample, **options
    )
    return model


def train(model: GPT2LMHeadModel, folder: Path, callback: DNICallback | None) -> Trainer:
    rows = torch.randint(WORDS, (2 * STEPS, LENGTH), generator=torch.Generator().manual_seed(3))
    trainer = Trainer(
        model,
        TrainingArguments(
            str(folder), max_steps=STEPS, per_device_train_batch_size=2, logging_steps=2,
            report_to="none", save_strategy="no", use_cpu=True, disable_tqdm=True,
            max_grad_norm=0, learning_rate=1e-2,
        ),
        train_dataset=[{"input_ids": row, "labels": row} for row in rows],
        callbacks=None if callback is None else [callback],
    )  # fmt: skip
    trainer.train()
    return trainer


def test_a_training_that_was_interrupted_can_begin_anew(tmp_path: Path) -> None:
    class Full(TrainerCallback):  # type: ignore[misc]
        def on_step_end(self, *args: Any, **kwargs: Any) -> None:
            raise MemoryError

    callback, model = DNICallback(), decoupled()
    trainer = train(model, tmp_path, callback)
    trainer.add_callback(Full())
    with pytest.raises(MemoryError):
        trainer.train()
    trainer.remove_callback(Full)
    trainer.train()
    assert callback.monitor is None


def test_the_metrics_join_the_trainers_log(tmp_path: Path) -> None:
    model = decoupled()
    before = model.transformer.h[0].mlp.c_fc.weight.detach().clone()
    trainer = train(model, tmp_path, DNICallback(mix=lambda step: 0.5 / (1 + step)))
    logs = [entry for entry in trainer.state.log_history if "loss" in entry]
    assert len(logs) == STEPS // 2
    for entry in logs:
        assert -1 <= entry["dni/transformer.h.0/cosine"] <= 1
        assert entry["dni/transformer.h.1/loss"] > 0
    (interface, _) = dni.interfaces_of(model).values()
    assert isinstance(interface, dni.BackwardInterface)
    assert interface.mix == 0.5 / STEPS
    assert interface.objective.record is None
    assert not torch.equal(model.transformer.h[0].mlp.c_fc.weight, before)


def test_observed_it_trains_as_the_plain_model_does(tmp_path: Path) -> None:
    plain, observed = language_model(), decoupled(mix=1.0)
    train(plain, tmp_path, None)
    train(observed, tmp_path, DNICallback())
    dni.strip(observed)
    assert plain.state_dict().keys() == observed.state_dict().keys()
    for name, value in plain.state_dict().items():
        assert torch.equal(observed.state_dict()[name], value), name
