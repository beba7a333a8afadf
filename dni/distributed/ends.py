"""What a stage knows of its neighbours: the two ends of an edge, and the batch between them.

::

    stage 0                    stage 1                    stage 2
    part --> end A ==== end B --> part --> end A ==== end B --> part --> loss
             edge 0                        edge 1

An end decides what is sent and what is waited for; there is one pair for each kind of unlock
(:mod:`dni.distributed.update`, :mod:`dni.distributed.complete`). In each step a stage calls
``poll`` on its feed; then, on its ends, ``take``, ``hand_over`` and ``answer``; then ``learn`` and
``tell``; then ``hear``.

A neighbour that is away neither holds a stage up nor costs it a batch: while nothing comes, or
nothing can be handed over, the stage *rehearses* some batches.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from typing import Any, NamedTuple

from torch import nn

from dni import _checks
from dni.distributed.channels import Channel, Kind, Peer

__all__ = ["Batch", "EndA", "EndB", "Feed"]

LOOK = 0.1  # seconds of waiting before a look around: for a signal, for a lost peer
WONDER = 30.0  # seconds of waiting for a neighbour before a warning
KEEP = 32  # batches to rehearse, each once until a new one comes


class Batch(NamedTuple):
    """What a stage trains on in one step."""

    input: Any
    """The input of the part; that of the network, if the stage reads the data itself."""
    target: Any = None
    """For the loss of the last stage."""
    context: Any = None
    """What the synthesizers are conditioned on."""
    step: int = 0
    """Its number in the stage that it came from."""
    connection: int = 0
    """The connection that it came over; 0 if no answer is expected."""
    rehearsed: bool = False
    """Whether its regular turn is at another time, before or after."""


class End:
    """What both ends have in common.

    Args:
        channel: leads to the other end.
        patience: how many seconds a neighbour may be away.
    """

    def __init__(self, channel: Channel, patience: float = 300.0) -> None:
        self.channel = channel
        self.patience = _checks.seconds("patience", patience, type(self).__name__)
        self.stopping = False
        """Whether the stage is about to end, and need not wait for a neighbour that is away."""
        self.asked_to_stop = False
        """Whether the neighbour has asked for the run to end."""
        self._stopped_over = 0  # a connection
        self._wondered = False

    def trained(self) -> list[nn.Module]:
        """The synthesizers that learn at this end; their parameters join the optimiser."""
        return []

    def interface(self) -> nn.Module | None:
        """The interface that stands here, if one does."""
        return None

    def learn(self, clock: int) -> None:
        """Before the optimiser's step ``clock``: learn what the neighbour has sent."""

    def tell(self, clock: int) -> None:
        """After that step: tell the neighbour what was learnt."""

    def hear(self, clock: int) -> None:
        """In lock-step: wait until the neighbour has told as much."""

    def wait_for_peer(self) -> None:
        """Wait until the peer is there for the first time; raise if it is away for too long."""
        while self.channel.peer is Peer.AWAITED and not self.stopping:
            self.look()
        self.be_patient()

    def be_patient(self) -> None:
        """Raise if the neighbour has been away for too long."""
        waited = time.monotonic() - self.channel.lost_since
        if self.away and waited > self.patience:
            _checks.neighbour_away(self.channel.peer.value, waited, self.channel.trouble)

    def stop_too(self) -> None:
        """Ask the neighbour for the run to end; once per connection."""
        now = self.channel.counters.connections
        if self.channel.peer is Peer.PRESENT and self._stopped_over != now:
            self._stopped_over = self.channel.send(Kind.STOP, 0)

    @property
    def away(self) -> bool:
        """Whether the neighbour is yet to come, or to come back."""
        return self.channel.peer in (Peer.AWAITED, Peer.LOST)

    def look(self) -> None:
        """Wait a moment for a sign of the neighbour."""
        self.be_patient()
        waited = time.monotonic() - self.channel.lost_since
        if self.channel.peer is Peer.AWAITED and waited > WONDER and not self._wondered:
            self._wondered = True
            _checks.is_waiting(waited, self.channel.trouble)
        self.channel.inbox.wait(LOOK)
        if self.channel.error is not None:
            raise self.channel.error


class EndA(End, ABC):
    """End A of an edge, where activations leave."""

    needs_data = False
    """Whether the input of the network has to be known here."""

    def ready(self) -> bool:
        """Whether all later stages can go on."""
        return True

    @abstractmethod
    def hand_over(self, h: Any, batch: Batch) -> None:
        """Learn from a synthetic gradient of ``h``, and give the neighbour what it needs."""

    def finish(self) -> None:
        """Say that there are no more batches; wait until all later stages have finished."""


class EndB(End, ABC):
    """End B of an edge, where activations arrive."""

    @abstractmethod
    def take(self, batch: Batch) -> Any:
        """The input of the part, where a gradient can arrive."""

    @abstractmethod
    def answer(self, batch: Batch) -> None:
        """Pass on the gradient that has arrived at what was taken."""


class Feed(ABC):
    """Where batches come from: the data, or the stage before."""

    ended = False
    """Whether there are no more batches."""

    @property
    def idle(self) -> bool:
        """Whether it will be some time until the next batch comes."""
        return False

    @abstractmethod
    def poll(self) -> Batch | None:
        """The next batch; ``None`` if it is not there yet, or there are no more."""

    @abstractmethod
    def rehearse(self) -> Batch | None:
        """A batch to pass the time with; ``None`` if all have been rehearsed often enough."""

    @abstractmethod
    def hold(self, on: bool) -> None:
        """Tell whoever is before that no batch is taken for a while, or that this is over."""
