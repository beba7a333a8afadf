"""A callback for the ``Trainer`` of Transformers; it needs ``transformers`` and ``accelerate``.

Decouple the model before you give it to the trainer, and save it after :func:`dni.strip`::

    dni.decouple(model, at="transformer.h.?", sample=batch)
    trainer = Trainer(model, arguments, train_dataset=data, callbacks=[DNICallback()])
    trainer.train()
    dni.strip(model).save_pretrained("folder")

A trainer clips the norm over all gradients (``max_grad_norm=1.0``), including those of
synthesizers: pass ``max_grad_norm=0``. To give synthesizers a rate of their own, pass
``optimizers=`` (:func:`dni.parameter_groups`).
"""

from __future__ import annotations

from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from dni.diagnostics import Monitor
from dni.integrations.schedules import Schedule, Schedules

__all__ = ["DNICallback"]


class DNICallback(TrainerCallback):
    """Adds to each log how good synthetic messages are, and schedules ``mix`` and ``factor``.

    The numbers, ``dni/<cut>/<quantity>``, join those of the trainer: in ``state.log_history``, in
    what it prints, and in the logs of callbacks that come after this one in ``callbacks=``.

    Args:
        mix: a function from the number of a step to the share of real gradients.
        factor: a function from the number of a step to the scale of synthetic gradients.
    """

    def __init__(self, mix: Schedule | None = None, factor: Schedule | None = None) -> None:
        self.schedules = Schedules(mix, factor)
        self.monitor: Monitor | None = None

    def on_train_begin(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        **kwargs: Any,
    ) -> None:
        """Start measuring."""
        if self.monitor is not None:  # left by a training that was interrupted
            self.monitor.close()
        self.monitor = Monitor(kwargs["model"])

    def on_step_begin(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        **kwargs: Any,
    ) -> None:
        """Set ``mix`` and ``factor``."""
        self.schedules.apply(kwargs["model"], state.global_step)

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        **kwargs: Any,
    ) -> None:
        """Add what was measured since the last time."""
        logs: dict[str, float] = kwargs["logs"]
        if self.monitor is not None and "loss" in logs:
            self.monitor.read()
            logs.update(self.monitor.scalars())
            state.log_history[-1].update(self.monitor.scalars())

    def on_train_end(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        **kwargs: Any,
    ) -> None:
        """Stop measuring."""
        if self.monitor is not None:
            self.monitor.close()
            self.monitor = None
