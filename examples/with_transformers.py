"""A decoupled language model in Transformers: ``python -m examples.with_transformers``.

A small GPT-2 with random weights learns the text of this repository's README, byte by byte. It is
cut after every block but the last; its synthesizers are told the byte that comes next. What a cut
sends upstream is half real, half synthetic (``--mix 0.5``). In 200 steps on a network as young as
this, synthetic gradients alone (``--mix 0``) teach little more than the frequencies of bytes;
``--mix 1`` is backpropagation.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import GPT2Config, GPT2LMHeadModel, Trainer, TrainingArguments

import dni
from dni.integrations.transformers import DNICallback

BYTES, LENGTH = 256, 64
README = Path(__file__).parents[1] / "README.rst"


class TellsLabels(Trainer):
    """The trainer, with a context around the forward pass."""

    def compute_loss(self, model: Any, inputs: dict[str, Tensor], *args: Any, **kwargs: Any) -> Any:
        """The byte after a piece is not known; the first byte of the piece takes its place."""
        with dni.synthesizer_context(inputs["labels"].roll(-1, dims=1)):
            return super().compute_loss(model, inputs, *args, **kwargs)


def pieces(text: bytes) -> list[dict[str, Tensor]]:
    """Pieces of equal length."""
    rows = torch.frombuffer(bytearray(text), dtype=torch.uint8).long()
    rows = rows[: len(rows) // LENGTH * LENGTH].view(-1, LENGTH)
    return [{"input_ids": row, "labels": row} for row in rows]


def language_model(layers: int) -> GPT2LMHeadModel:
    """A GPT-2 with random weights, decoupled."""
    config = GPT2Config(
        vocab_size=BYTES, n_positions=LENGTH, n_embd=64, n_layer=layers, n_head=4,
        bos_token_id=0, eos_token_id=0, attn_pdrop=0.0, embd_pdrop=0.0, resid_pdrop=0.0,
        use_cache=False,
    )  # fmt: skip
    model = GPT2LMHeadModel(config)
    blocks = [f"transformer.h.{index}" for index in range(layers - 1)]
    sample = {"input_ids": torch.zeros(2, LENGTH, dtype=torch.long)}
    decoupled: GPT2LMHeadModel = dni.decouple(model, blocks, sample=sample, context_classes=BYTES)
    return decoupled


def main() -> None:
    """Train; print the loss and the cosines, and the loss of the stripped model."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--mix", type=float, default=0.5, help="share of real gradients")
    arguments = parser.parse_args()
    torch.manual_seed(0)
    data = pieces(README.read_bytes())
    model = language_model(arguments.layers)
    optimizer = torch.optim.AdamW(dni.parameter_groups(model, lr=3e-3), lr=1e-3)
    with tempfile.TemporaryDirectory() as folder:
        trainer = TellsLabels(
            model,
            TrainingArguments(
                folder, max_steps=arguments.steps, per_device_train_batch_size=16,
                logging_steps=max(1, arguments.steps // 4), max_grad_norm=0, report_to="none",
                save_strategy="no", use_cpu=True, disable_tqdm=True, lr_scheduler_type="constant",
            ),
            train_dataset=data,
            optimizers=(optimizer, None),
            callbacks=[DNICallback(mix=lambda step: arguments.mix)],
        )  # fmt: skip
        trainer.train()
    dni.strip(model).eval()
    with torch.no_grad():
        ids = torch.stack([piece["input_ids"] for piece in data])
        loss = float(model(input_ids=ids, labels=ids).loss)
    print(f"loss of the stripped model on its text: {loss:.2f} nats per byte")


if __name__ == "__main__":
    main()
