"""With the true future for a synthesizer, windows give the full unroll's gradients."""

from __future__ import annotations

import pytest
import torch

import dni
from dni import _trees
from tests import cases
from tests.recurrent.networks import BATCH, NETWORKS, Future, Model, zeros_like

STEPS = 7


def keep_gradients(state):
    """What arrives at the tensors of a window's first state, once it has."""
    found = []
    for leaf in state:
        leaf.register_hook(found.append)
    return lambda: found


def unroll(model, x, y, size, mask=None, state=None):
    """The full unroll, by windows: their losses, and the states between them.

    The next window starts from copies: an LSTM's ``h`` may have been computed from its
    ``c``, and what is asked for is the gradient of each as the next window sees it.
    """
    time = int(model.batch_first)
    losses, states = [], []
    masks = [None] * STEPS if mask is None else mask.split(size, time)
    for x_k, y_k, mask_k in zip(x.split(size, time), y.split(size, time), masks, strict=False):
        loss, state = model.loss(x_k, y_k, state, mask_k)
        leaves, rebuild = _trees.flatten(state, "test")
        state = rebuild(leaf.clone() for leaf in leaves)
        losses.append(loss)
        states.append(state)
    return losses, states


def gradient(loss, state):
    leaves, _ = _trees.flatten(state, "test")
    return torch.autograd.grad(loss, leaves, retain_graph=True, materialize_grads=True)


def truth(model, x, y, size, mask=None, state=None):
    """The full unroll's parameter gradients, and an oracle for its windows."""
    losses, states = unroll(model, x, y, size, mask, state)
    oracle = Future()
    for index, boundary in enumerate(states[:-1]):
        oracle.learn(boundary, gradient(sum(losses[index + 1 :]), boundary))
    oracle.learn(states[-1], zeros_like(states[-1]))
    sum(losses).backward()
    expected = cases.gradients(model)
    model.zero_grad()
    return expected, oracle


def assert_equal_gradients(model, expected):
    for name, found in cases.gradients(model).items():
        torch.testing.assert_close(found, expected[name], rtol=1e-12, atol=1e-12, msg=name)


@pytest.mark.parametrize("size", [1, 2, 3, 7])
@pytest.mark.parametrize("name", NETWORKS)
def test_the_loop_gives_the_gradients_of_the_full_unroll(name, size):
    model = Model(name)
    x, y = model.data(STEPS)
    expected, oracle = truth(model, x, y, size)
    interface = dni.BackwardInterface(oracle)
    for window in dni.windows(x, y, size=size, interface=interface, batch_first=model.batch_first):
        window.backward(*model.loss(*window, window.state))
    assert_equal_gradients(model, expected)


@pytest.mark.parametrize("name", NETWORKS)
def test_so_does_the_loop_written_by_hand(name):
    model = Model(name)
    x, y = model.data(STEPS)
    expected, oracle = truth(model, x, y, 3)
    interface, state = dni.BackwardInterface(oracle), None
    time = int(model.batch_first)
    for x_k, y_k in zip(x.split(3, time), y.split(3, time), strict=True):
        with dni.defer_backward():
            if state is not None:
                leaves, rebuild = _trees.flatten(state, "test")
                state = interface.make_trigger(rebuild(leaf.detach() for leaf in leaves))
            loss, state = model.loss(x_k, y_k, state)
            interface.backward(state)
            dni.backward(loss)
    assert_equal_gradients(model, expected)


@pytest.mark.parametrize("loss_first", [True, False])
@pytest.mark.parametrize("name", NETWORKS)
def test_so_do_three_lines_in_both_orders(name, loss_first):
    model = Model(name)
    x, y = model.data(STEPS)
    expected, oracle = truth(model, x, y, 3)
    synth = dni.Synthesizer(1, is_lstm="LSTM" in name or name == "batch first")
    synth.interface.synthesizer = oracle
    state, time = None, int(model.batch_first)
    for x_k, y_k in zip(x.split(3, time), y.split(3, time), strict=True):
        loss, state = model.loss(x_k, y_k, state)
        if loss_first:
            loss.backward(retain_graph=True)
            state = synth.backward_synthetic(state)
        else:
            state = synth.backward_synthetic(state, loss)
            loss.backward()
    synth.step()
    assert_equal_gradients(model, expected)


@pytest.mark.parametrize("name", ["LSTM", "batch first", "QRNN", "ragged list"])
@pytest.mark.parametrize("lengths", [[7, 2], [3, 6], [4, 4]])
def test_rows_of_different_length_end_where_they_end(name, lengths):
    model = Model(name)
    x, y = model.data(STEPS)
    lengths, time = torch.tensor(lengths), int(model.batch_first)
    longest = int(lengths.max())  # the loop stops where the longest row does
    mask = torch.arange(longest)[:, None] < lengths
    cut = (x.narrow(time, 0, longest), y.narrow(time, 0, longest))
    expected, oracle = truth(model, *cut, 3, mask.t() if model.batch_first else mask)
    interface = dni.BackwardInterface(oracle)
    loop = dni.windows(
        x, y, size=3, interface=interface, lengths=lengths, batch_first=model.batch_first
    )
    assert len(loop) == -(-longest // 3)
    for window in loop:
        window.backward(*model.loss(*window, window.state, window.mask))
    assert_equal_gradients(model, expected)


def test_rows_that_have_ended_have_no_auxiliary_loss_at_their_state():
    """Lengths and the auxiliary task: only rows inside their sequence receive its gradient."""
    model = Model("LSTM")
    x, y = model.data(STEPS)
    lengths = torch.tensor([7, 3])
    task = dni.AuxiliaryTask(cases.synthesizer(8), weight=50.0).double()
    interface = dni.BackwardInterface(dni.BasicSynthesizer(8).double())  # new: predicts 0
    for window in dni.windows(
        x, y, size=3, interface=interface, auxiliary=task, lengths=lengths, state=model.zeros()
    ):
        received = keep_gradients(window.state)
        window.backward(*model.loss(*window, window.state, window.mask))
        for gradient in received():
            norms = gradient.norm(dim=(0, 2))
            assert norms[0] > 0
            assert (norms[1] > 0) == (window.start < 3)


def test_a_learnt_first_state_receives_its_gradient():
    model = Model("GRU")
    x, y = model.data(STEPS)
    start = torch.randn(1, BATCH, 4).double().requires_grad_()
    expected, oracle = truth(model, x, y, 3, state=start)
    expected_start, start.grad = start.grad, None
    oracle.learn(start, zeros_like(start))
    for window in dni.windows(x, y, size=3, interface=dni.BackwardInterface(oracle), state=start):
        window.backward(*model.loss(*window, window.state))
    assert_equal_gradients(model, expected)
    torch.testing.assert_close(start.grad, expected_start)


def test_pieces_of_a_stream_join_without_a_seam():
    model = Model("LSTM")
    x, y = model.data(STEPS)
    expected, oracle = truth(model, x, y, 2)
    interface, state = dni.BackwardInterface(oracle), None
    for piece in (slice(0, 4), slice(4, None)):
        loop = dni.windows(
            x[piece], y[piece], size=2, interface=interface, state=state, ends=piece.stop is None
        )
        for window in loop:
            window.backward(*model.loss(*window, window.state))
        state = loop.state
    assert_equal_gradients(model, expected)


@pytest.mark.parametrize("name", ["LSTM", "GRUCell", "ragged list"])
def test_the_auxiliary_task_is_a_loss_like_any_other(name):
    """Its gradient reaches the core as the full unroll of all losses, its own too, has it."""
    model = Model(name)
    x, y = model.data(STEPS)
    losses, states = unroll(model, x, y, 2)
    width = _trees.join(zeros_like(states[0]), "test").shape[-1]
    task = dni.AuxiliaryTask(cases.synthesizer(width), weight=0.3, normalize=False).double()
    oracle, after = Future(), []
    ahead = zeros_like(states[-1])  # the synthetic gradient at the end: none
    oracle.learn(states[-1], ahead)
    for index in range(len(states) - 2, -1, -1):
        boundary, _ = _trees.flatten(states[index], "test")
        foreseen = task.synthesizer(_trees.join(boundary, "test"), None)
        error = (foreseen - _trees.join(ahead, "test")).square().mean()
        after.append(0.3 * error)
        ahead = gradient(sum(losses[index + 1 :]) + sum(after), boundary)
        oracle.learn(boundary, ahead)
    (sum(losses) + sum(after)).backward()
    expected = cases.gradients(model), cases.gradients(task)
    model.zero_grad()
    task.zero_grad()

    interface = dni.BackwardInterface(oracle)
    for window in dni.windows(x, y, size=2, interface=interface, auxiliary=task):
        window.backward(*model.loss(*window, window.state))
    assert_equal_gradients(model, expected[0])
    assert_equal_gradients(task, expected[1])


@pytest.mark.parametrize("mix", [1.0, 0.25])
def test_mix_leaves_that_share_of_the_future_out(mix):
    """The real gradient of the future never comes: with mix=1 this is truncated BPTT."""
    model = Model("LSTM")
    x, y = model.data(STEPS)
    expected = {}
    for share in (1.0, 0.0):
        _, oracle = truth(model, x, y, 3)
        interface = dni.BackwardInterface(oracle, unlock=False, factor=1.0 - share)
        for window in dni.windows(x, y, size=3, interface=interface):
            window.backward(*model.loss(*window, window.state))
        expected[share] = cases.gradients(model)
        model.zero_grad()
    _, oracle = truth(model, x, y, 3)
    interface = dni.BackwardInterface(oracle, unlock=False, mix=mix)
    for window in dni.windows(x, y, size=3, interface=interface):
        window.backward(*model.loss(*window, window.state))
    found = cases.gradients(model)
    for name in ("core.weight_ih_l0", "core.weight_hh_l0", "readout.weight"):
        blend = torch.lerp(expected[0.0][name], expected[1.0][name], mix)
        torch.testing.assert_close(found[name], blend, rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize("name", ["LSTM", "batch first"])
def test_pieces_with_lengths_join_without_a_seam(name):
    """In a piece that goes on, a row as long as the piece goes on, a shorter one has ended."""
    model = Model(name)
    x, y = model.data(STEPS)
    lengths, time = torch.tensor([7, 3]), int(model.batch_first)
    mask = torch.arange(STEPS)[:, None] < lengths
    expected, oracle = truth(model, x, y, 2, mask.t() if time else mask)
    interface, state = dni.BackwardInterface(oracle), None
    for start, stop in ((0, 4), (4, 7)):
        loop = dni.windows(
            x.narrow(time, start, stop - start),
            y.narrow(time, start, stop - start),
            size=2,
            interface=interface,
            state=state,
            batch_first=model.batch_first,
            lengths=(lengths - start).clamp(1, stop - start),
            ends=stop == STEPS,
        )
        for window in loop:
            inside = mask[start + window.start :][: len(window.mask.t() if time else window.mask)]
            window.backward(*model.loss(*window, window.state, inside.t() if time else inside))
        state = loop.state
    assert_equal_gradients(model, expected)


def test_without_an_interface_the_loop_is_truncated_bptt():
    model = Model("LSTM")
    x, y = model.data(STEPS)
    state = None
    for x_k, y_k in zip(x.split(3), y.split(3), strict=True):
        loss, state = model.loss(x_k, y_k, state)
        loss.backward()
        state = tuple(part.detach() for part in state)
    expected = cases.gradients(model)
    model.zero_grad()
    for window in dni.windows(x, y, size=3):
        window.backward(*model.loss(*window, window.state))
    assert_equal_gradients(model, expected)
