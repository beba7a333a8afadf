"""Three lines in a loop that is there already."""

from __future__ import annotations

import copy
import io
import pickle

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import dni
from tests.cases import Fixed

SIZE, BATCH = 4, 5
DEVICES = ["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"]


def lstm(**options):
    return nn.LSTM(3, SIZE, **options)


class Training:
    """An LSTM, its optimiser, and the three lines."""

    def __init__(self, loss_first=True, core=None, **options):
        torch.manual_seed(0)
        self.core = core or lstm()
        self.loss_first = loss_first
        self.synth = dni.Synthesizer(SIZE, **({"lr": 1e-2} | options))
        self.optimizer = torch.optim.SGD(self.core.parameters(), 0.1)
        self.state = None

    def window(self, x=None, batch=BATCH):
        x = torch.randn(3, batch, 3) if x is None else x
        output, state = self.core(x, self.state)
        loss = (output - 1).square().mean()
        if self.loss_first:
            loss.backward(retain_graph=True)
            self.state = self.synth.backward_synthetic(state)
        else:
            self.state = self.synth.backward_synthetic(state, loss)
            loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad()
        return loss.item()

    def sequence(self, windows=3):
        self.state = None
        for _ in range(windows):
            self.window()
        self.synth.step()


def perceptron(synth):
    return synth.interface.synthesizer.synthesizer


def snapshot(module):
    return copy.deepcopy(dict(module.state_dict()))


def same(before, after):
    return all(
        torch.equal(value, after[name])
        for name, value in before.items()
        if isinstance(value, torch.Tensor)
    )


@pytest.mark.parametrize("loss_first", [True, False])
@pytest.mark.parametrize(
    ("core", "options"),
    [
        (lstm(), {}),
        (lstm(num_layers=2), {}),
        (nn.GRU(3, SIZE), {"is_lstm": False}),
        (nn.RNN(3, SIZE, num_layers=2), {"is_lstm": False}),
        (lstm(), {"aux": True}),
        (lstm(), {"allow_backwarding": True}),
        (lstm(), {"hidden_layers": 0, "activation": nn.Tanh, "factor": 0.1}),
        (lstm(), {"optimizer": torch.optim.SGD, "use_improvement": False}),
    ],
)
def test_it_learns(core, options, loss_first):
    training = Training(loss_first, copy.deepcopy(core), **options)
    before = snapshot(training.synth)
    for _ in range(3):
        training.sequence()
    after = snapshot(training.synth)
    trained = [name for name in before if name.endswith("weight")]
    assert all(not torch.equal(before[name], after[name]) for name in trained)


@pytest.mark.parametrize("loss_first", [True, False])
def test_its_targets_are_the_gradients_that_the_states_received(loss_first):
    training = Training(loss_first, optimizer=torch.optim.SGD, lr=1.0, normalize=False)
    synth = training.synth
    for parameter in synth.parameters():
        nn.init.normal_(parameter)
    reference = copy.deepcopy(synth.interface.synthesizer)
    states = []
    for _ in range(3):
        training.window()
        states.append(training.state)
    loss = sum(
        F.mse_loss(
            reference(torch.cat([part.detach() for part in state], -1)),
            torch.cat([part.grad for part in state], -1),
        )
        for state in states[:-1]
    )
    loss.backward()
    before = [parameter.clone() for parameter in synth.parameters()]
    synth.step()
    for old, new, expected in zip(before, synth.parameters(), reference.parameters(), strict=True):
        torch.testing.assert_close(old - new, expected.grad)


def test_the_last_state_of_a_sequence_has_no_future():
    """Where no gradient reaches a state by the next step but one, its target is zero."""
    training = Training(optimizer=torch.optim.SGD, lr=0.5)
    synth = training.synth
    for parameter in synth.parameters():
        nn.init.normal_(parameter)
    training.window()
    end = training.state
    synth.step()
    training.state = None  # a new sequence
    training.window()
    before = torch.cat(synth.interface.receive(end)).norm()
    synth.step()
    assert torch.cat(synth.interface.receive(end)).norm() < before
    without = Training(use_improvement=False)
    before = snapshot(without.synth.interface.synthesizer)
    without.window()
    without.synth.step()
    without.state = None
    without.window()
    without.synth.step()
    assert same(before, snapshot(without.synth.interface.synthesizer))


def test_steps_after_every_window_learn_what_a_step_after_the_sequence_learns():
    """The gradient of the newest state is waited for: the same targets, a step later."""
    learnt = []
    for each in (True, False):
        training = Training()
        seen = []
        training.synth.interface.send = lambda message, trigger, seen=seen: seen.append(message)
        x = torch.randn(4, 3, BATCH, 3, generator=torch.Generator().manual_seed(0))
        for index in range(4):
            training.window(x[index])
            if each:
                training.synth.step()
        if not each:
            training.synth.step()
        learnt.append([torch.cat(message, -1) for message in seen])
    assert len(learnt[0]) == len(learnt[1]) == 3
    for one, other in zip(*learnt, strict=True):
        torch.testing.assert_close(one, other)


def test_allow_backwarding_adds_the_gradient_of_the_regression():
    training = Training(allow_backwarding=True)
    synth = training.synth
    for parameter in synth.parameters():
        nn.init.normal_(parameter)
    synth.interface.objective.moments.copy_(torch.tensor([0.04, 1.0]))  # a scale of 0.2
    for _ in range(2):
        training.window()
    state = synth._boundaries[0].leaves
    real = torch.cat([leaf.grad for leaf in state], -1)
    loss = F.mse_loss(synth.interface.synthesizer(torch.cat(state, -1)), real / 0.2)
    own = torch.cat(torch.autograd.grad(loss, state), -1)
    seen = []
    synth.interface.send = lambda message, trigger: seen.append(torch.cat(message, -1))
    synth.step()
    torch.testing.assert_close(seen[0], real + 0.2 * own)


@pytest.mark.parametrize("allow_backwarding", [False, True])
def test_the_scale_of_the_loss_does_not_matter(allow_backwarding):
    """Nothing feeds itself: gradients a hundred times smaller stay so."""
    scales = []
    for scale in (1.0, 0.01):
        torch.manual_seed(0)
        core = nn.GRU(3, SIZE)
        synth = dni.Synthesizer(SIZE, is_lstm=False, lr=1e-3, allow_backwarding=allow_backwarding)
        for x in torch.randn(100, 3, 3, BATCH, 3):
            state = None
            for part in x:
                output, state = core(part, state)
                (scale * (output - 1).square().mean()).backward(retain_graph=True)
                state = synth.backward_synthetic(state)
            synth.step()
        square, weight = synth.interface.objective.moments
        scales.append(float((square / weight).sqrt()))
    assert scales[1] == pytest.approx(0.01 * scales[0], rel=0.05)
    assert scales[0] < 1


def test_batches_may_change_between_sequences():
    training, seen = Training(), []
    training.synth.interface.send = lambda message, trigger: seen.append(message[0].shape[1])
    for batch in (5, 2):
        training.state = None
        for _ in range(2):
            training.window(batch=batch)
        training.synth.step()
    assert seen == [5, 5, 2]  # the first sequence's end is learnt with the second


def test_a_context_is_remembered_until_the_step():
    training = Training()
    seen = []
    perceptron(training.synth).register_forward_pre_hook(
        lambda module, arguments: seen.append(arguments[1])
    )
    perceptron(training.synth)._context_ignored = True
    for context in ("first", "second"):
        with dni.synthesizer_context(context):
            training.window()
    training.synth.step()
    assert seen == ["first", "second", "first"]


def test_it_can_be_told_labels():
    training = Training(context_classes=3)
    with pytest.raises(ValueError, match="built with a context of 3 .* but there is none"):
        training.sequence()
    training = Training(context_classes=3)
    with dni.synthesizer_context(torch.tensor([2])):
        training.sequence()
    assert training.synth.optimizer.state[perceptron(training.synth).input_context.weight]


def test_the_graph_of_a_window_is_freed_where_the_loss_came_first():
    training = Training()
    training.window()
    output, state = training.core(torch.randn(3, BATCH, 3), training.state)
    loss = output.sum()
    loss.backward(retain_graph=True)
    training.synth.backward_synthetic(state)
    with pytest.raises(RuntimeError, match="a second time"):
        loss.backward()


def test_under_autocast_what_is_sent_keeps_its_width():
    """1e-9 is 0 in half precision."""
    synth, layer = dni.Synthesizer(SIZE, is_lstm=False), nn.Linear(3, SIZE)
    synth.interface.synthesizer = Fixed(torch.full((BATCH, SIZE), 1e-9))
    with torch.autocast("cpu", torch.float16):
        with torch.autocast("cpu", enabled=False):
            state = layer(torch.ones(BATCH, 3))
        synth.backward_synthetic(state)
    expected = torch.full((SIZE, 3), synth.factor * BATCH * 1e-9)
    torch.testing.assert_close(layer.weight.grad, expected, rtol=1e-5, atol=0)


def test_eval_mode_hands_the_state_through():
    training = Training()
    training.synth.eval()
    state = (torch.ones(1, 2, SIZE), torch.ones(1, 2, SIZE))
    assert training.synth.backward_synthetic(state) is state


# -- moving, copying, saving ----------------------------------------------------------


def test_moving_takes_the_optimiser_along():
    training = Training()
    training.sequence()
    training.sequence()
    assert training.synth.to("cpu").cpu() is training.synth
    training.synth.double()
    states = training.synth.optimizer.state.values()
    assert {state["exp_avg"].dtype for state in states} == {torch.float64}


@pytest.mark.parametrize("device", DEVICES)
def test_it_trains_where_it_was_moved(device):
    training = Training(core=lstm().to(device))
    getattr(training.synth, device)()  # .cpu(), .cuda()
    before = snapshot(training.synth.interface.synthesizer)
    for _ in range(2):
        training.state = None
        for _ in range(2):
            training.window(x=torch.randn(3, BATCH, 3, device=device))
        training.synth.step()
    after = snapshot(training.synth.interface.synthesizer)
    assert all(not torch.equal(before[name], after[name]) for name in before if "weight" in name)
    training.synth.cpu()
    kinds = {state["exp_avg"].device.type for state in training.synth.optimizer.state.values()}
    assert kinds == {"cpu"}


def test_a_resumed_run_goes_on_as_if_it_had_not_stopped():
    straight, first = Training(aux=True), Training(aux=True)
    x = torch.randn(6, 3, BATCH, 3)
    for training in (straight, first):
        for index in range(3):
            training.window(x[index])
        training.synth.step()
    file = io.BytesIO()
    torch.save([first.core.state_dict(), first.synth.state_dict()], file)
    file.seek(0)
    core, synth = torch.load(file)  # weights_only, as by default
    second = Training(aux=True)
    second.core.load_state_dict(core)
    second.synth.load_state_dict(synth)
    for training in (straight, second):
        training.state = None
        training.synth._boundaries.clear()
        for index in range(3, 6):
            training.window(x[index])
        training.synth.step()
    assert same(snapshot(straight.synth), snapshot(second.synth))


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda synth: pickle.loads(pickle.dumps(synth))])
def test_copies_are_independent_and_whole(copied):
    training = Training(aux=True)
    training.sequence()
    other = Training(aux=True)
    before = snapshot(training.synth)
    other.synth = copied(training.synth)
    other.sequence()
    assert same(before, snapshot(training.synth))
    assert not same(before, snapshot(other.synth))


def test_a_copy_made_between_windows_starts_anew():
    training = Training()
    training.window()
    training.synth.step()
    training.window()
    for copied in (copy.deepcopy(training.synth), pickle.loads(pickle.dumps(training.synth))):
        with pytest.raises(RuntimeError, match="since the last step"):
            copied.step()
    training.synth.step()


def test_loading_by_assignment_keeps_learning():
    training, source = Training(), Training()
    source.sequence()
    training.synth.load_state_dict(source.synth.state_dict(), assign=True)
    before = snapshot(training.synth.interface.synthesizer)
    training.sequence()
    after = snapshot(training.synth.interface.synthesizer)
    assert all(not torch.equal(before[name], after[name]) for name in before if "weight" in name)


def test_a_move_between_sequences_forgets_the_last_state():
    training = Training()
    training.sequence()
    training.core.double()
    training.synth.double()
    training.state, seen = None, []
    training.synth.interface.send = lambda message, trigger: seen.append(message[0].dtype)
    for _ in range(2):
        training.window(torch.randn(3, BATCH, 3).double())
    training.synth.step()
    assert seen == [torch.float64]


@pytest.mark.parametrize(
    "options", [{"aux": True}, {"hidden_layers": 2}, {"optimizer": torch.optim.SGD}]
)
def test_a_checkpoint_of_another_kind_changes_nothing(options):
    source, training = Training(**options), Training()
    source.sequence()
    before = snapshot(training.synth)
    with pytest.raises(ValueError, match="Build it with the optimizer, hidden_layers and aux that"):
        training.synth.load_state_dict(source.synth.state_dict())
    assert same(before, snapshot(training.synth))


def test_a_checkpoint_of_another_size_changes_nothing():
    source, training = dni.Synthesizer(SIZE + 1), Training()
    before = snapshot(training.synth)
    with pytest.raises(ValueError, match=r"size of the model; expected \(8, 8\) for .*, got"):
        training.synth.load_state_dict(source.state_dict())
    assert same(before, snapshot(training.synth))


# -- errors that say which line to move --------------------------------------------------


def window(training):
    return training.core(torch.randn(3, BATCH, 3), training.state)


def test_without_retain_graph():
    training = Training()
    output, state = window(training)
    output.sum().backward()
    with pytest.raises(RuntimeError, match="Add retain_graph=True there, or move the line"):
        training.synth.backward_synthetic(state)


def test_after_the_optimiser_has_stepped():
    training = Training()
    output, state = window(training)
    output.sum().backward(retain_graph=True)
    training.optimizer.step()
    with pytest.raises(RuntimeError, match=r"Move the line .* above optimizer.step\(\)"):
        training.synth.backward_synthetic(state)


def test_with_a_detached_state():
    training = Training()
    _, state = window(training)
    with pytest.raises(RuntimeError, match="Remove the line that detaches it"):
        training.synth.backward_synthetic(tuple(part.detach() for part in state))


def test_with_a_state_that_is_not_used():
    training = Training()
    training.window()
    training.state = tuple(part.detach() for part in training.state)
    training.window()
    before = snapshot(training.synth)
    with pytest.raises(RuntimeError, match="Start the next window from what backward_synthetic"):
        training.synth.step()
    assert same(before, snapshot(training.synth))
    training.sequence()  # it has started anew


def test_with_a_step_above_the_backward_pass():
    training = Training()
    for _ in range(2):
        output, state = window(training)
        training.state = training.synth.backward_synthetic(state)
        training.synth.step()
        if training.synth._idle_steps:
            output.sum().backward()
        else:
            with pytest.raises(RuntimeError, match=r"Move synth.step\(\) below loss.backward"):
                output.sum().backward()


def test_with_states_that_are_always_detached():
    def train():
        training = Training()
        for _ in range(25):
            training.window()
            training.synth.step()
            training.state = tuple(part.detach() for part in training.state)

    with pytest.warns(UserWarning, match="Does the loop detach the state afterwards"):
        train()


def test_eval_mode_has_nothing_to_step():
    training = Training()
    training.window()
    training.window()
    before, waiting = snapshot(training.synth), len(training.synth._boundaries)
    training.synth.eval().step()
    assert same(before, snapshot(training.synth))
    training.synth.train().step()  # what waited is learnt now
    assert (waiting, len(training.synth._boundaries)) == (2, 1)
    assert not same(before, snapshot(training.synth))


@pytest.mark.parametrize(
    "options", [{"activation": nn.GELU()}, {"activation": F.relu}, {"optimizer": "adam"}]
)
def test_an_activation_and_an_optimizer_are_classes(options):
    with pytest.raises(TypeError, match="to be a class, such as torch"):
        dni.Synthesizer(SIZE, **options)


def test_a_step_before_any_window():
    synth = dni.Synthesizer(SIZE)
    with pytest.raises(RuntimeError, match=r"expected a backward_synthetic\(hidden\) since the"):
        synth.step()


def test_a_step_without_a_new_window():
    training = Training()
    training.sequence()
    with pytest.raises(RuntimeError, match=r"Move step\(\) to the end of the sequence"):
        training.synth.step()


@pytest.mark.parametrize(
    ("is_lstm", "core", "error", "match"),
    [
        (True, nn.GRU(3, SIZE), TypeError, "build it with is_lstm=False"),
        (False, lstm(), ValueError, "expected a trigger of 4 features.*Build it for 8"),
    ],
)
def test_a_state_of_another_kind(is_lstm, core, error, match):
    training = Training(is_lstm=is_lstm, core=core)
    with pytest.raises(error, match=match):
        training.window()


def test_a_batch_that_changes_within_a_sequence():
    training = Training()
    training.window()
    _, state = training.core(torch.randn(3, BATCH, 3), training.state)
    with pytest.raises(ValueError, match=r"Call step\(\) where a sequence ends"):
        training.synth.backward_synthetic(tuple(part[:, :2] for part in state))


def test_nan_in_a_windows_gradient_teaches_nothing():
    training = Training()
    training.sequence()
    training.state = None
    training.window()
    training.window()
    output, state = window(training)
    (output * float("nan")).sum().backward(retain_graph=True)
    training.synth.backward_synthetic(state)
    before = snapshot(training.synth)
    with pytest.raises(FloatingPointError, match="dni.Synthesizer: a real gradient must be finite"):
        training.synth.step()
    assert same(before, snapshot(training.synth))
    assert all(parameter.grad is None for parameter in training.synth.parameters())


@pytest.mark.parametrize("size", [0, -1, 2.5])
def test_a_size_is_a_positive_integer(size):
    with pytest.raises(ValueError, match="dni.Synthesizer: expected size"):
        dni.Synthesizer(size)
