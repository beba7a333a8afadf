"""The contract of an edge between two stages, and edges within one process.

A channel is one end of an edge. It carries whole messages both ways and says whether the neighbour
is there. It decides nothing: :mod:`dni.distributed.update` and :mod:`dni.distributed.complete` say
who waits for what. Sending never waits. Still nothing piles up, since a stage does not send before
enough has been answered, and of the states of a synthesizer only the newest counts::

    end A, in the stage with part A               end B, in the stage with part B
    send -> outbox ==== thread ==== thread ====> inbox -> receive     between processes
    send ----------------------------------->    inbox -> receive     within one
"""

from __future__ import annotations

import threading
import time
from abc import ABC, abstractmethod
from collections import deque
from dataclasses import dataclass
from enum import Enum, IntEnum
from typing import Any, NamedTuple

from dni import _checks
from dni.distributed.wire import pack, unpack

__all__ = ["Channel", "Counters", "Kind", "Message", "Peer", "in_process"]

MOST = 4096  # messages that may wait in a mailbox; a peer that keeps the rules stays far below


class Kind(IntEnum):
    """What a message is for."""

    ACTIVATION = 1
    """A batch on its way from A to B, ``[activation, target, context, rehearsed]``."""
    GRADIENT = 2
    """The real gradient of an activation; the answer to it."""
    STATE = 3
    """What a synthesizer has learnt so far; only the newest counts."""
    END = 4
    """There are no more batches."""
    LEFT = 5
    """The sender has finished, and leaves."""
    BEAT = 6
    """The sender is alive."""
    HOLD = 7
    """The sender takes no more batches for now, because a later stage is away."""
    GO_ON = 8
    """The sender takes batches again."""
    STOP = 9
    """The sender asks for the run to end."""


class Message(NamedTuple):
    """What came over an edge, or goes over it."""

    kind: Kind
    step: int
    content: Any
    connection: int = 0
    """Which connection of this end it came over; the first is 1."""


class Peer(Enum):
    """Who is at the other end."""

    AWAITED = "awaited"
    """Nobody yet."""
    PRESENT = "present"
    """The neighbour."""
    LOST = "lost"
    """Nobody any more; the neighbour may come back."""
    LEFT = "left"
    """Nobody; the neighbour has finished."""


@dataclass
class Counters:
    """What went through one end; ``dropped`` messages had no receiver, or a newer one came."""

    sent: int = 0
    received: int = 0
    dropped: int = 0
    bytes_sent: int = 0
    bytes_received: int = 0
    connections: int = 0


class Mailbox:
    """Messages that wait for one thread, the oldest first."""

    def __init__(self) -> None:
        self._messages: deque[Message] = deque()
        self._changed = threading.Condition()

    def put(self, message: Message) -> int:
        """Add ``message``; return the number of messages that it replaces."""
        with self._changed:
            before = len(self._messages)
            if message.kind is Kind.STATE:
                kept = [one for one in self._messages if one.kind is not Kind.STATE]
                self._messages = deque(kept)
            replaced = before - len(self._messages)
            _checks.keeps_the_rules(len(self._messages), MOST)
            self._messages.append(message)
            self._changed.notify_all()
            return replaced

    def take(self, timeout: float) -> Message | None:
        """The oldest message; ``None`` if none comes in time, or somebody calls :meth:`wake`."""
        with self._changed:
            self.wait(timeout)
            return self._messages.popleft() if self._messages else None

    def wait(self, timeout: float) -> None:
        """Wait until there is a message, time is up, or somebody calls :meth:`wake`."""
        with self._changed:
            if not self._messages and timeout > 0:
                self._changed.wait(timeout)

    def clear(self) -> list[Message]:
        """Take out all messages, and return them."""
        with self._changed:
            messages = list(self._messages)
            self._messages.clear()
            return messages

    def wake(self) -> None:
        """Let a thread that waits look around."""
        with self._changed:
            self._changed.notify_all()

    def __len__(self) -> int:
        return len(self._messages)


class Channel(ABC):
    """One end of an edge.

    A subclass brings messages from :meth:`send` into the ``inbox`` of the other end, whole and
    in order or not at all, and keeps ``peer`` and ``counters`` up to date.

    Args:
        model: 16 bytes that both ends derive from the model.

    Attributes:
        peer, counters: see :class:`Peer` and :class:`Counters`.
        inbox: messages that have come.
        lost_since: when the neighbour was last there.
        error: what :meth:`receive` raises.
        trouble: why the last attempt to connect failed.
        over: whether both ends had already left when this one opened.
    """

    def __init__(self, model: bytes) -> None:
        self.model = model
        self.peer = Peer.AWAITED
        self.counters = Counters()
        self.inbox = Mailbox()
        self.lost_since = time.monotonic()
        self.error: Exception | None = None
        self.trouble = ""
        self.over = False
        self._counting = threading.Lock()

    @abstractmethod
    def open(self) -> None:
        """Let the neighbour connect; called once, when the stage is ready to answer."""

    @abstractmethod
    def send(self, kind: Kind, step: int, content: Any = None, connection: int = 0) -> int:
        """Put a message on its way, without waiting.

        Args:
            kind, step, content: see :class:`Message`.
            connection: that of the message which this one answers; once that connection is
                gone, nobody waits for the answer.

        Returns:
            the connection that the message goes over; 0 if there is none, and the message is
            dropped, and counted as such.
        """

    @abstractmethod
    def close(self) -> None:
        """Say that this end leaves, and let what is on its way arrive."""

    @abstractmethod
    def abandon(self) -> None:
        """Stop what runs for this end without telling the other; no effect after :meth:`close`."""

    def receive(self, timeout: float = 0.0) -> Message | None:
        """The next message; ``None`` if none comes in time, or the peer goes away meanwhile.

        Raises:
            WireError: if the peer has another model or version, or is none of ours.
        """
        end = time.monotonic() + timeout
        while (message := self.inbox.take(end - time.monotonic())) is None:
            if self.error is not None:
                raise self.error
            if self.peer in (Peer.LOST, Peer.LEFT) or time.monotonic() >= end:
                return None
        return message

    def dropped(self, messages: int = 1) -> None:
        """Count messages that had no receiver; safe from any thread."""
        with self._counting:
            self.counters.dropped += messages

    @property
    def waiting(self) -> int:
        """How many messages have come but have not been received yet."""
        return len(self.inbox)

    def _arrived(self, kind: Kind, step: int, content: Any, size: int) -> None:
        if kind is Kind.LEFT:
            self.peer = Peer.LEFT
            self.inbox.wake()
            return
        self.counters.received += 1
        self.counters.bytes_received += size
        message = Message(kind, step, content, self.counters.connections)
        self.dropped(self.inbox.put(message))


class InProcess(Channel):
    """An end whose other end is in the same process; see :func:`in_process`."""

    other: InProcess

    def open(self) -> None:
        """Do nothing: the neighbour is there from the start."""

    def send(self, kind: Kind, step: int, content: Any = None, connection: int = 0) -> int:
        """See :meth:`Channel.send`; the message has arrived when this returns."""
        frame = pack(kind, step, content, self.model)
        if self.peer is not Peer.PRESENT:
            self.dropped()
            return 0
        size = len(frame.header) + len(frame.body)
        self.counters.sent += 1
        self.counters.bytes_sent += size
        arrived = unpack(frame.header, frame.body, self.other.model)
        self.other._arrived(kind, step, arrived, size)
        return 1

    def abandon(self) -> None:
        """Do nothing: nothing runs."""

    def close(self) -> None:
        """See :meth:`Channel.close`."""
        self.other._arrived(Kind.LEFT, 0, None, 0)


def in_process(model: bytes = bytes(16)) -> tuple[Channel, Channel]:
    """End A and end B of an edge within this process.

    Messages take the same form as between processes, so nothing is shared. They arrive in the
    order of the calls, so stages that take turns are deterministic.

    Example:
        >>> a, b = dni.distributed.in_process()
        >>> a.send(dni.distributed.Kind.ACTIVATION, 0, torch.ones(2))
        1
        >>> b.receive().content
        tensor([1., 1.])
    """
    a, b = InProcess(model), InProcess(model)
    a.other, b.other = b, a
    for end in (a, b):
        end.peer = Peer.PRESENT
        end.counters.connections = 1
    return a, b
