"""A stage's manners: what bounds a queue, what it does alone, how it ends."""

from __future__ import annotations

import copy
import json
import threading
from collections import OrderedDict
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import dni
from dni import _checks, distributed
from dni.distributed import (
    Batch,
    Checkpoints,
    CompleteA,
    Kind,
    Peer,
    Stage,
    UpdateA,
    UpdateB,
    WireError,
    in_process,
    status,
    take_turns,
)
from tests.distributed.networks import adam, batches, complete_stages, network, update_stages


def interface(width: int = 8) -> dni.BackwardInterface:
    return dni.BackwardInterface(dni.BasicSynthesizer(width)).double()


def first_and_channel(queue: int) -> tuple[Stage, distributed.Channel]:
    """A first stage, and the other end of its edge."""
    a, b = in_process()
    part = nn.Linear(6, 8).double()
    return Stage(part, adam, downstream=UpdateA(a, interface(), queue, patience=5)), b


def answer(b: distributed.Channel) -> bool:
    """What the next stage would do with one activation."""
    message = b.receive()
    if message is None:
        return False
    return bool(b.send(Kind.GRADIENT, message.step, torch.ones_like(message.content[0])))


def test_a_stage_goes_on_while_no_more_than_queue_batches_are_unanswered() -> None:
    stage, b = first_and_channel(queue=2)
    assert isinstance(stage.downstream, UpdateA)
    for x, y, _ in batches(2):
        stage.advance(Batch(x, y))
        stage.learn()
    assert (stage.downstream.unanswered, b.waiting) == (2, 2)
    x, y, _ = next(batches(1))
    stage.advance(Batch(x, y))
    learning = threading.Thread(target=stage.learn)
    learning.start()
    learning.join(0.3)
    assert learning.is_alive()  # the third has to be answered, or one before it
    assert stage.clock == 2
    assert answer(b)
    learning.join(60)
    assert stage.clock == 3
    assert stage.downstream.unanswered == 2


def test_what_went_to_a_neighbour_that_died_again_is_not_waited_for() -> None:
    stage, b = first_and_channel(queue=0)
    assert isinstance(stage.downstream, UpdateA)
    x, y, _ = next(batches(1))
    stage.advance(Batch(x, y))
    stage.downstream.channel.counters.connections = 2  # it has died and come again meanwhile
    stage.learn()
    assert (stage.downstream.unanswered, stage.status.read()["dropped"]) == (0, 1)
    assert b.waiting == 1


def test_an_answer_teaches_the_synthesizer_with_its_own_trigger_and_context() -> None:
    stage, b = first_and_channel(queue=5)
    assert isinstance(stage.downstream, UpdateA)
    seen: list[Any] = []
    cut = stage.downstream.interface()
    cut.synthesizer.register_forward_hook(  # type: ignore[operator, union-attr]
        lambda module, arguments, output: seen.append(arguments)
    )
    data = list(batches(3))
    cut.synthesizer._context_ignored = True  # type: ignore[union-attr]
    for x, y, context in data:
        stage.advance(Batch(x, y, context))
    predicted = seen[:]
    seen.clear()
    for _ in data:
        answer(b)
    stage.learn()
    assert len(seen) == 3
    for before, after in zip(predicted, seen, strict=True):
        assert torch.equal(before[0], after[0])
        assert torch.equal(before[1], after[1])


def test_a_batch_that_is_under_way_when_the_next_stage_dies_is_dropped_and_counted() -> None:
    stage, _ = first_and_channel(queue=1)
    assert stage.downstream is not None
    stage.downstream.channel.peer = Peer.LOST
    x, y, _ = next(batches(1))
    stage.advance(Batch(x, y))
    stage.learn()
    assert (stage.clock, stage.status.read()["dropped"]) == (1, 1)


@pytest.mark.parametrize("away", ["lost", "held"])
def test_while_a_later_stage_is_away_the_first_one_reads_ahead_and_loses_nothing(
    away: str,
) -> None:
    stage, b = first_and_channel(queue=1)
    assert stage.downstream is not None
    channel = stage.downstream.channel
    nn.init.ones_(stage.downstream.trained()[0].input_trigger.weight)  # type: ignore[arg-type, union-attr]
    data = list(batches(100))
    feed = stage.feed(batch[:2] for batch in data)

    def trained_on() -> int:
        batch = stage.next_batch(feed)
        assert batch is not None
        stage.advance(batch)
        stage.learn()
        return next(n for n, (x, _, _) in enumerate(data) if x is batch.input)

    assert [trained_on(), answer(b)] == [0, True]
    if away == "lost":
        channel.peer = Peer.LOST
    else:
        b.send(Kind.HOLD, 0)
    before = stage.part.weight.detach().clone()  # type: ignore[operator]
    assert [trained_on() for _ in range(32)] == [*range(1, 33)]
    assert not torch.equal(stage.part.weight, before)  # type: ignore[arg-type]
    assert (stage.clock, stage.rehearsed, b.waiting) == (1, 32, 0)
    waiting = threading.Thread(target=trained_on)  # once each is enough
    waiting.start()
    waiting.join(0.3)
    assert waiting.is_alive()
    if away == "lost":
        channel.peer = Peer.PRESENT
    else:
        b.send(Kind.GO_ON, 0)
    waiting.join(60)
    assert answer(b)
    later = []
    for _ in range(98):
        later.append(trained_on())
        assert answer(b)
    assert later == [*range(2, 100)]
    assert stage.status.read()["dropped"] == 0
    assert stage.clock == 100
    assert stage.next_batch(feed) is None


def test_a_stage_in_the_middle_passes_on_that_it_cannot_go_on() -> None:
    first, middle, last = update_stages(network(), [interface(), interface()], queue=2)
    assert first.downstream is not None
    assert middle.downstream is not None
    data = first.feed(batch[:2] for batch in batches(50))
    feeds = [data, *(stage.feed(()) for stage in (middle, last))]

    def step(number: int) -> bool:
        """Whether it was on a batch that had its turn."""
        stage = (first, middle, last)[number]
        batch = stage.next_batch(feeds[number])
        assert batch is not None
        stage.advance(batch)
        stage.learn()
        return not batch.rehearsed

    assert [step(number) for number in (0, 1, 2)] == [True] * 3
    middle.downstream.channel.peer = Peer.LOST
    assert step(0)  # which has not heard of it
    assert [step(1), step(0)] == [False, False]
    assert middle.upstream is not None
    assert middle.upstream.channel.waiting == 1
    middle.downstream.channel.peer = Peer.PRESENT
    assert [step(number) for number in (1, 0, 2)] == [True] * 3
    assert [stage.clock for stage in (first, middle, last)] == [3, 2, 2]
    assert [stage.rehearsed for stage in (first, middle, last)] == [1, 1, 0]
    assert sum(stage.status.read()["dropped"] for stage in (first, middle, last)) == 0


def last_and_channel(keep: int = 4) -> tuple[Stage, distributed.Channel]:
    """A last stage, and the other end of its edge."""
    a, b = in_process()
    part = nn.Linear(8, 3).double()
    return Stage(part, adam, loss=F.cross_entropy, upstream=UpdateB(b, keep, patience=5)), a


def send(a: distributed.Channel, step: int) -> None:
    h = torch.full((4, 8), float(step), dtype=torch.float64)
    a.send(Kind.ACTIVATION, step, [h, torch.zeros(4, dtype=torch.long), None, False])


def test_the_stage_after_a_lost_one_rehearses_what_it_kept_and_answers_nobody() -> None:
    stage, a = last_and_channel()
    upstream = stage.upstream
    assert isinstance(upstream, UpdateB)
    for step in range(6):
        send(a, step)
    for _ in range(6):
        batch = stage.next_batch(upstream)
        assert batch is not None
        stage.advance(batch)
        stage.learn()
    assert a.waiting == 6
    upstream.channel.peer = Peer.LOST
    rehearsed = []
    for _ in range(4):
        batch = stage.next_batch(upstream)
        assert batch is not None
        stage.advance(batch)
        stage.learn()
        rehearsed.append(int(batch.input[0, 0]))
    assert rehearsed == [2, 3, 4, 5]
    assert a.waiting == 6
    assert (stage.clock, stage.status.read()["rehearsed"]) == (6, 4)
    upstream.patience = 0.01
    with pytest.raises(TimeoutError, match=r"expected the neighbouring stage within .* been lost"):
        stage.next_batch(upstream)  # once each is enough


def test_real_batches_come_before_rehearsed_ones() -> None:
    stage, a = last_and_channel()
    assert isinstance(stage.upstream, UpdateB)
    send(a, 1)
    stage.upstream.channel.peer = Peer.LOST
    batch = stage.next_batch(stage.upstream)
    assert batch is not None
    assert (batch.step, batch.connection) == (1, 1)


def test_stages_that_train_end_one_after_another(tmp_path: Path) -> None:
    """With threads, as with processes."""
    stages = update_stages(network(), [interface(), interface()], queue=2)
    for number, stage in enumerate(stages):
        stage.checkpoints = Checkpoints(tmp_path, number)
        stage.status.file = tmp_path / f"status-{number}"
    clocks: list[list[int]] = [[], [], []]

    def train(number: int) -> None:
        data = (batch[:2] for batch in batches(10)) if number == 0 else None
        clocks[number] += stages[number].train(data)

    threads = [threading.Thread(target=train, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert clocks == [list(range(1, 11))] * 3
    for number in range(3):
        content = Checkpoints(tmp_path, number).newest()
        assert content is not None
        assert content["clock"] == 10
        status = json.loads((tmp_path / f"status-{number}").read_text())
        assert (status["clock"], status["done"], status["saved"]) == (10, True, 10)
    assert distributed.merged(tmp_path).keys() == network().state_dict().keys()


def test_stop_ends_the_data_of_the_first_stage() -> None:
    stage, b = first_and_channel(queue=100)
    steps = []
    endless = (batch[:2] for batch in batches(10**6))
    for clock in stage.train(endless):
        steps.append(clock)
        if clock == 3:
            stage.stop()
            b.close()
    assert steps == [1, 2, 3]


@pytest.mark.parametrize("who", [0, 1, 2])
def test_any_stage_can_end_the_run(who: int) -> None:
    stages = update_stages(network(), [interface(), interface()], queue=2)
    ends: list[int] = []

    def train(number: int) -> None:
        data = (batch[:2] for batch in batches(10**6)) if number == 0 else None
        for clock in stages[number].train(data):
            if number == who and clock == 3:
                stages[number].stop()
        ends.append(stages[number].clock)

    threads = [threading.Thread(target=train, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive()
    assert len(set(ends)) == 1
    assert ends[0] >= 3


def test_who_makes_an_end_does_not_train_for_a_neighbour_that_is_gone() -> None:
    first, middle, _ = update_stages(network(), [interface(), interface()], queue=2)
    feed = first.feed(batch[:2] for batch in batches(5))
    batch = first.next_batch(feed)
    assert batch is not None
    first.advance(batch)
    assert middle.downstream is not None
    middle.downstream.channel.peer = Peer.LOST
    middle.stop()
    assert middle.next_batch(middle.feed(())) is None
    first.learn()
    assert first.next_batch(feed) is None  # it has been asked


def test_a_stage_taken_up_again_starts_from_its_newest_checkpoint(tmp_path: Path) -> None:
    def stage() -> Stage:
        a, _ = in_process()
        part = nn.Linear(6, 8).double()
        ends = {"downstream": UpdateA(a, interface(), 100)}
        return Stage(part, adam, checkpoints=Checkpoints(tmp_path, 0), every=2, **ends)  # type: ignore[arg-type]

    one = stage()
    training = one.train(batch[:2] for batch in batches(9))
    for _, clock in zip(range(5), training, strict=False):
        weights = one.part.weight.detach().clone()  # type: ignore[operator]
        if clock == 4:
            kept = weights
    two = stage()
    assert (two.clock, two.status.saved) == (4, 4)
    assert torch.equal(two.part.weight, kept)  # type: ignore[arg-type]


def test_a_complete_unlock_exchanges_synthesizers_every_few_steps() -> None:
    cuts = [
        dni.BidirectionalInterface(
            dni.BasicSynthesizer(8, 1, 16, trigger_dim=6), dni.BasicSynthesizer(8, 1, 16)
        ).double()
        for _ in range(2)
    ]
    stages = complete_stages(network(), cuts)
    for end in (end for stage in stages for end in stage.ends):
        end._every = 5  # type: ignore[union-attr]
    for x, y, _ in batches(10):
        take_turns(stages, x, y)
    sent = [end.channel.counters.sent for stage in stages for end in stage.ends]
    assert sent == [3, 3, 3, 3]  # at once to a new neighbour, then at 5 and 10


# bad input


def test_what_a_stage_needs_is_said() -> None:
    a, b = in_process()
    part = nn.Linear(2, 2)
    with pytest.raises(TypeError, match=r"Stage: expected part to be a Module, got a function"):
        Stage(lambda x: x, adam, upstream=UpdateB(b), loss=F.cross_entropy)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"expected an edge to a neighbour.*got none"):
        Stage(part, adam, loss=F.cross_entropy)
    with pytest.raises(TypeError, match=r"last stage needs loss.*got None"):
        Stage(part, adam, upstream=UpdateB(b))
    stage = Stage(part, adam, downstream=UpdateA(a, interface(2)))
    with pytest.raises(ValueError, match=r"reads the data itself; expected batches.*got none"):
        next(iter(stage.train()))
    with pytest.raises(TypeError, match=r"expected batches of .*got Tensor\(2, 2\)"):
        next(iter(stage.train([torch.ones(2, 2)])))  # type: ignore[list-item]
    with pytest.raises(ValueError, match=r"UpdateA: expected queue to be an integer from 0"):
        UpdateA(a, interface(), queue=-1)
    with pytest.raises(ValueError, match=r"UpdateB: expected patience to be a positive number"):
        UpdateB(b, patience=0)


def test_a_channel_need_not_keep_the_class_of_a_dict() -> None:
    h = OrderedDict(a=torch.ones(2, 3), b=torch.ones(2, 1))
    gradient = {"a": torch.zeros(2, 3), "b": torch.zeros(2, 1)}
    _checks.gradient_fits(gradient, h)
    with pytest.raises(WireError):
        _checks.gradient_fits(gradient | {"b": torch.zeros(2, 2)}, h)


def test_gradients_of_another_shape_are_refused() -> None:
    stage, b = first_and_channel(queue=5)
    x, y, _ = next(batches(1))
    stage.advance(Batch(x, y))
    b.send(Kind.GRADIENT, 1, torch.ones(3))
    with pytest.raises(WireError, match=r"gradient like the activation, .*8\), got Tensor\(3,\)"):
        stage.learn()


def test_a_neighbour_with_another_unlock_is_refused() -> None:
    a, b = in_process()
    cut = dni.BidirectionalInterface(
        dni.BasicSynthesizer(8, trigger_dim=6), dni.BasicSynthesizer(8)
    )
    stage = Stage(nn.Linear(6, 8), adam, downstream=CompleteA(a, cut))
    b.send(Kind.GRADIENT, 1, torch.ones(3))
    with pytest.raises(WireError, match=r"expected a message of kind STATE, got GRADIENT.*unlock"):
        stage.learn()
    b.send(Kind.STATE, 1, {"w": torch.ones(3)})
    with pytest.raises(WireError, match=r"expected the synthesizer that this stage has a copy of"):
        stage.learn()
    last, other = last_and_channel()
    other.send(Kind.ACTIVATION, 1, torch.ones(3))
    assert isinstance(last.upstream, UpdateB)
    with pytest.raises(
        WireError, match=r"expected \[activation, target, context, rehearsed\], got a Tensor"
    ):
        last.upstream.poll()


def test_a_next_stage_that_leaves_early_is_an_error() -> None:
    stage, b = first_and_channel(queue=0)
    b.close()
    x, y, _ = next(batches(1))
    with pytest.raises(RuntimeError, match=r"the next stage has left before the data ended"):
        stage.advance(Batch(x, y))


def test_a_stage_trains_once() -> None:
    stage, b = first_and_channel(queue=0)
    b.close()
    assert list(stage.train([])) == []
    with pytest.raises(RuntimeError, match=r"one call for the whole run.* Chain the epochs"):
        next(stage.train([]))


class Told(nn.Module):
    """An oracle: the context is the real gradient."""

    def forward(self, trigger: torch.Tensor, context: torch.Tensor) -> torch.Tensor:
        return context


def in_pieces(folder: Path | None = None) -> tuple[nn.Sequential, Stage, Stage]:
    """A network, and its two stages that step at every second batch."""
    whole = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)).double()
    below, above = distributed.split(whole, ["1"])
    a, b = in_process()

    def sgd(own: list[nn.Parameter], synthesizers: list[nn.Parameter]) -> torch.optim.Optimizer:
        return torch.optim.SGD(own, 0.5)

    cut = UpdateA(a, dni.BackwardInterface(Told(), normalize=False), queue=4)
    kept = None if folder is None else Checkpoints(folder, 0)
    first = Stage(below, sgd, accumulate=2, every=1, downstream=cut, checkpoints=kept)
    last = Stage(above, sgd, accumulate=2, upstream=UpdateB(b), loss=F.cross_entropy)
    return whole, first, last


def test_a_batch_in_pieces_makes_the_step_of_the_whole() -> None:
    """Transparency: told the real gradients, both stages have those of plain backpropagation."""
    whole, first, last = in_pieces()
    plain = copy.deepcopy(whole)
    x, y = torch.randn(8, 3).double(), torch.randint(2, (8,))
    h = plain[1](plain[0](x))
    h.retain_grad()
    F.cross_entropy(plain[2](h), y).backward()
    torch.optim.SGD(plain.parameters(), 0.5).step()
    assert isinstance(last.upstream, UpdateB)
    for piece in (slice(0, 4), slice(4, 8)):
        first.advance(Batch(x[piece], y[piece], h.grad[piece]))
        batch = last.upstream.poll()
        assert batch is not None
        last.advance(batch)
        before = copy.deepcopy(whole.state_dict())
        last.learn()
        first.learn()
        moved = [not torch.equal(one, before[name]) for name, one in whole.state_dict().items()]
        assert moved == [piece.start == 4] * 4
    for one, other in zip(whole.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-14)


def test_half_a_step_is_not_saved_and_made_at_the_end(tmp_path: Path) -> None:
    _, first, last = in_pieces(tmp_path)
    batch = torch.randn(4, 3).double(), torch.randint(2, (4,)), torch.randn(4, 4).double()
    assert isinstance(last.upstream, UpdateB)
    saved, weights = [], []
    for clock in first.train([batch] * 3):
        if clock == 3:
            last.upstream.channel.close()
        saved.append(first.status.saved)
        weights.append(first.part[0].weight.detach().clone())
    assert saved == [0, 2, 2]
    assert torch.equal(weights[1], weights[2])
    assert not torch.equal(weights[2], first.part[0].weight)
    newest = Checkpoints(tmp_path, 0).newest()
    assert newest is not None
    assert newest["clock"] == 3
    assert torch.equal(newest["part"]["0.weight"], first.part[0].weight)


def test_a_status_counts_steps_and_has_the_longest_time_between_two(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    times = iter((100.0, 107.0, 108.0, 111.0, 111.5))  # the first step takes what it takes
    monkeypatch.setattr(status, "time", SimpleNamespace(monotonic=lambda: next(times)))
    stage, _ = first_and_channel(queue=1)
    for _ in range(4):
        stage.status.stepped()
    said = stage.status.read()
    assert said["longest_pause"] == 3.0
    assert said["steps_per_second"] == pytest.approx(3 / 4.5)


def test_data_need_no_length() -> None:
    class Endless(torch.utils.data.IterableDataset[Any]):
        def __iter__(self) -> Any:
            return ((x, y) for x, y, _ in batches(3))

    stage, b = first_and_channel(queue=10)
    b.close()
    stage.downstream.channel.peer = Peer.PRESENT  # type: ignore[union-attr]
    loader = torch.utils.data.DataLoader(Endless(), batch_size=None)
    clocks = []
    for clock in stage.train(loader):
        clocks.append(clock)
        stage.downstream.channel.peer = Peer.LEFT if clock == 3 else Peer.PRESENT  # type: ignore[union-attr]
    assert clocks == [1, 2, 3]


def test_what_comes_in_mid_step_from_a_neighbour_that_holds_is_not_lost() -> None:
    stage, b = first_and_channel(queue=1)
    x, y, _ = next(batches(1))
    stage.part.register_forward_hook(lambda *_: b.send(Kind.HOLD, 0) and None)
    stage.advance(Batch(x, y))
    stage.learn()
    assert (b.waiting, stage.status.read()["dropped"]) == (1, 0)


def test_a_part_may_change_its_input_in_place() -> None:
    a, b = in_process()
    part = nn.Sequential(nn.ReLU(inplace=True), nn.Linear(8, 3))
    stage = Stage(part, adam, loss=F.cross_entropy, upstream=UpdateB(b))
    h = torch.randn(4, 8)
    for _ in range(2):
        a.send(Kind.ACTIVATION, 1, [h, torch.zeros(4, dtype=torch.long), None, False])
        batch = stage.next_batch(stage.feed(()))
        assert batch is not None
        stage.advance(batch)
        assert torch.equal(batch.input, h)
        answered = a.receive()
        assert answered is not None
        assert bool(((answered.content != 0) <= (h > 0)).all())
        assert bool((answered.content != 0).any())


def test_ends_of_different_unlocks_do_not_go_together() -> None:
    cut = dni.BidirectionalInterface(
        dni.BasicSynthesizer(8, trigger_dim=6), dni.BasicSynthesizer(8)
    )
    (_, b), (a, _) = in_process(), in_process()
    with pytest.raises(ValueError, match=r"expected the same unlock at both ends.* CompleteA"):
        Stage(nn.Linear(8, 8), adam, upstream=UpdateB(b), downstream=CompleteA(a, cut))
    with pytest.raises(ValueError, match=r"UpdateA: expected queue to be an integer from 0 to"):
        UpdateA(a, interface(), queue=10**4)


def test_checkpoints_of_another_model_are_named(tmp_path: Path) -> None:
    for width in (4, 5):
        part = nn.Linear(width, 8)
        a, _ = in_process()
        made = {"downstream": UpdateA(a, interface()), "checkpoints": Checkpoints(tmp_path, 0)}
        if width == 4:
            stage = Stage(part, adam, **made)  # type: ignore[arg-type]
            stage.save()
            assert Checkpoints(tmp_path, 0).newest() is None  # nothing has happened yet
            stage.clock = 1
            stage.save()
        else:
            with pytest.raises(ValueError, match=r"expected checkpoints of this .*stage-0, got .*"):
                Stage(part, adam, **made)  # type: ignore[arg-type]
    other, _ = in_process(b"another model...")
    with pytest.raises(ValueError, match=r"a model that is built, or cut, in another way"):
        Stage(
            nn.Linear(4, 8), adam, downstream=UpdateA(other, interface()),
            checkpoints=Checkpoints(tmp_path, 0),
        )  # fmt: skip


def test_parts_of_two_models_are_not_put_together(tmp_path: Path) -> None:
    for stage, model in enumerate(["a", "b"]):
        Checkpoints(tmp_path, stage).save(
            1, {"model": model, "part": {f"{stage}.w": torch.ones(1)}}
        )
    with pytest.raises(ValueError, match=r"merged: expected checkpoints of one model, cut in one"):
        distributed.merged(tmp_path)


def test_who_waits_long_for_a_neighbour_says_so_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dni.distributed.ends.LOOK", 0.001)
    stage, a = last_and_channel()
    assert stage.upstream is not None
    stage.upstream.channel.peer = Peer.AWAITED
    stage.upstream.channel.lost_since -= 31
    stage.upstream.patience = 1000
    with pytest.warns(UserWarning, match=r"waited 31 seconds .* same store and run"):
        stage.upstream.look()
    stage.upstream.look()  # which is no error: it does not warn
    assert a.waiting == 0
