"""Complete unlock: neither activations nor gradients travel, only what predicts them.

Both ends know the input of the network, and each has a copy of one bidirectional interface. One of
its two synthesizers learns at end A, where the real activation is; the other learns at end B, where
the real gradient is. Now and then each end sends the other the synthesizer that learns there::

    end A                                          end B
    h = part(...)                                  h' = S_h(input)
    S_h learns h                                   part B runs forward and back
    s = S_g(h), sent into the part                 S_g learns the gradient at h'
                --- S_h, every n steps --->
                <-- S_g, every n steps ----

So a stage never waits, and a slow link costs nothing but older synthesizers. All stages read the
same data, each at its own pace.
"""

from __future__ import annotations

from typing import Any

from torch import nn

from dni import _checks
from dni.distributed.channels import Channel, Kind, Message, Peer
from dni.distributed.ends import LOOK, Batch, End, EndA, EndB
from dni.interfaces import BidirectionalInterface, UnidirectionalInterface

__all__ = ["CompleteA", "CompleteB"]


class _Complete(End):
    """What both ends have in common."""

    at_a: bool

    def __init__(
        self,
        channel: Channel,
        interface: BidirectionalInterface,
        every: int = 20,
        *,
        lock_step: bool = False,
        patience: float = 300.0,
    ) -> None:
        super().__init__(channel, patience)
        self._interface = interface
        self._own: UnidirectionalInterface = interface.backward_interface
        self._copy: UnidirectionalInterface = interface.forward_interface
        if self.at_a:
            self._own, self._copy = self._copy, self._own
        self._every = 1 if lock_step else _checks.count("every", every, 1, type(self).__name__)
        self._lock_step = lock_step
        self._told_over = 0  # a connection
        self._heard = 0  # a clock

    def trained(self) -> list[nn.Module]:
        """See :meth:`.End.trained`."""
        return [self._own.synthesizer]

    def interface(self) -> nn.Module:
        """See :meth:`.End.interface`."""
        return self._interface

    def learn(self, clock: int) -> None:
        """Load what the neighbour has sent."""
        while not self._lock_step and (message := self.channel.receive()) is not None:
            self._load(message)

    def tell(self, clock: int) -> None:
        """Send what has been learnt here, at every n-th step and to every new neighbour."""
        channel = self.channel
        new = channel.peer is Peer.PRESENT and self._told_over != channel.counters.connections
        if new or clock % self._every == 0:
            self._told_over = channel.send(Kind.STATE, clock, dict(self._own.state_dict()))

    def hear(self, clock: int) -> None:
        """In lock-step: wait for what the neighbour has learnt in step ``clock``."""
        while self._lock_step and self._heard < clock and self.channel.peer is Peer.PRESENT:
            if (message := self.channel.receive(LOOK)) is not None:
                self._load(message)

    def _load(self, message: Message) -> None:
        if message.kind is Kind.STOP:
            self.asked_to_stop = True
            return
        _checks.is_kind(message.kind, Kind.STATE)
        _checks.state_fits(message.content, self._copy)
        self._copy.load_state_dict(message.content)
        self._heard = message.step


class CompleteA(_Complete, EndA):
    """End A in a complete unlock, where activations are known and gradients predicted.

    Args:
        channel: end A of an edge.
        interface: this end's copy of the interface.
        every: how many steps lie between two messages.
        lock_step: send at every step, and wait for what the neighbour sends: the arithmetic of
            one process. For tests: it does not survive the death of a stage.
        patience: how many seconds the neighbour may be away.
    """

    at_a = True
    needs_data = True

    def hand_over(self, h: Any, batch: Batch) -> None:
        """See :meth:`EndA.hand_over`."""
        self.wait_for_peer()
        self._interface.send(h, batch.input)


class CompleteB(_Complete, EndB):
    """End B in a complete unlock, where activations are predicted and gradients known.

    Args:
        channel: end B of an edge.
        interface, every, lock_step, patience: see :class:`CompleteA`.
    """

    at_a = False

    def take(self, batch: Batch) -> Any:
        """See :meth:`EndB.take`."""
        self.wait_for_peer()
        return self._interface.receive(batch.input)

    def answer(self, batch: Batch) -> None:
        """Send nothing: the interface has learnt the gradient on its way."""
