"""Both forms of an interface give the gradients of the arithmetic written out by hand."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import dni
from dni._objective import PRIOR, RATE
from tests import cases
from tests.cases import WIDTH, Chain

NETWORKS = {
    "chain": Chain,
    "three cuts": lambda cut: Chain(cut, cuts=3),
    "shared synthesizer": cases.SharedSynthesizer,
    "used twice": cases.UsedTwice,
    "skip connection": cases.Skip,
}
STEPS = 5


class ByHand(nn.Module):
    """A cut in torch alone: predict; go on from a leaf; send, and regress on its gradient."""

    def __init__(self, normalize):
        super().__init__()
        self.synthesizer = cases.synthesizer()
        self.normalize = normalize
        self.mean_square = self.weight = PRIOR

    def forward(self, h):
        leaf = h.detach().requires_grad_()
        self.pending.append(
            (self, h, self.synthesizer(h.detach()), leaf, self.mean_square, self.weight)
        )
        return leaf

    def settle(self, h, prediction, leaf, mean_square, weight):
        real, sent = leaf.grad, prediction.detach()
        if self.normalize:
            sent = sent * (mean_square / weight) ** 0.5
            change = RATE * (real.double().square().mean().item() - mean_square)
            self.mean_square += change
            self.weight += RATE * (1 - weight)
            real = real / ((mean_square + change) / (weight + RATE * (1 - weight))) ** 0.5
        F.mse_loss(prediction, real).backward()
        h.backward(sent, retain_graph=True)


def hand_step(model, x, y):
    pending = []
    for cut in model.cuts:
        cut.pending = pending
    F.cross_entropy(model(x), y).backward(retain_graph=True)
    for cut, *rest in reversed(pending):
        cut.settle(*rest)


def step(model, x, y):
    F.cross_entropy(model(x), y).backward()


def interface(unlock, normalize):
    return lambda: dni.BackwardInterface(cases.synthesizer(), unlock=unlock, normalize=normalize)


def histories(networks, steps, dtype, accumulate=1):
    """The gradients of each network after each of a few steps, from one start."""
    found = []
    for network, take in zip(networks, steps, strict=True):
        torch.manual_seed(3)
        model = network().to(dtype)
        optimizer = torch.optim.SGD(model.parameters(), 0.1)
        torch.manual_seed(4)
        history = []
        for _ in range(STEPS):
            optimizer.zero_grad()
            for _ in range(accumulate):
                x, y = cases.batch()
                take(model, x.to(dtype), y)
            history.append({k: v for k, v in cases.gradients(model).items() if v is not None})
            optimizer.step()
        found.append(history)
    return found


def assert_same(one, other, tolerance):
    for a, b in zip(one, other, strict=True):
        assert a.keys() == b.keys()
        for name in a:
            torch.testing.assert_close(a[name], b[name], rtol=tolerance, atol=tolerance, msg=name)


@pytest.mark.parametrize("accumulate", [1, 3])
@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("name", NETWORKS)
def test_one_graph_equals_the_arithmetic_by_hand(name, dtype, normalize, accumulate):
    network = NETWORKS[name]
    hand, ours = histories(
        [lambda: network(lambda: ByHand(normalize)), lambda: network(interface(False, normalize))],
        [hand_step, step],
        dtype,
        accumulate,
    )
    assert_same(ours, hand, 1e-14 if dtype == torch.float64 else 1e-6)


@pytest.mark.parametrize("accumulate", [1, 3])
@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("name", [name for name in NETWORKS if name != "skip connection"])
def test_both_forms_are_equal(name, dtype, normalize, accumulate):
    network = NETWORKS[name]
    early, late = histories(
        [lambda: network(interface(True, normalize)), lambda: network(interface(False, normalize))],
        [step, step],
        dtype,
        accumulate,
    )
    assert_same(early, late, 1e-14 if dtype == torch.float64 else 1e-6)


def test_in_one_graph_zero_grad_may_stand_between_forward_and_backward():
    def late_zero_grad(model, x, y):
        loss = F.cross_entropy(model(x), y)
        model.zero_grad()
        loss.backward()

    usual, late = histories(
        [lambda: Chain(interface(False, True))] * 2, [step, late_zero_grad], torch.float64
    )
    assert_same(usual, late, 0)


def test_deferring_makes_the_early_form_one_graph():
    def deferred(model, x, y):
        with dni.defer_backward():
            loss = F.cross_entropy(model(x), y)
            dni.backward(loss)

    usual, collected = histories(
        [lambda: Chain(interface(True, True))] * 2, [step, deferred], torch.float64
    )
    assert_same(usual, collected, 1e-14)


def test_no_gradient_of_the_regression_reaches_the_trigger():
    cut = dni.BackwardInterface(cases.synthesizer(), unlock=False, factor=0.0)
    h = torch.randn(3, WIDTH, requires_grad=True)
    cut(h).square().sum().backward()
    assert torch.equal(h.grad, torch.zeros_like(h))
    assert cut.synthesizer.input_trigger.weight.grad.abs().sum() > 0


@pytest.mark.parametrize("unlock", [True, False])
def test_a_bidirectional_interface_teaches_both_synthesizers(unlock):
    forward, backward = cases.synthesizer(trigger_dim=3), cases.synthesizer()
    interface = dni.BidirectionalInterface(forward, backward, unlock=unlock, normalize=False)
    x, h = torch.randn(5, 3), torch.randn(5, WIDTH, requires_grad=True)
    weights = torch.randn(5, WIDTH)
    (interface(h * 1, x) * weights).sum().backward()

    torch.testing.assert_close(h.grad, backward(h).detach())
    expected = [
        *torch.autograd.grad(F.mse_loss(forward(x), h.detach()), forward.parameters()),
        *torch.autograd.grad(F.mse_loss(backward(h.detach()), weights), backward.parameters()),
    ]
    learnt = [*forward.parameters(), *backward.parameters()]
    for parameter, gradient in zip(learnt, expected, strict=True):
        torch.testing.assert_close(parameter.grad, gradient)


@pytest.mark.parametrize("unlock", [True, False])
def test_send_and_receive_are_the_two_halves_of_a_call(unlock):
    message, trigger = torch.randn(4, WIDTH), torch.randn(4, 3)
    together = dni.ForwardInterface(cases.synthesizer(trigger_dim=3), unlock=unlock)
    apart = dni.ForwardInterface(cases.synthesizer(trigger_dim=3))
    apart.load_state_dict(together.state_dict())
    received = apart.receive(trigger)
    apart.send(message, trigger)
    output = together(message.requires_grad_(), trigger)
    (output * torch.ones((), requires_grad=True)).sum().backward()
    assert torch.equal(output, received)
    assert message.grad is None
    for one, other in zip(together.parameters(), apart.parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad)
