"""How a stage is doing, for whoever watches it from another process."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from dni.diagnostics import Monitor
from dni.distributed.update import UpdateA

if TYPE_CHECKING:
    from dni.distributed.stage import Stage

EVERY = 0.5  # seconds between two reports


class Status:
    """Counts steps and pauses; read with :meth:`read`, or in ``file`` as JSON.

    Args:
        stage: the stage that it describes.
    """

    def __init__(self, stage: Stage) -> None:
        self._stage = stage
        interfaces = [one for end in stage.ends if (one := end.interface()) is not None]
        self._monitor = Monitor(nn.ModuleList(interfaces), keep=1) if interfaces else None
        self._loss: Tensor | None = None
        self._since = self._last = self._reported = time.monotonic()
        self._steps = 0
        self._first = True
        self._measured: dict[str, float] = {}
        self.longest_pause = 0.0
        self.done = False
        self.saved = 0
        self.resumed = 0
        self.file: Path | None = None

    def saw_loss(self, loss: Tensor) -> None:
        """Note the loss of the last stage."""
        self._loss = loss.detach()

    def stepped(self) -> None:
        """Note a step; called after each."""
        now = time.monotonic()
        if self._first:
            self._first, self._since = False, now
            self._reported = float("-inf")  # whoever watches should know that there was a step
        else:
            self._steps += 1
            self.longest_pause = max(self.longest_pause, now - self._last)
        self._last = now
        if self.file is not None and now - self._reported > EVERY:
            self.report()

    def finished(self) -> None:
        """Note the end of the data."""
        self.done = True
        if self.file is not None:
            self.report()

    def report(self) -> None:
        """Write :meth:`read` to ``file``, whole or not at all."""
        assert self.file is not None
        self._reported = time.monotonic()
        partial = self.file.with_suffix(".partial")
        partial.write_text(json.dumps(self.read()))
        partial.replace(self.file)

    def read(self) -> dict[str, Any]:
        """``clock``, ``steps_per_second``, ``longest_pause`` (seconds), ``loss``, ``queue`` ...

        ``dropped`` messages had no receiver; ``rehearsed`` batches were trained on while a
        neighbour was away; ``waiting`` ones have come but have not been trained on yet.
        """
        stage, down, up = self._stage, self._stage.downstream, self._stage.upstream
        counters = [end.channel.counters for end in stage.ends]
        return {
            "pid": os.getpid(),
            "clock": stage.clock,
            "saved": self.saved,
            "resumed": self.resumed,
            "done": self.done,
            "steps_per_second": self._steps / max(self._last - self._since, 1e-9),
            "longest_pause": self.longest_pause,
            "queue": down.unanswered if isinstance(down, UpdateA) else 0,
            "waiting": up.channel.waiting if up is not None else 0,
            "dropped": sum(one.dropped for one in counters),
            "rehearsed": stage.rehearsed,
            "bytes_sent": sum(one.bytes_sent for one in counters),
            "loss": None if self._loss is None else float(self._loss),
            **self._synthesizer(),
        }

    def _synthesizer(self) -> dict[str, float | None]:
        """The synthesizer's loss and cosine since the last look; the mean, if there are several."""
        if self._monitor is not None:
            seen = [one for one in self._monitor.read().values() if one.messages]
            if seen:
                self._measured = {
                    "synthesizer_loss": sum(one.loss for one in seen) / len(seen),
                    "cosine": sum(one.cosine for one in seen) / len(seen),
                }
        return {"synthesizer_loss": None, "cosine": None, **self._measured}
