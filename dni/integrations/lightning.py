"""A callback for Lightning's ``Trainer``; it needs ``lightning``.

With automatic optimisation, a module whose interfaces have the connected form (``unlock=False``,
as :func:`dni.decouple` makes them) trains unchanged. The early form sends its gradients during
``training_step``, after which Lightning calls ``zero_grad``; so it needs manual optimisation::

    def training_step(self, batch, index):
        x, y = batch
        self.optimizers().zero_grad()
        with dni.synthesizer_context(y):
            loss = F.cross_entropy(self.network(x), y)
        self.manual_backward(loss)
        self.optimizers().step()
"""

from __future__ import annotations

from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from dni import _checks
from dni.diagnostics import Monitor
from dni.integrations.schedules import Schedule, Schedules, early

__all__ = ["DNICallback"]


class DNICallback(Callback):
    """Logs how good synthetic messages are, and schedules ``mix`` and ``factor``.

    It logs ``dni/<cut>/loss``, ``.../cosine`` and ``.../norm_ratio``; see
    :class:`dni.diagnostics.Measurement`. To give the synthesizers a rate of their own, set it in
    the optimiser: ``torch.optim.Adam(dni.parameter_groups(self, lr=1e-3), lr=1e-4)``.

    Args:
        every: how many optimiser steps lie between two logs.
        mix: a function from the number of a step to the share of real gradients.
        factor: a function from the number of a step to the scale of synthetic gradients.
    """

    def __init__(
        self, every: int = 50, mix: Schedule | None = None, factor: Schedule | None = None
    ) -> None:
        self.every = _checks.count("every", every, 1, type(self).__name__)
        self.schedules = Schedules(mix, factor)
        self.monitor: Monitor | None = None
        self._seen = 0  # steps

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start measuring; refuse interfaces that cannot work here."""
        if pl_module.automatic_optimization:
            _checks.zeroed_after_forward(early(pl_module), type(self).__name__)
        self.monitor, self._seen = Monitor(pl_module), trainer.global_step

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Set ``mix`` and ``factor``."""
        self.schedules.apply(pl_module, trainer.global_step)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Log every ``every`` steps; if several batches make one step, after the last of them."""
        step = trainer.global_step
        if self.monitor is not None and step != self._seen and step % self.every == 0:
            self.monitor.read()
            pl_module.log_dict(self.monitor.scalars())
        self._seen = step

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stop measuring."""
        self._close()

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        """Stop measuring."""
        self._close()

    def _close(self) -> None:
        if self.monitor is not None:
            self.monitor.close()
