"""The loop of truncated BPTT: windows, hand-over, targets, errors."""

from __future__ import annotations

import gc
import weakref

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import dni
from tests import cases
from tests.recurrent.networks import HIDDEN, INPUT, Model


class Loop:
    """An LSTM with an interface that has something to say."""

    def __init__(self, **options):
        torch.manual_seed(0)
        self.core, self.readout = nn.LSTM(INPUT, HIDDEN), nn.Linear(HIDDEN, 1)
        self.interface = dni.BackwardInterface(cases.synthesizer(2 * HIDDEN, **options))
        self.x, self.y = torch.randn(9, 2, INPUT), torch.randn(9, 2, 1)

    def loss(self, window):
        x, y = window
        output, state = self.core(x, window.state)
        return F.mse_loss(self.readout(output), y), state

    def windows(self, **options):
        return dni.windows(self.x, self.y, **({"size": 3, "interface": self.interface} | options))


@given(
    steps=st.integers(1, 9), size=st.integers(1, 10), batch_first=st.booleans(), more=st.booleans()
)
def test_windows_are_the_sequence_in_pieces(steps, size, batch_first, more):
    x = (
        torch.arange(steps * 2).view(2, steps)
        if batch_first
        else torch.arange(steps * 2).view(-1, 2)
    )
    sequences = (x, x + 1) if more else (x,)
    loop = dni.windows(*sequences, size=size, batch_first=batch_first)
    parts, starts, lasts = [], [], []
    for window in loop:
        parts.append(tuple(window))
        starts.append(window.start)
        lasts.append(window.last)
        window.backward(None, torch.zeros(1))
    for sequence, pieces in zip(sequences, zip(*parts, strict=True), strict=True):
        assert torch.equal(torch.cat(pieces, int(batch_first)), sequence)
    assert starts == list(range(0, steps, size))
    assert lasts == [False] * (len(starts) - 1) + [True]
    assert len(loop) == len(starts)


def test_what_a_synthesizer_learns_is_the_bootstrapped_target():
    """The gradients of one sequence, against the explicit loss of :mod:`dni.recurrent.windows`."""
    loop = Loop()
    loop.interface = dni.BackwardInterface(loop.interface.synthesizer, normalize=False)
    synthesizer, states, targets = loop.interface.synthesizer, [], []
    state = None
    for index, (x, y) in enumerate(zip(loop.x.split(3), loop.y.split(3), strict=True)):
        if state is not None:
            state = tuple(part.detach().requires_grad_() for part in state)
        output, after = loop.core(x, state)
        loss = F.mse_loss(loop.readout(output), y)
        if index < 2:
            with torch.no_grad():
                sent = synthesizer(torch.cat(after, -1)).chunk(2, -1)
            loss = loss + sum((s * part).sum() for s, part in zip(sent, after, strict=True))
        if state is not None:
            states.append(torch.cat([part.detach() for part in state], -1))
            targets.append(torch.cat(torch.autograd.grad(loss, state), -1))
        state = after
    states.append(torch.cat(state, -1).detach())
    targets.append(torch.zeros_like(states[-1]))
    explicit = sum(F.mse_loss(synthesizer(h), m) for h, m in zip(states, targets, strict=True))
    expected = torch.autograd.grad(explicit, list(synthesizer.parameters()))
    for window in loop.windows():
        window.backward(*loop.loss(window))
    for parameter, gradient in zip(synthesizer.parameters(), expected, strict=True):
        torch.testing.assert_close(parameter.grad, gradient)


def test_optimisers_step_after_each_window_or_once():
    for each in (True, False):
        loop = Loop()
        modules = nn.ModuleList([loop.core, loop.readout, loop.interface])
        optimizer = torch.optim.Adam(modules.parameters(), 1e-2)
        losses = []
        for _ in range(60):
            total = 0.0
            for window in loop.windows():
                loss, state = loop.loss(window)
                window.backward(loss, state)
                total += loss.item()
                if each:
                    optimizer.step()
                    optimizer.zero_grad()
            if not each:
                optimizer.step()
                optimizer.zero_grad()
            losses.append(total)
        assert losses[-1] < 0.8 * losses[0]


def test_a_context_belongs_to_a_state():
    """Each state is learnt with the context in which its gradient was asked for."""
    loop = Loop()
    counting = cases.Counting(2 * HIDDEN, context_dim=1)
    loop.interface = dni.BackwardInterface(counting)
    for index, window in enumerate(loop.windows()):
        loss, state = loop.loss(window)
        with dni.synthesizer_context(torch.full((2, 1), float(index))):
            window.backward(loss, state)
    assert [float(context[0, 0]) for context in counting.contexts] == [0, 0, 1, 1, 2]


def test_a_context_may_stand_around_the_loop():
    loop = Loop(context_classes=3)
    with dni.synthesizer_context(torch.tensor([0, 2])):
        for window in loop.windows():
            window.backward(*loop.loss(window))
    assert loop.interface.synthesizer.input_context.weight.grad.abs().sum() > 0


def test_evaluation_runs_the_same_loop():
    loop = Loop()
    loop.interface.eval()
    for window in loop.windows():
        window.backward(*loop.loss(window))
    assert all(parameter.grad is None for parameter in loop.interface.parameters())


@pytest.mark.parametrize("training", [True, False])
def test_without_gradients_the_loop_only_hands_on(training):
    loop, states = Loop(), []
    loop.interface.train(training)
    with torch.no_grad():
        for window in loop.windows():
            loss, state = loop.loss(window)
            window.backward(loss, state)
            states.append(state[0])
        expected, _ = loop.core(loop.x)
    torch.testing.assert_close(torch.cat(states), expected[2::3])


def test_a_whole_loop_under_autocast():
    loop = Loop()
    with torch.autocast("cpu", torch.bfloat16):
        for window in loop.windows():
            window.backward(*loop.loss(window))
    assert loop.core.weight_hh_l0.grad.isfinite().all()
    assert not clean(loop)


def test_a_compiled_core_gives_the_same_gradients():
    found = []
    for compiled in (False, True):
        loop = Loop()
        if compiled:
            loop.core = torch.compile(loop.core, backend="aot_eager")
        for window in loop.windows():
            window.backward(*loop.loss(window))
        found.append([parameter.grad for parameter in loop.core.parameters()])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other)


def test_no_window_outlives_the_next():
    loop, graphs, alive = Loop(), [], []
    for window in loop.windows():
        output, state = loop.core(window.parts[0], window.state)
        graphs.append(weakref.ref(output))  # what a readout saves for its backward pass
        loss = loop.readout(output).square().mean()
        window.backward(loss, state)
        del loss, state, output
        gc.collect()
        alive.append(sum(graph() is not None for graph in graphs))
    assert alive == [0, 0, 0]


def test_the_state_can_be_saved_and_taken_up_again():
    whole, halves = Loop(), Loop()
    for window in whole.windows():
        window.backward(*whole.loss(window))
    first = dni.windows(halves.x[:3], halves.y[:3], size=3, interface=halves.interface, ends=False)
    for window in first:
        window.backward(*halves.loss(window))
    assert not any(part.requires_grad for part in first.state)
    saved = tuple(part.clone() for part in first.state)
    rest = dni.windows(halves.x[3:], halves.y[3:], size=3, interface=halves.interface, state=saved)
    for window in rest:
        window.backward(*halves.loss(window))
    for a, b in ((whole.core, halves.core), (whole.interface, halves.interface)):
        for one, other in zip(a.parameters(), b.parameters(), strict=True):
            torch.testing.assert_close(one.grad, other.grad)


# -- bad input ------------------------------------------------------------------------


@pytest.mark.parametrize("size", [0, -1, 2.5, True, None])
def test_a_window_has_a_step(size):
    with pytest.raises(ValueError, match="a window has at least one step; expected size>=1, got"):
        dni.windows(torch.zeros(4, 2), size=size)


@pytest.mark.parametrize(
    ("sequences", "error", "match"),
    [
        ((), ValueError, "expected at least one sequence"),
        ((3,), TypeError, r"expected a tensor of shape \(time, batch, ...\).*got an int"),
        ((torch.zeros(4, 2), torch.zeros(5, 2)), ValueError, "equal lengths.*got 4, 5"),
        ((torch.zeros(0, 2),), ValueError, "at least 1 in dimension 0, got 0"),
    ],
)
def test_sequences_are_tensors_of_one_length(sequences, error, match):
    with pytest.raises(error, match=match):
        dni.windows(*sequences, size=2)


@pytest.mark.parametrize(
    "lengths",
    [
        torch.tensor([True, True]),
        [1, 2],
        torch.tensor([1.0, 2.0]),
        torch.tensor([1]),
        torch.tensor([0, 3]),
        torch.tensor([1, 9]),
    ],
)
def test_lengths_fit_the_batch(lengths):
    with pytest.raises(ValueError, match="expected 2 integers from 1 to 4, got"):
        dni.windows(torch.zeros(4, 2), size=2, lengths=lengths)


def test_lengths_know_where_a_state_has_its_rows():
    core = nn.GRU(INPUT, HIDDEN, batch_first=True)
    x = torch.randn(5, 6, INPUT)
    interface = dni.BackwardInterface(cases.synthesizer(HIDDEN))
    loop = dni.windows(
        x, size=3, interface=interface, batch_first=True, lengths=torch.tensor([3, 6, 6, 6, 6])
    )
    window = next(loop)
    output, state = core(*window)
    with pytest.raises(ValueError, match=r"expected 5 there, got a state of shape \(5, 1, 4\)"):
        window.backward(output.sum(), state.transpose(0, 1))
    window.backward(output.sum(), state)


def test_a_loop_runs_once():
    loop = dni.windows(torch.zeros(4, 2), size=2)
    for window in loop:
        window.backward(None, torch.zeros(1))
    with pytest.raises(RuntimeError, match=r"Call dni.windows\(...\) again for the next pass"):
        list(loop)


def test_a_dictionary_keeps_its_order():
    state = {"h": torch.zeros(1, 2, 4), "c": torch.zeros(1, 2, 4)}
    interface = dni.BackwardInterface(cases.synthesizer(8))
    window = next(dni.windows(torch.zeros(4, 2), size=2, interface=interface, state=state))
    after = {"c": window.state["c"] * 1, "h": window.state["h"] * 1}
    with pytest.raises(ValueError, match=r"expected \{'h': .*, got \{'c': "):
        window.backward(None, after)


def clean(loop):
    """No synthesizer has learnt anything."""
    return all(parameter.grad is None for parameter in loop.interface.parameters())


def test_a_window_is_finished_before_the_next():
    loop = Loop()
    windows = loop.windows()
    next(windows)
    with pytest.raises(RuntimeError, match=r"expected window.backward\(loss, state\) before"):
        next(windows)


def test_a_window_is_finished_once():
    loop = Loop()
    windows = loop.windows()
    window = next(windows)
    loss, state = loop.loss(window)
    window.backward(loss, state)
    with pytest.raises(RuntimeError, match="expected one window.backward"):
        window.backward(loss, state)
    assert clean(loop)


@pytest.mark.parametrize(
    ("spoil", "got"),
    [
        (lambda state: state[0], r"Tensor\(1, 2, 4\)\. "),
        (lambda state: list(state), r"\[Tensor\(1, 2, 4\), Tensor\(1, 2, 4\)\]"),
        (lambda state: tuple(part[:, :1] for part in state), r"\(Tensor\(1, 1, 4\), "),
    ],
    ids=["another structure", "another container", "another batch size"],
)
def test_a_state_keeps_its_structure(spoil, got):
    loop = Loop()
    windows = loop.windows()
    window = next(windows)
    window.backward(*loop.loss(window))
    window = next(windows)
    loss, state = loop.loss(window)
    with pytest.raises(ValueError, match=f"expected .Tensor.*, got {got}"):
        window.backward(loss, spoil(state))
    assert clean(loop)
    window.backward(loss, state)  # nothing has happened yet: the window can be mended


def test_a_changed_batch_is_noticed_however_the_core_takes_it():
    model = Model("QRNN")
    x, y = model.data(6)
    interface = dni.BackwardInterface(cases.synthesizer(HIDDEN)).double()
    loop = dni.windows(x, y, size=3, interface=interface)
    window = next(loop)
    window.backward(*model.loss(*window, window.state))
    window = next(loop)
    loss, state = model.loss(
        window.parts[0][:, :1], window.parts[1][:, :1], {"c": window.state["c"][:1]}
    )
    with pytest.raises(ValueError, match="or the batch changes, start a new loop"):
        window.backward(loss, state)


def test_a_state_brings_its_graph():
    loop = Loop()
    window = next(loop.windows())
    loss, state = loop.loss(window)
    with pytest.raises(RuntimeError, match="requires no grad. Was it detached"):
        window.backward(loss, tuple(part.detach() for part in state))
    assert clean(loop)


def test_a_state_is_made_of_tensors():
    loop = Loop()
    window = next(loop.windows())
    with pytest.raises(TypeError, match="dni.windows: a message is a tensor, or"):
        window.backward(loop.loss(window)[0], None)


def test_a_loss_is_a_scalar_with_a_graph():
    loop = Loop()
    window = next(loop.windows())
    loss, state = loop.loss(window)
    with pytest.raises(RuntimeError, match="expected a scalar loss"):
        window.backward(loss.expand(2), state)
    with pytest.raises(RuntimeError, match="expected a tensor that requires grad"):
        window.backward(loss.detach(), state)
    assert clean(loop)
    window.backward(loss, state)


def test_nan_in_a_windows_gradient_teaches_nothing():
    loop = Loop()
    windows = loop.windows()
    window = next(windows)
    window.backward(*loop.loss(window))
    before = loop.interface.objective.moments.clone()
    window = next(windows)
    loss, state = loop.loss(window)
    with pytest.raises(FloatingPointError, match="16 of 16 elements are NaN or Inf"):
        window.backward(loss * float("nan"), state)
    assert clean(loop)
    assert torch.equal(loop.interface.objective.moments, before)
    with pytest.raises(RuntimeError, match="After an error start a new loop"):
        next(windows)
    for window in loop.windows():
        window.backward(*loop.loss(window))


def test_what_stands_beside_the_network_is_of_its_kind():
    x, synthesizer = torch.zeros(4, 2), cases.synthesizer(3)
    with pytest.raises(TypeError, match=r"expected a dni.BackwardInterface as interface, got a B"):
        dni.windows(x, size=2, interface=synthesizer)
    interface = dni.BackwardInterface(synthesizer)
    with pytest.raises(TypeError, match=r"as auxiliary, got a BasicSynthesizer. Wrap a synth"):
        dni.windows(x, size=2, interface=interface, auxiliary=synthesizer)
    with pytest.raises(ValueError, match="expected an interface that makes them beside it"):
        dni.windows(x, size=2, auxiliary=dni.AuxiliaryTask(synthesizer))


def test_rows_that_have_ended_foresee_nothing():
    loop = Loop()
    task = dni.AuxiliaryTask(cases.synthesizer(2 * HIDDEN))
    seen = []
    task.send = lambda message, trigger: seen.append(message)
    for window in loop.windows(auxiliary=task, lengths=torch.tensor([9, 5])):
        window.backward(*loop.loss(window))
    (first, _), (last, _) = seen
    assert first[0, 0].abs().min() > 0
    assert bool((first[0, 1] == 0).all())
    assert bool((last == 0).all())


def test_a_forgotten_batch_first_is_warned_of():
    core = nn.GRU(INPUT, HIDDEN, batch_first=True)
    window = next(dni.windows(torch.randn(4, 9, INPUT), size=4))
    output, state = core(*window)
    with pytest.warns(UserWarning, match="got one of 4, .* Is batch_first=True meant"):
        window.backward(output.sum(), state)
