"""The data, as seen by the stage that reads them."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from typing import Any

from dni import _checks
from dni.distributed.ends import KEEP, Batch, Feed

__all__ = ["Reading"]


class Reading(Feed):
    """Batches from ``data``, one after another; none is lost while later stages are away.

    During that time the next few batches are read ahead and trained on. When the later stages are
    back, these are the first batches that they get.

    Args:
        data: batches of ``(input, target)`` or ``(input, target, context)``.
    """

    def __init__(self, data: Iterable[Sequence[Any]]) -> None:
        self._data = iter(data)
        self._ahead: deque[Batch] = deque()
        self._rehearsed = 0

    def poll(self) -> Batch | None:
        """See :meth:`.Feed.poll`."""
        self._rehearsed = 0
        batch = self._ahead.popleft() if self._ahead else self._read()
        self.ended = batch is None
        return batch

    def rehearse(self) -> Batch | None:
        """See :meth:`.Feed.rehearse`."""
        if len(self._ahead) < KEEP and (batch := self._read()) is not None:
            self._ahead.append(batch)
        if self._rehearsed == len(self._ahead):
            return None
        self._rehearsed += 1
        return self._ahead[self._rehearsed - 1]._replace(rehearsed=True)

    def hold(self, on: bool) -> None:
        """See :meth:`.Feed.hold`; the data need not be told."""

    def _read(self) -> Batch | None:
        item = next(self._data, None)
        batch: Batch | None = None if item is None else _checks.batch_of(item, Batch)
        return batch
