"""Edges within one process, and the contract that all channels keep."""

from __future__ import annotations

import pytest
import torch

import dni
from dni.distributed import Kind, Peer, WireError, in_process
from dni.distributed.channels import Mailbox, Message


def test_messages_arrive_whole_and_in_order() -> None:
    a, b = in_process()
    for step in range(3):
        assert a.send(Kind.ACTIVATION, step, [torch.full((2,), step), None, {"y": "text"}]) == 1
    assert b.waiting == 3
    for step in range(3):
        message = b.receive()
        assert message is not None
        assert (message.kind, message.step, message.connection) == (Kind.ACTIVATION, step, 1)
        assert torch.equal(message.content[0], torch.full((2,), step))
        assert message.content[2] == {"y": "text"}
    assert b.receive() is None
    assert (a.counters.sent, b.counters.received) == (3, 3)
    assert a.counters.bytes_sent == b.counters.bytes_received > 3 * 48


def test_nothing_is_shared() -> None:
    a, b = in_process()
    tensor = torch.ones(2)
    a.send(Kind.GRADIENT, 0, tensor)
    tensor.zero_()
    message = b.receive()
    assert message is not None
    assert torch.equal(message.content, torch.ones(2))


def test_of_states_only_the_newest_waits() -> None:
    a, b = in_process()
    a.send(Kind.STATE, 1, {"w": torch.ones(1)})
    a.send(Kind.GRADIENT, 2, torch.ones(1))
    a.send(Kind.STATE, 3, {"w": torch.zeros(1)})
    assert [b.receive().step for _ in range(2)] == [2, 3]  # type: ignore[union-attr]
    assert b.counters.dropped == 1


def test_who_leaves_is_known_to_have_left_and_gets_nothing() -> None:
    a, b = in_process()
    b.close()
    assert a.peer is Peer.LEFT
    assert a.send(Kind.ACTIVATION, 0) == 0
    assert (a.counters.sent, a.counters.dropped) == (0, 1)


def test_a_peer_of_another_model_is_refused() -> None:
    a, b = in_process()
    b.model = bytes([1] * 16)
    with pytest.raises(WireError, match=r"expected a message of the model 0101.*got one of 0000"):
        a.send(Kind.ACTIVATION, 0)


def test_a_peer_that_floods_is_refused() -> None:
    box = Mailbox()
    for step in range(4096):
        box.put(Message(Kind.GRADIENT, step, None))
    with pytest.raises(WireError, match=r"expected a peer that waits for answers.*sent 4096"):
        box.put(Message(Kind.GRADIENT, 4096, None))


def test_a_mailbox_can_be_woken_and_forgets() -> None:
    box = Mailbox()
    assert box.take(0.001) is None
    box.put(Message(Kind.GRADIENT, 0, None))
    assert [message.step for message in box.clear()] == [0]
    assert len(box) == 0


def test_kinds_on_the_wire_keep_their_numbers() -> None:
    names = ["ACTIVATION", "GRADIENT", "STATE", "END", "LEFT", "BEAT", "HOLD", "GO_ON", "STOP"]
    assert {kind.name: kind.value for kind in dni.distributed.Kind} == {
        name: number for number, name in enumerate(names, 1)
    }
