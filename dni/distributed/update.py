"""Update unlock: activations and real gradients travel, and no stage waits for a gradient.

::

    end A                                      end B
    1. send s(h) into the part
    2. ---- h, target, context --------------> take: x, a leaf with the values of h
                                               part B runs forward and back
       h is kept, unanswered                   answer: the real gradient at x
    3. learn: s(h), once more, from g  <------ g ---'

In step 3 the synthesizer has changed since step 1, so it predicts anew; that is the price of not
having waited. One rule bounds all queues: end A goes on while at most ``queue`` batches are
unanswered. With ``queue=0`` that is lock-step, the arithmetic of a single process.

A neighbour that dies holds nobody up, nor does one that has been restarted and is not at work
yet. End A trains on with the synthesizer as it is, and counts what nobody received. End B trains
on batches that it has kept, and counts those. The restarted stage finds its neighbours further,
and the next batch is its first.
"""

from __future__ import annotations

from collections import deque
from typing import Any

from torch import Tensor, nn

from dni import _checks, _trees
from dni.contexts import synthesizer_context
from dni.distributed.channels import Channel, Kind, Message, Peer
from dni.distributed.ends import LOOK, Batch, EndA, EndB
from dni.interfaces import BackwardInterface

__all__ = ["UpdateA", "UpdateB"]

REHEARSALS = 10  # of each kept batch, while the stage before is away; more would be overfitting


class UpdateA(EndA):
    """Where activations leave and gradients come back.

    Args:
        channel: end A of an edge.
        interface: stands behind the part; its synthesizer learns here.
        queue: how many batches may be unanswered; 0 is lock-step.
        patience: seconds that the neighbour may be away for.
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
        self.queue = _checks.count("queue", queue, 0, type(self).__name__)
        self._sent = 0
        self._answered_over = 1  # a connection: of the first, an answer is worth waiting for
        self._unanswered: dict[tuple[int, int], tuple[Any, Any]] = {}

    @property
    def unanswered(self) -> int:
        """Batches whose gradients have not come yet."""
        return len(self._unanswered)

    def trained(self) -> list[nn.Module]:
        """See :meth:`End.trained`."""
        return [self._interface.synthesizer]

    def interface(self) -> nn.Module:
        """See :meth:`End.interface`."""
        return self._interface

    def hand_over(self, h: Any, batch: Batch) -> None:
        """See :meth:`EndA.hand_over`."""
        self._interface.backward(h)
        self.wait_for_peer()
        _checks.not_left(self.channel.peer is Peer.LEFT and not self.stopping)
        self._forget_before(self.channel.counters.connections)
        if self.unanswered > self.queue:  # by a neighbour that has come again, but not to work
            self.channel.dropped()
            return
        h = _trees.map_tensors(lambda _, tensor: tensor.detach(), h)
        self._sent += 1
        content = [h, batch.target, batch.context]
        connection = self.channel.send(Kind.ACTIVATION, self._sent, content)
        if connection:
            self._forget_before(connection)
            self._unanswered[connection, self._sent] = (h, batch.context)

    def learn(self, clock: int) -> None:
        """Learn from the gradients that have come; wait while too many have not."""
        self._forget_before(self.channel.counters.connections)
        while (message := self.channel.receive()) is not None:
            self._regress(message)
        while self.unanswered > self.queue and self._at_work():
            if (message := self.channel.receive(LOOK)) is not None:
                self._regress(message)

    def finish(self) -> None:
        """See :meth:`EndA.finish`; a neighbour that comes again is told again."""
        told = 0
        while self.channel.peer is not Peer.LEFT and not (self.stopping and self.away):
            if self.channel.peer is Peer.PRESENT and told != self.channel.counters.connections:
                told = self.channel.send(Kind.END, self._sent)
            self.channel.dropped(len(self.channel.inbox.clear()))  # they teach nothing any more
            self.look()

    def _regress(self, message: Message) -> None:
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
        if self.channel.peer is Peer.PRESENT:
            return self._answered_over == self.channel.counters.connections
        self._forget_before(self.channel.counters.connections + 1)
        return False

    def _forget_before(self, connection: int) -> None:
        """Nobody will answer what went over an earlier one."""
        lost = [place for place in self._unanswered if place[0] < connection]
        for place in lost:
            del self._unanswered[place]
        self.channel.dropped(len(lost))


class UpdateB(EndB):
    """Where activations arrive and gradients leave.

    Args:
        channel: end B of an edge.
        keep: how many batches to keep for when the stage before is away.
        patience: seconds that it may be away for.
    """

    def __init__(self, channel: Channel, keep: int = 32, patience: float = 300.0) -> None:
        super().__init__(channel, patience)
        self._kept: deque[Batch] = deque(maxlen=_checks.count("keep", keep, 0, type(self).__name__))
        self.rehearsed = 0
        self._left_to_rehearse = 0
        self._heard_over = 0  # a connection

    def next_batch(self) -> Batch | None:
        """See :meth:`EndB.next_batch`."""
        while True:
            message = self.channel.receive(0.0)
            if message is not None:
                break
            if self.channel.peer is Peer.LEFT or (self.away and self.stopping):
                return None
            idle = self._heard_over != self.channel.counters.connections
            if (self.away or idle) and self._left_to_rehearse > 0:
                return self._rehearse()
            self.look()
        if message.kind is Kind.END:
            return None
        batch: Batch = _checks.a_batch(message, Kind.ACTIVATION, Batch)
        self._kept.append(batch._replace(connection=0))
        self._left_to_rehearse = REHEARSALS * len(self._kept)
        self._heard_over = message.connection
        return batch

    def take(self, batch: Batch) -> Any:
        """See :meth:`EndB.take`."""
        return _trees.map_tensors(lambda _, h: h.detach().requires_grad_(), batch.input)

    def answer(self, x: Any, batch: Batch) -> None:
        """See :meth:`EndB.answer`."""
        if batch.connection:
            self.channel.send(Kind.GRADIENT, batch.step, _gradients(x), batch.connection)

    def _rehearse(self) -> Batch:
        self.rehearsed += 1
        self._left_to_rehearse -= 1
        self._kept.rotate(-1)
        return self._kept[-1]


def _gradients(x: Any) -> Any:
    """What has arrived at the leaves of ``x``; zeros where nothing did."""

    def gradient(_: Any, leaf: Tensor) -> Tensor:
        return leaf.new_zeros(leaf.shape) if leaf.grad is None else leaf.grad

    return _trees.map_tensors(gradient, x)
