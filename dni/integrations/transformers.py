"""For the ``Trainer`` of Transformers; it needs ``transformers`` and ``accelerate``.

The model is decoupled before it is given to the trainer, and saved after :func:`dni.strip`::

    dni.decouple(model, at="transformer.h.?", sample=batch)
    trainer = Trainer(model, arguments, train_dataset=data, callbacks=[DNICallback()])
    trainer.train()
    dni.strip(model).save_pretrained("folder")

Trainers clip the norm over all gradients (``max_grad_norm=1.0``), those of synthesizers too: pass
``max_grad_norm=0``, and ``optimizers=`` for rates of their own (:func:`dni.parameter_groups`).
"""

from __future__ import annotations

from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from dni.diagnostics import Monitor
from dni.integrations.schedules import Schedule, Schedules

__all__ = ["DNICallback"]


class DNICallback(TrainerCallback):
    """Adds how good synthetic messages are to each log, and schedules ``mix`` and ``factor``.

    The numbers, ``dni/<cut>/<quantity>``, join those of the trainer: in ``state.log_history``, in
    what it prints, and in callbacks that stand after this one in ``callbacks=``.

    Args:
        mix: the share of real gradients at a step, a function of its number.
        factor: the scale of synthetic gradients, likewise.
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
        """Look at the interfaces."""
        if self.monitor is not None:  # of a training that was interrupted
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
