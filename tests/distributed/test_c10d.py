"""Edges between processes. Both ends live in this one, each with its threads, over real sockets."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import timedelta
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import nn

from dni.distributed import (
    C10dChannel,
    Frame,
    Kind,
    Peer,
    Stage,
    UpdateB,
    WireError,
    open_store,
    pack,
)
from dni.distributed.c10d import VARIABLE, listening_on
from dni.distributed.stores import interface_of_loopback
from tests.distributed.processes import listening

LONG = 60.0


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"file://{tmp_path}/store"


@pytest.fixture
def made() -> Iterator[list[C10dChannel]]:
    """Channels to be closed at the end, all at once: each waits for its peer."""
    channels: list[C10dChannel] = []
    yield channels
    threads = [threading.Thread(target=channel.close) for channel in channels]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(LONG)
        assert not thread.is_alive()


def until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + LONG
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.005)


def channel(url: str, end: str, made: list[C10dChannel], **options: object) -> C10dChannel:
    one = C10dChannel(open_store(url), "edge 0", end, **options)  # type: ignore[arg-type]
    made.append(one)
    one.open()
    return one


def pair(url: str, made: list[C10dChannel], **options: object) -> tuple[C10dChannel, C10dChannel]:
    a, b = (channel(url, end, made, **options) for end in "AB")
    until(lambda: a.peer is Peer.PRESENT and b.peer is Peer.PRESENT)
    return a, b


class Peer9:
    """Someone at end B who is not one of us: a bare gloo group."""

    def __init__(self, url: str) -> None:
        store = dist.PrefixStore("edge 0", open_store(url))
        until(lambda: store.check(["generation"]))
        generation = int(store.get("generation"))
        store.set(f"{generation}/B", "1")
        with listening_on(interface_of_loopback()):
            self.group = dist.ProcessGroupGloo(
                dist.PrefixStore(f"{generation}/group", store), 1, 2, timedelta(seconds=LONG)
            )

    def send(self, *pieces: torch.Tensor) -> None:
        for piece in pieces:
            self.group.send([piece], 0, 0).wait()

    def hang_up(self) -> None:
        """A receive that times out ends a gloo connection for both."""
        with suppress(RuntimeError):
            self.group.recv([torch.empty(10**6, dtype=torch.uint8)], 0, 0).wait(
                timedelta(milliseconds=1)
            )


def test_messages_go_both_ways(url: str, made: list[C10dChannel]) -> None:
    a, b = pair(url, made)
    for step in range(20):
        assert a.send(Kind.ACTIVATION, step, [torch.full((3, 2), step), None, None]) == 1
        message = b.receive(LONG)
        assert message is not None
        assert (message.kind, message.step, message.connection) == (Kind.ACTIVATION, step, 1)
        assert torch.equal(message.content[0], torch.full((3, 2), step))
        assert b.send(Kind.GRADIENT, step, message.content[0], message.connection) == 1
        answer = a.receive(LONG)
        assert answer is not None
        assert answer.step == step
    until(lambda: a.counters.sent == b.counters.sent == 20)  # counted when they are on their way
    assert a.counters.received == b.counters.received == 20
    assert a.counters.bytes_received == b.counters.bytes_sent


def test_sending_copies(url: str, made: list[C10dChannel]) -> None:
    a, b = pair(url, made)
    tensor = torch.ones(100_000)
    a.send(Kind.ACTIVATION, 0, tensor)
    tensor.zero_()
    message = b.receive(LONG)
    assert message is not None
    assert message.content.min() == 1


def test_a_silent_edge_stays_alive_by_beats(url: str, made: list[C10dChannel]) -> None:
    a, b = pair(url, made, silence=3.0)
    time.sleep(4.0)
    assert (a.counters.connections, b.counters.connections) == (1, 1)
    assert (a.peer, b.peer) == (Peer.PRESENT, Peer.PRESENT)


def test_a_peer_that_falls_silent_is_lost(url: str, made: list[C10dChannel]) -> None:
    a = channel(url, "A", made, silence=0.5)
    stranger = Peer9(url)  # connects, and says nothing
    until(lambda: a.peer is Peer.PRESENT)
    until(lambda: a.peer is Peer.LOST)
    assert a.counters.connections == 1
    assert a.send(Kind.ACTIVATION, 1) == 0
    del stranger


def test_half_a_message_is_no_message(url: str, made: list[C10dChannel]) -> None:
    a = channel(url, "A", made, silence=0.5)
    stranger = Peer9(url)
    frame = pack(Kind.GRADIENT, 1, torch.ones(4))
    stranger.send(frame.header)  # and no body
    until(lambda: a.peer is Peer.PRESENT)
    until(lambda: a.peer is Peer.LOST)
    assert a.receive() is None
    assert a.counters.received == 0


def test_who_comes_after_a_loss_is_met_in_a_new_generation(
    url: str, made: list[C10dChannel]
) -> None:
    a = channel(url, "A", made, silence=0.5)
    stranger = Peer9(url)
    until(lambda: a.peer is Peer.PRESENT)
    assert a.send(Kind.ACTIVATION, 1) == 1
    until(lambda: a.peer is Peer.LOST)
    assert a.send(Kind.ACTIVATION, 2) == 0
    assert a.counters.dropped >= 1
    b = channel(url, "B", made, silence=0.5)
    assert b.peer in (Peer.LOST, Peer.PRESENT)  # not awaited: this edge has existed
    until(lambda: a.peer is Peer.PRESENT and b.peer is Peer.PRESENT)
    assert a.send(Kind.ACTIVATION, 3) == 2
    message = b.receive(LONG)
    assert message is not None
    assert message.step == 3
    del stranger


def test_the_first_messages_after_a_quick_return_arrive(url: str, made: list[C10dChannel]) -> None:
    """The thread that sends looked for messages of the connection that had just been lost."""
    a = channel(url, "A", made, silence=20.0)
    stranger = Peer9(url)
    until(lambda: a.peer is Peer.PRESENT)
    stranger.hang_up()
    until(lambda: a.peer is Peer.LOST)
    b = channel(url, "B", made, silence=20.0)
    until(lambda: a.peer is Peer.PRESENT and b.peer is Peer.PRESENT)
    for step in range(3):
        assert a.send(Kind.ACTIVATION, step) == 2
        assert b.send(Kind.GRADIENT, step) == 1
    for one in (a, b):
        for step in range(3):
            message = one.receive(LONG)
            assert message is not None
            assert message.step == step


def test_a_send_that_gloo_never_ends_holds_up_no_later_connection(
    url: str, made: list[C10dChannel], monkeypatch: pytest.MonkeyPatch
) -> None:
    released, stuck = threading.Event(), []
    write = C10dChannel._write

    def write_or_hang(self: C10dChannel, group: object, frame: Frame) -> None:
        if self is a and self.counters.connections == 1:
            stuck.append(threading.current_thread())
            released.wait(LONG)
        write(self, group, frame)  # type: ignore[arg-type]

    monkeypatch.setattr(C10dChannel, "_write", write_or_hang)
    a = channel(url, "A", made, silence=20.0)
    stranger = Peer9(url)
    until(lambda: a.peer is Peer.PRESENT)
    assert a.send(Kind.ACTIVATION, 1) == 1
    until(lambda: bool(stuck))
    stranger.hang_up()
    until(lambda: a.peer is Peer.LOST)
    b = channel(url, "B", made, silence=20.0)
    until(lambda: a.peer is Peer.PRESENT and b.peer is Peer.PRESENT)
    assert a.send(Kind.ACTIVATION, 2) == 2
    message = b.receive(LONG)
    assert stuck[0].is_alive()
    released.set()
    assert message is not None
    assert message.step == 2
    assert (a.counters.connections, b.counters.connections) == (2, 1)


def test_who_closes_while_it_connects_is_known_to_have_left(
    url: str, made: list[C10dChannel]
) -> None:
    a = channel(url, "A", made)
    closing = threading.Thread(target=a.close)
    closing.start()
    closing.join(LONG)
    assert not closing.is_alive()
    b = channel(url, "B", made)
    until(lambda: b.peer is Peer.LEFT)


def test_an_answer_to_what_a_lost_peer_sent_goes_nowhere(url: str, made: list[C10dChannel]) -> None:
    a, b = pair(url, made)
    b.counters.connections = 2
    assert b.send(Kind.GRADIENT, 1, None, connection=1) == 0
    assert b.counters.dropped == 1
    assert a.receive(0.05) is None


@pytest.mark.parametrize(
    ("header", "match"),
    [
        (torch.arange(48, dtype=torch.uint8), "expected a header that starts with"),
        (pack(99, 0, None).header, r"expected a kind of message in 1 \(ACTIVATION\).*got 99"),
        (pack(Kind.GRADIENT, 0, None, bytes([7] * 16)).header, "expected a message of the model"),
    ],
)
def test_garbage_is_refused_where_receive_is_called(
    url: str, made: list[C10dChannel], header: torch.Tensor, match: str
) -> None:
    a = channel(url, "A", made)
    stranger = Peer9(url)
    stranger.send(header)
    if match.startswith("expected a kind"):
        stranger.send(pack(99, 0, None).body)
    with pytest.raises(WireError, match=match):
        until(lambda: a.receive(0.1) is not None)
    assert a.send(Kind.ACTIVATION, 0) == 0
    stranger.hang_up()


def test_who_is_refused_learns_why(url: str) -> None:
    a = C10dChannel(open_store(url), "edge 0", "A", model=b"one model.......")
    b = C10dChannel(open_store(url), "edge 0", "B", model=b"another model...")
    for end in (a, b):
        end.open()
    for end in (a, b):
        end.send(Kind.BEAT, 0)
    until(lambda: a.error is not None and b.error is not None)
    assert "expected a message of the model" in str(a.error)
    assert "expected a message of the model" in str(b.error)
    for end in (a, b):
        end.close()


def test_another_version_is_refused(url: str, made: list[C10dChannel]) -> None:
    a = channel(url, "A", made)
    stranger = Peer9(url)
    header = pack(Kind.GRADIENT, 0, None).header.clone()
    header[4] = 9
    stranger.send(header)
    with pytest.raises(WireError, match="expected version 1 of the wire, got 9"):
        until(lambda: a.receive(0.1) is not None)
    stranger.hang_up()


def test_who_leaves_has_left_and_threads_end(url: str) -> None:
    before = threading.active_count()
    made: list[C10dChannel] = []
    a, b = pair(url, made)
    a.send(Kind.END, 5)
    closing = threading.Thread(target=a.close)
    closing.start()
    message = b.receive(LONG)
    assert message is not None
    assert message.kind is Kind.END
    until(lambda: b.peer is Peer.LEFT)
    b.close()
    closing.join(LONG)
    assert threading.active_count() == before
    late = C10dChannel(open_store(url), "edge 0", "A")
    late.open()
    until(lambda: late.peer is Peer.LEFT)  # one that died as it left finds nobody, and knows it
    assert late.over
    late.close()


def test_who_comes_after_the_end_of_a_run_is_told(url: str) -> None:
    made: list[C10dChannel] = []
    closing = [threading.Thread(target=end.close) for end in pair(url, made)]
    for thread in closing:
        thread.start()
    for thread in closing:
        thread.join(LONG)
    assert [end.over for end in made] == [False, False]
    again = C10dChannel(open_store(url), "edge 0", "B")
    stage = Stage(nn.Linear(2, 2), sgd, loss=F.cross_entropy, upstream=UpdateB(again))
    with pytest.raises(RuntimeError, match=r"expected a run that begins, .* or set DNI_RUN"):
        next(stage.train())
    assert not any(thread.name == "dni edge 0 B" for thread in threading.enumerate())


def sgd(own: list[nn.Parameter], synthesizers: list[nn.Parameter]) -> torch.optim.Optimizer:
    return torch.optim.SGD([*own, *synthesizers], 0.1)


def test_an_error_ends_all_threads_and_the_peer_goes_on(url: str, made: list[C10dChannel]) -> None:
    a = channel(url, "A", made, silence=2.0)
    b = C10dChannel(open_store(url), "edge 0", "B", silence=2.0)
    stage = Stage(nn.Linear(2, 2), sgd, loss=F.cross_entropy, upstream=UpdateB(b))
    training = threading.Thread(target=fail, args=(stage,))
    training.start()
    until(lambda: a.peer is Peer.PRESENT)
    a.send(Kind.ACTIVATION, 1, [torch.ones(3, 2), torch.zeros(3).long(), None, False])
    training.join(LONG)
    assert not any(thread.name == "dni edge 0 B" for thread in threading.enumerate())
    until(lambda: a.peer is Peer.LOST)
    assert a.error is None


def fail(stage: Stage) -> None:
    stage.loss = lambda output, target: 1 / 0
    with pytest.raises(ZeroDivisionError):
        next(stage.train())


def test_a_way_that_does_not_exist_is_named(url: str) -> None:
    with pytest.warns(UserWarning, match="can be reached from other machines"):
        ends = [C10dChannel(open_store(url), "edge 0", end, interface="no0") for end in "AB"]
    for end in ends:
        end.open()
    until(lambda: all(end.trouble for end in ends))
    assert "no0" in ends[0].trouble
    for end in ends:
        end.abandon()


def test_only_loopback_listens(url: str, made: list[C10dChannel]) -> None:
    before = listening(os.getpid())
    pair(url, made)
    new = listening(os.getpid()).keys() - before.keys()
    assert new
    assert {listening(os.getpid())[socket].split(":")[0] for socket in new} == {"0100007F"}


def test_the_environment_is_left_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, "eth7")
    with listening_on("lo"), listening_on("lo"):
        assert os.environ[VARIABLE] == "lo"
    assert os.environ[VARIABLE] == "eth7"
    monkeypatch.delenv(VARIABLE)
    with listening_on("lo"):
        pass
    assert VARIABLE not in os.environ


def test_bad_arguments_are_named(url: str) -> None:
    store = open_store(url)
    with pytest.raises(ValueError, match=r"C10dChannel: expected end 'A' .* got 'C'"):
        C10dChannel(store, "edge 0", "C")
    with pytest.raises(ValueError, match="expected silence to be a positive number of seconds"):
        C10dChannel(store, "edge 0", "A", silence=0)
    with pytest.warns(UserWarning, match="an edge over eth7 can be reached from other machines"):
        C10dChannel(store, "edge 0", "A", interface="eth7")
