"""Edges between processes, over PyTorch's own c10d (gloo).

c10d thinks in worlds: all processes start together, and one that dies takes the world with it.
Here each edge is a world of two. When it breaks, its two processes, one of which may be new, meet
in the next *generation*. This is a number in the store: whoever first notices the break raises it,
and both leave their names under it before either connects::

    generation 3   A joined, B joined       connected ... B dies
    generation 4   A joined                 waits; trains on meanwhile
                   B (restarted) joined     connected

gloo cannot be asked whether a message has come, and a receive that times out ends the connection
for both. So each direction has a thread that waits, and silence *is* the end of a connection: a
peer that has nothing to say sends a beat. Once in a great while gloo does not tell a send that
its peer has died. So every connection has an outbox and a sending thread of its own: a thread that
is stuck in an old connection does not hold up the next one, and holds up the end of the run for no
longer than a silence.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta

import torch
from torch.distributed import PrefixStore, ProcessGroupGloo, Store  # type: ignore[attr-defined]

from dni import _checks
from dni.distributed.channels import Channel, Kind, Message, Peer
from dni.distributed.channels import Mailbox as Outbox
from dni.distributed.stores import interface_of_loopback
from dni.distributed.wire import LAYOUT, Frame, WireError, pack, unpack, unpack_header

__all__ = ["C10dChannel"]

POLL = 0.01  # seconds between two looks into the store
AGAIN = 0.1  # seconds between two attempts to connect
BEATS = 5  # beats in the longest silence
SLOWEST = 1e6  # bytes per second: a body may come as slowly as this
CONNECT = timedelta(seconds=3)  # both are there; if one dies just now, the other must not wait

VARIABLE = "GLOO_SOCKET_IFNAME"
_changed = threading.Condition()
_users: list[int] = []
_before: list[str | None] = []


class C10dChannel(Channel):
    """One end of an edge between two processes; it connects, and reconnects, by itself.

    Args:
        store: where the two ends meet, under ``name``.
        name: the same for both ends; each edge has one of its own.
        end: ``"A"``, where activations leave, or ``"B"``, where they arrive.
        model: see :class:`Channel`.
        silence: seconds without a sign of life after which a peer is taken for dead.
        interface: the network interface, such as ``"eth0"``; the loopback one if left out.

    Example:
        >>> import threading
        >>> _, url = dni.distributed.serve_store()
        >>> ends = [
        ...     dni.distributed.C10dChannel(dni.distributed.open_store(url), "edge 0", end)
        ...     for end in "AB"
        ... ]
        >>> for end in ends:
        ...     end.open()
        >>> while not ends[0].send(dni.distributed.Kind.ACTIVATION, 7, torch.ones(3)):
        ...     pass    # until they have met
        >>> ends[1].receive(timeout=60).step
        7
        >>> ends[0].peer
        <Peer.PRESENT: 'present'>
        >>> leaving = [threading.Thread(target=end.close) for end in ends]  # together
        >>> for thread in leaving:
        ...     thread.start()
        >>> for thread in leaving:
        ...     thread.join()
    """

    def __init__(
        self,
        store: Store,
        name: str,
        end: str,
        *,
        model: bytes = bytes(16),
        silence: float = 10.0,
        interface: str | None = None,
    ) -> None:
        super().__init__(model)
        self.name = name
        self.silence = _checks.seconds("silence", silence, "dni.distributed.C10dChannel")
        self._interface = interface or interface_of_loopback()
        if self._interface != interface_of_loopback():
            _checks.beyond_loopback(f"an edge over {interface}")
        self._store = PrefixStore(name, store)
        self._mine = _checks.end_of_an_edge(end, "dni.distributed.C10dChannel")
        self._theirs = "B" if end == "A" else "A"
        self._rank = "AB".index(end)
        self._closing = self._abandoned = False
        self._connection = threading.Lock()  # what follows belongs to one connection
        self._group: ProcessGroupGloo | None = None
        self._outbox = Outbox()
        self._generation = 0
        self._receiver = self._thread(self._receive_all)
        self._senders: list[threading.Thread] = []

    def open(self) -> None:
        """See :meth:`Channel.open`."""
        self.over = self._store.check(["left/A"]) and self._store.check(["left/B"])
        if self._store.check(["met"]):  # the two ends met in a former life of this stage
            self.peer = Peer.LOST
        self.lost_since = time.monotonic()
        self._receiver.start()

    def send(self, kind: Kind, step: int, content: object = None, connection: int = 0) -> int:
        """See :meth:`Channel.send`."""
        frame = pack(kind, step, content, self.model)  # a copy: parameters may change from here on
        with self._connection:
            now = self.counters.connections
            if self._group is None or connection not in (0, now):
                self.dropped()
                return 0
            self.dropped(self._outbox.put(Message(kind, step, frame)))
            return now

    def close(self) -> None:
        """See :meth:`Channel.close`; waits until the peer closes too, as long as there is a peer.

        All threads end here: one that still waited inside gloo while Python shuts down would
        take the process down with it.
        """
        if self._closing or not self._receiver.ident:
            return
        self._store.set(f"left/{self._mine}", "1")
        with self._connection:
            self._closing = True
            self._say_goodbye()
        self._receiver.join(None if self.error is None else self.silence)
        self.abandon()

    def abandon(self) -> None:
        """See :meth:`Channel.abandon`; the peer notices by the silence, or at once if gloo does."""
        if not self._receiver.ident:
            return
        with self._connection:
            self._abandoned = True
            self._outbox.wake()
        for thread in (*self._senders, self._receiver):
            thread.join(self.silence)
        self._group = None  # which closes its sockets

    def _say_goodbye(self) -> None:
        """Tell the peer, if there is one, that this end leaves; call it within the lock."""
        if self._closing and self._group is not None:
            frame = pack(Kind.LEFT, 0, None, self.model)
            self._outbox.put(Message(Kind.LEFT, 0, frame))

    def _thread(self, loop: Callable[..., None], *arguments: object) -> threading.Thread:
        name = f"dni {self.name} {self._mine}"
        return threading.Thread(target=loop, args=arguments, name=name, daemon=True)

    # the thread that receives, and connects

    def _receive_all(self) -> None:
        try:
            while (group := self._join()) is not None:
                self._connected(group)
                try:
                    while self.peer is not Peer.LEFT and (arrived := self._read(group)):
                        self._arrived(*arrived)
                    return
                except WireError:
                    raise
                except RuntimeError:  # gloo's: closed by the peer, or silent for too long
                    self._lose(group)
        except Exception as error:  # handed to the thread that calls receive()
            self.error = error
            if isinstance(error, WireError):
                self._store.set("refused", str(error))
            self._lose(self._group)
        finally:
            self.inbox.wake()

    def _read(self, group: ProcessGroupGloo) -> tuple[Kind, int, object, int] | None:
        """The next message, other than a beat; ``None`` if this end is abandoned."""
        while not self._abandoned:
            header = torch.empty(LAYOUT.size, dtype=torch.uint8)
            self._receive(group, header, self.silence)
            said = unpack_header(header, self.model)
            body = torch.empty(said.body, dtype=torch.uint8)
            self._receive(group, body, self.silence + said.body / SLOWEST)
            kind = _checks.known_kind(said.kind, Kind)
            if kind is not Kind.BEAT:
                content = unpack(header, body, self.model)
                return kind, said.step, content, len(header) + len(body)
        return None

    def _receive(self, group: ProcessGroupGloo, into: torch.Tensor, seconds: float) -> None:
        work = group.recv([into], 1 - self._rank, 0)  # type: ignore[attr-defined]
        work.wait(timedelta(seconds=seconds))

    # the threads that send

    def _send_all(self, group: ProcessGroupGloo, outbox: Outbox) -> None:
        """Send what is in ``outbox``, as long as ``group`` is the connection."""
        while True:
            message = outbox.take(self.silence / BEATS)
            if self._group is not group or (self._abandoned and message is None):
                self.dropped(message is not None and message.kind is not Kind.ACTIVATION)
                return
            frame = message.content if message else pack(Kind.BEAT, 0, None, self.model)
            try:
                self._write(group, frame)
            except RuntimeError:
                self._lose(group)
                return
            if message is not None:
                self.counters.sent += 1
                self.counters.bytes_sent += len(frame.header) + len(frame.body)
                if message.kind is Kind.LEFT:
                    return

    def _write(self, group: ProcessGroupGloo, frame: Frame) -> None:
        for piece in frame:
            work = group.send([piece], 1 - self._rank, 0)  # type: ignore[attr-defined]
            work.wait(timedelta(seconds=self.silence + len(piece) / SLOWEST))

    # generations

    def _join(self) -> ProcessGroupGloo | None:
        """Meet the peer in a generation; ``None`` if the peer has left, or this end closes."""
        generation = self._current()
        if self._store.check([f"{generation}/{self._mine}"]):  # by a former life of this stage
            generation = self._raise(generation)
        while self._meet(generation):
            try:
                group = self._connect(generation)
            except RuntimeError as error:  # the peer died on its way here, or there is no route
                self.trouble = str(error).partition("\n")[0]
                generation = self._raise(generation)
                time.sleep(AGAIN)
                continue
            if group is None:
                generation = self._current()
                continue
            self._generation = generation
            return group
        return None

    def _meet(self, generation: int) -> bool:
        """Wait for the peer, or for a newer generation; ``False`` if there is nobody to meet."""
        self._store.set(f"{generation}/{self._mine}", "1")
        while True:
            if self._store.check(["refused"]):
                _checks.was_refused(self._store.get("refused").decode())
            if self._store.check([f"left/{self._theirs}"]):
                self.peer = Peer.LEFT
                return False
            if self._closing or self._abandoned:
                return False
            here = self._store.check([f"{generation}/{self._theirs}"])
            if here or self._current() != generation:
                return True
            time.sleep(POLL)

    def _connect(self, generation: int) -> ProcessGroupGloo | None:
        if self._current() != generation:
            return None
        store = PrefixStore(f"{generation}/group", self._store)
        with listening_on(self._interface):
            return ProcessGroupGloo(store, self._rank, 2, CONNECT)

    def _current(self) -> int:
        if not self._store.check(["generation"]):
            self._store.compare_set("generation", "", "0")
        return int(self._store.get("generation"))

    def _raise(self, generation: int) -> int:
        """Go to the next generation, whoever gets there first; return the current one."""
        self._store.compare_set("generation", str(generation), str(generation + 1))
        return self._current()

    def _connected(self, group: ProcessGroupGloo) -> None:
        self._store.set("met", "1")
        with self._connection:
            self._group, self._outbox = group, Outbox()
            self.peer, self.trouble = Peer.PRESENT, ""
            self.counters.connections += 1
            self._say_goodbye()
        sender = self._thread(self._send_all, group, self._outbox)
        self._senders = [*filter(threading.Thread.is_alive, self._senders), sender]
        sender.start()
        self.inbox.wake()

    def _lose(self, group: ProcessGroupGloo | None) -> None:
        """Give up the connection; called by either thread, when it notices."""
        with self._connection:
            if group is None or self._group is not group:
                return
            self._group = None
            self._outbox.wake()
            unsent = self._outbox.clear()  # activations are counted where they wait for an answer
            self.dropped(sum(message.kind is not Kind.ACTIVATION for message in unsent))
            if self.peer is not Peer.LEFT:
                self.peer = Peer.LOST
                self.lost_since = time.monotonic()
        self._raise(self._generation)
        self.inbox.wake()


@contextmanager
def listening_on(interface: str) -> Iterator[None]:
    """In this block, new gloo groups listen on ``interface``; gloo reads the environment.

    Several threads may be in the block at once, but only for one interface at a time.
    """
    with _changed:
        _changed.wait_for(lambda: not _users or os.environ.get(VARIABLE) == interface)
        if not _users:
            _before.append(os.environ.get(VARIABLE))
            os.environ[VARIABLE] = interface
        _users.append(threading.get_ident())
    try:
        yield
    finally:
        with _changed:
            _users.pop()
            if not _users:
                before = _before.pop()
                del os.environ[VARIABLE]
                os.environ.update({} if before is None else {VARIABLE: before})
            _changed.notify_all()
