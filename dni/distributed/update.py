"""Update unlock: activations and real gradients travel, and no stage waits for a gradient.

::

    end A                                      end B
    1. send s(h) into the part
    2. ---- h, target, context --------------> take: x, a leaf with the values of h
                                               part B runs forward and back
       h is kept, unanswered                   answer: the real gradient at x
    3. learn: s(h), once more, from g  <------ g ---'

By step 3 the synthesizer has changed since step 1, so it predicts anew; that is the price of not
having waited. One rule bounds all queues: end A goes on while at most ``queue`` batches are
unanswered. With ``queue=0`` that is lock-step, the arithmetic of a single process.

A neighbour that has died, or has been restarted and is not at work yet, holds nobody up. The stage
after it *rehearses* batches that it has kept, with their real gradients. The stage before it
rehearses too, with synthetic gradients, and tells the stage before itself to do the same
(``HOLD``), and so on up to the stage that reads the data, which reads only a few batches ahead. So
the restarted stage misses only what was on its way to it. Each batch is rehearsed once, then all
stages wait: meanwhile the synthesizer does not learn, and a network that went on training against
it would drift away from what it knows.
"""

from __future__ import annotations

from collections import deque
from typing import Any

from torch import Tensor, nn

from dni import _checks, _trees
from dni.contexts import synthesizer_context
from dni.distributed.channels import MOST, Channel, Kind, Message, Peer
from dni.distributed.ends import KEEP, LOOK, Batch, EndA, EndB, Feed
from dni.interfaces import BackwardInterface

__all__ = ["UpdateA", "UpdateB"]


class UpdateA(EndA):
    """End A in an update unlock, where activations leave and gradients come back.

    Args:
        channel: end A of an edge.
        interface: the interface after the part; its synthesizer learns here.
        queue: how many batches may be unanswered; 0 is lock-step.
        patience: how many seconds the neighbour may be away.
    """

    def __init__(
        self,
        channel: Channel,
        interface: BackwardInterface,
        queue: int = 2,
        patience: float = 300.0,
    ) -> None:
        super().__init__(channel, patience)
        self._interface = interface
        self.queue = _checks.queue(queue, MOST, type(self).__name__)
        self._sent = 0
        self._answered_over = 1  # a connection; on the first, an answer is worth waiting for
        self._held_over = 0
        self._unanswered: dict[tuple[int, int], tuple[Any, Any]] = {}

    @property
    def unanswered(self) -> int:
        """Batches whose gradients have not come yet."""
        return len(self._unanswered)

    def trained(self) -> list[nn.Module]:
        """See :meth:`.End.trained`."""
        return [self._interface.synthesizer]

    def interface(self) -> nn.Module:
        """See :meth:`.End.interface`."""
        return self._interface

    def ready(self) -> bool:
        """See :meth:`EndA.ready`."""
        self._listen()
        peer = self.channel.peer
        if peer is Peer.LOST:
            return False
        held = self._held_over == self.channel.counters.connections
        full = self.unanswered > self.queue  # the neighbour is back, but not at work
        return peer is not Peer.PRESENT or not (held or full)

    def hand_over(self, h: Any, batch: Batch) -> None:
        """See :meth:`EndA.hand_over`."""
        self._interface.backward(h)
        self.wait_for_peer()
        _checks.not_left(self.channel.peer is Peer.LEFT and not self.stopping)
        if batch.rehearsed and not self.ready():
            return
        if self.channel.peer is Peer.LOST or self.unanswered > self.queue:
            self.channel.dropped(not batch.rehearsed)  # it was on its way when the neighbour died
            return
        h = _trees.map_tensors(lambda _, tensor: tensor.detach(), h)
        self._sent += 1
        content = [h, batch.target, batch.context, batch.rehearsed]
        connection = self.channel.send(Kind.ACTIVATION, self._sent, content)
        if connection:
            self._forget_before(connection)
            self._unanswered[connection, self._sent] = (h, batch.context)

    def learn(self, clock: int) -> None:
        """Learn from the gradients that have come; wait while too many are missing."""
        self._listen()
        while self.unanswered > self.queue and self._at_work():
            if (message := self.channel.receive(LOOK)) is not None:
                self._hear(message)

    def finish(self) -> None:
        """See :meth:`EndA.finish`; a neighbour that comes back is told again."""
        told = 0
        while self.channel.peer is not Peer.LEFT and not (self.stopping and self.away):
            if self.channel.peer is Peer.PRESENT and told != self.channel.counters.connections:
                told = self.channel.send(Kind.END, self._sent)
            self.channel.dropped(len(self.channel.inbox.clear()))  # they teach nothing any more
            self.look()

    def stop_too(self) -> None:
        """See :meth:`.End.stop_too`; here the end of the batches tells the neighbour."""

    def _listen(self) -> None:
        """Process all messages that have come."""
        self._forget_before(self.channel.counters.connections)
        while (message := self.channel.receive()) is not None:
            self._hear(message)

    def _hear(self, message: Message) -> None:
        if message.kind is Kind.STOP:
            self.asked_to_stop = True
            return
        if message.kind in (Kind.HOLD, Kind.GO_ON):
            self._held_over = message.connection if message.kind is Kind.HOLD else 0
            return
        place = (message.connection, message.step)
        _checks.is_kind(message.kind, Kind.GRADIENT)
        self._answered_over = message.connection
        if place in self._unanswered:
            h, context = self._unanswered.pop(place)
            gradient = _trees.on_device_of(_checks.gradient_fits(message.content, h), h)
            with synthesizer_context(context):
                self._interface.send(gradient, h)

    def _at_work(self) -> bool:
        """Whether the neighbour will answer soon."""
        now = self.channel.counters.connections
        if self.channel.peer is Peer.PRESENT:
            return self._answered_over == now != self._held_over
        self._forget_before(now + 1)
        return False

    def _forget_before(self, connection: int) -> None:
        """Forget what went over earlier connections, as nobody will answer it."""
        lost = [place for place in self._unanswered if place[0] < connection]
        for place in lost:
            del self._unanswered[place]
        self.channel.dropped(len(lost))


class UpdateB(EndB, Feed):
    """End B in an update unlock, where activations arrive and gradients leave.

    Args:
        channel: end B of an edge.
        keep: how many batches to keep, to rehearse while a neighbour is away.
        patience: how many seconds the stage before may be away.
    """

    def __init__(self, channel: Channel, keep: int = KEEP, patience: float = 300.0) -> None:
        super().__init__(channel, patience)
        self._kept: deque[Batch] = deque(maxlen=_checks.count("keep", keep, 0, type(self).__name__))
        self._left_to_rehearse = 0
        self._heard_over = 0  # a connection
        self._holding = 0
        self._leaves: Any = None  # of the current batch

    @property
    def idle(self) -> bool:
        """See :attr:`.Feed.idle`."""
        return self.away or self._heard_over != self.channel.counters.connections

    def poll(self) -> Batch | None:
        """See :meth:`.Feed.poll`."""
        message = self.channel.receive()
        if message is None:
            self.ended |= self.channel.peer is Peer.LEFT or (self.away and self.stopping)
            return None
        if message.kind is Kind.END:
            self.ended = True
            return None
        batch: Batch = _checks.a_batch(message, Kind.ACTIVATION, Batch)
        self._heard_over = message.connection
        if not batch.rehearsed:
            self._kept.append(batch._replace(connection=0, rehearsed=True))
            self._left_to_rehearse = len(self._kept)
        return batch

    def rehearse(self) -> Batch | None:
        """See :meth:`.Feed.rehearse`."""
        if self._left_to_rehearse == 0:
            return None
        self._left_to_rehearse -= 1
        self._kept.rotate(-1)
        return self._kept[-1]

    def hold(self, on: bool) -> None:
        """See :meth:`.Feed.hold`; a neighbour that comes back is told again."""
        if not on and self._holding:
            self.channel.send(Kind.GO_ON, 0, connection=self._holding)
            self._holding = 0
        now = self.channel.counters.connections
        if on and self._holding != now and self.channel.peer is Peer.PRESENT:
            self._holding = self.channel.send(Kind.HOLD, 0)

    def take(self, batch: Batch) -> Any:
        """See :meth:`EndB.take`; a copy, which the part may change in place."""
        self._leaves = _trees.map_tensors(lambda _, h: h.detach().requires_grad_(), batch.input)
        return _trees.map_tensors(lambda _, leaf: leaf.clone(), self._leaves)

    def answer(self, batch: Batch) -> None:
        """See :meth:`EndB.answer`."""
        leaves, self._leaves = self._leaves, None
        if batch.connection:
            self.channel.send(Kind.GRADIENT, batch.step, _gradients(leaves), batch.connection)


def _gradients(x: Any) -> Any:
    """The gradients that have arrived at the leaves ``x``; zeros where none did."""

    def gradient(_: Any, leaf: Tensor) -> Tensor:
        return leaf.new_zeros(leaf.shape) if leaf.grad is None else leaf.grad

    return _trees.map_tensors(gradient, x)
