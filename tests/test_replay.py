"""Messages that have come are learnt again, and nothing else changes."""

from __future__ import annotations

import copy
import gc
import pickle

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import dni
from tests.cases import Chain, Cut, compiles, synthesizer

pytestmark = compiles
LABELS = torch.arange(7) % 4


def chain(cut: Cut | None = None) -> nn.Module:
    torch.manual_seed(0)
    build = cut or (lambda: dni.BackwardInterface(synthesizer(), unlock=False))
    return Chain(build).double()


def learn(
    model: nn.Module, seed: int = 0, rows: int = 7, labels: bool = False
) -> dict[str, Tensor]:
    """One backward pass; what the synthesizers got."""
    model.zero_grad()
    x = torch.randn(rows, 6, generator=torch.Generator().manual_seed(seed)).double()
    with dni.synthesizer_context(LABELS[:rows] if labels else None):
        F.cross_entropy(model(x), LABELS[:rows]).backward()
    return gradients(model)


def gradients(model: nn.Module) -> dict[str, Tensor]:
    wanted = {id(parameter) for parameter in dni.synthesizer_parameters(model)}
    named = model.named_parameters()
    return {name: one.grad.clone() for name, one in named if id(one) in wanted}


class Interface(dni.BackwardInterface):
    """One that can be pickled with its chain."""

    def __init__(self) -> None:
        super().__init__(synthesizer(), unlock=False)


@pytest.mark.parametrize("unlock", [False, True])
@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize("labels", [False, True])
def test_a_moment_learnt_again_gives_the_gradient_that_it_gave(unlock, normalize, labels):
    def cut():
        made = dni.Centered(synthesizer(context_classes=4 if labels else None))
        return dni.BackwardInterface(made, unlock=unlock, normalize=normalize)

    model = chain(cut)
    replay = dni.Replay(model, keep=1)
    for seed in range(3):
        first = learn(model, seed, labels=labels)
        model.zero_grad()
        (loss,) = replay.losses(1)
        loss.backward()
        again = gradients(model)
        for name, gradient in first.items():
            torch.testing.assert_close(again[name], gradient, rtol=1e-9, atol=1e-12)
        assert all(parameter.grad is None for parameter in dni.base_parameters(model))


def test_a_moment_of_an_auxiliary_task_counts_by_its_weight():
    task = dni.AuxiliaryTask(synthesizer(), weight=0.25)
    replay, state = dni.Replay(task, keep=1), torch.randn(5, 6, requires_grad=True)
    task.weight = 0.5  # from now on
    task.send(torch.randn(5, 6), state)
    first = gradients(task)
    task.zero_grad()
    next(replay.losses(1)).backward()
    for name, gradient in gradients(task).items():
        torch.testing.assert_close(gradient, first[name])


def test_a_synthesizer_may_be_asked_without_a_context():
    cut = dni.BackwardInterface(synthesizer(), unlock=False)
    replay, h = dni.Replay(cut, keep=1), torch.randn(5, 6)
    (cut.synthesizer(h) - 1).square().mean().backward()
    assert next(replay.losses(1)).requires_grad


def test_a_moment_is_learnt_again_in_the_precision_it_came_in():
    model = Chain(lambda: dni.BackwardInterface(synthesizer(), unlock=False))
    replay = dni.Replay(model, keep=1)
    with torch.autocast("cpu", torch.bfloat16):
        loss = F.cross_entropy(model(torch.randn(7, 6)), LABELS)
    loss.backward()
    first = gradients(model)
    model.zero_grad()
    next(replay.losses()).backward()
    for name, gradient in gradients(model).items():
        torch.testing.assert_close(gradient, first[name], rtol=0.05, atol=0.01)


def test_a_message_that_was_sent_is_learnt_again():
    interface = dni.ForwardInterface(synthesizer()).double()
    replay = dni.Replay(interface)
    trigger, message = torch.randn(2, 3, 6).double()
    interface.send(message, trigger)
    first = gradients(interface)
    interface.zero_grad()
    next(replay.losses()).backward()
    for name, gradient in gradients(interface).items():
        torch.testing.assert_close(gradient, first[name])


def test_training_and_its_random_numbers_do_not_notice():
    plain, watched = chain(), chain()
    replay = dni.Replay(watched)
    for seed in range(5):
        expected, got = learn(plain, seed), learn(watched, seed)
        state = torch.get_rng_state()
        losses = list(replay.losses(3))
        assert len(losses) == 3
        assert torch.equal(torch.get_rng_state(), state)
        assert all(torch.equal(got[name], expected[name]) for name in expected)
    for one, other in zip(plain.state_dict().values(), watched.state_dict().values(), strict=True):
        assert torch.equal(one, other)


def test_more_steps_learn_more():
    errors = []
    for again in (0, 5):
        interface = dni.BackwardInterface(synthesizer(), normalize=False)
        torch.manual_seed(1)
        table = torch.randn(6, 6)
        optimizer = torch.optim.Adam(interface.parameters(), 1e-3)
        replay = dni.Replay(interface)
        for trigger in torch.randn(100, 32, 6):
            optimizer.zero_grad()
            interface.send(trigger @ table, trigger)
            optimizer.step()
            for loss in replay.losses(again):
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
        unseen = torch.randn(500, 6)
        errors.append(float((interface.receive(unseen) - unseen @ table).square().mean()))
    assert errors[1] < errors[0] / 2


def test_a_memory_forgets_the_oldest():
    model = chain()
    replay = dni.Replay(model, keep=2)
    for rows in (2, 3, 4):
        learn(model, rows=rows)
    rows = [len(moment[0]) for memory in replay._memories for moment in memory.moments]
    assert rows == [3, 4, 3, 4]
    replay.close()
    learn(model, rows=5)
    assert [len(memory.moments[-1][0]) for memory in replay._memories] == [4, 4]
    assert len(list(replay.losses(2))) == 2


def test_what_is_changed_in_place_is_remembered_as_it_was():
    model = chain(lambda: dni.BackwardInterface(synthesizer(context_classes=4), unlock=False))
    replay = dni.Replay(model)
    labels, x = LABELS.clone(), torch.randn(7, 6).double()
    with dni.synthesizer_context(labels):
        model(x).sum().backward()
    before = float(next(replay.losses()).detach())
    labels.zero_()
    assert float(next(replay.losses()).detach()) == before


def test_a_shared_synthesizer_has_one_memory_and_a_frozen_one_none():
    shared = synthesizer()
    model = chain(lambda: dni.BackwardInterface(shared, unlock=False))
    replay = dni.Replay(model)
    learn(model)
    assert [len(memory.moments) for memory in replay._memories] == [2]
    frozen = chain()
    dni.interfaces_of(frozen)["cuts.0"].requires_grad_(False)
    replay = dni.Replay(frozen)
    frozen(torch.randn(7, 6).double()).sum().backward()
    assert [len(memory.moments) for memory in replay._memories] == [0, 1]


def test_evaluation_is_not_remembered():
    model = chain().eval()
    replay = dni.Replay(model)
    model(torch.randn(7, 6).double()).sum().backward()
    dni.interfaces_of(model)["cuts.0"].receive(torch.randn(7, 6).double())
    assert list(replay.losses(3)) == []


def test_a_skipped_message_is_not_remembered():
    model = chain(lambda: dni.BackwardInterface(synthesizer(), nonfinite="skip"))
    replay = dni.Replay(model)
    (model(torch.randn(7, 6).double()).sum() * torch.inf).backward()
    moments = [memory.moments for memory in replay._memories]
    assert [len(one) for one in moments] == [1, 0]  # the first cut's is the second's, synthetic
    learn(model)
    assert [len(one) for one in moments] == [2, 1]


def test_two_replays_do_not_remember_each_other():
    model = chain()
    one, other = dni.Replay(model), dni.Replay(model)
    learn(model)
    for loss in one.losses():
        loss.backward()
    assert [len(memory.moments) for memory in other._memories] == [1, 1]


def test_a_synthesizer_frozen_later_is_left_alone():
    model = chain()
    replay = dni.Replay(model)
    learn(model)
    first, second = dni.interfaces_of(model).values()
    first.requires_grad_(False)
    (loss,) = replay.losses(1)
    expected = replay._memories[1].loss(replay._random)
    torch.testing.assert_close(loss, expected)
    second.requires_grad_(False)
    assert list(replay.losses()) == []


def test_a_replay_that_missed_what_was_learnt_says_so():
    model = chain()
    learn(model)
    with pytest.warns(UserWarning, match="before the first call of a compiled model"):
        assert list(dni.Replay(model).losses()) == []


def test_a_local_head_learns_again():
    def cut():
        return dni.BackwardInterface(
            dni.LocalLossSynthesizer(nn.Linear(6, 4), F.cross_entropy), unlock=False
        )

    model = chain(cut)
    replay = dni.Replay(model)
    first = learn(model, labels=True)
    model.zero_grad()
    next(replay.losses()).backward()
    for name, gradient in gradients(model).items():
        torch.testing.assert_close(gradient, first[name])


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))])
def test_copies_remember_nothing(copied):
    model = Chain(Interface)
    replay = dni.Replay(model)
    learn(model.double())
    other = copied(model)
    learn(other)
    assert [len(memory.moments) for memory in replay._memories] == [1, 1]
    for name, gradient in learn(model).items():
        assert torch.equal(gradient, gradients(other)[name])


def test_a_lost_replay_stops():
    model = chain()
    replay = dni.Replay(model)
    hooked = [memory.synthesizer._forward_hooks for memory in replay._memories]
    assert [len(hooks) for hooks in hooked] == [1, 1]
    del replay
    gc.collect()
    assert [len(hooks) for hooks in hooked] == [0, 0]


def test_bad_input():
    with pytest.raises(ValueError, match="dni.Replay: expected a model with interfaces"):
        dni.Replay(nn.Linear(2, 2))
    with pytest.raises(ValueError, match="expected keep to be a positive integer, got 0"):
        dni.Replay(chain(), keep=0)
    waiting = dni.decouple(nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2)), "0")
    with pytest.raises(RuntimeError, match=r"dni.Replay: .*first batch.*\(0\).*sample="):
        dni.Replay(waiting)
    with pytest.raises(ValueError, match="expected count"):
        dni.Replay(chain()).losses(-1)
    with pytest.raises(TypeError, match="stays with its model"):
        copy.deepcopy(dni.Replay(chain()))


def test_a_compiled_network_is_remembered():
    torch.compiler.reset()
    model = chain()
    replay = dni.Replay(model, keep=1)
    compiled = torch.compile(model, backend="aot_eager")
    for seed in range(3):
        first = learn(compiled, seed)
        compiled.zero_grad()
        next(replay.losses()).backward()
        for name, gradient in gradients(compiled).items():
            torch.testing.assert_close(gradient, first[name])
