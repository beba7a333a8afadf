"""With an oracle for a synthesizer, a cut network trains as if it were not cut."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import dni
from tests import cases
from tests.cases import CLASSES, WIDTH, Chain, Oracle

CONNECTED = [Chain, cases.SharedSynthesizer, cases.UsedTwice, cases.Skip]


def assert_equal_gradients(model, expected):
    for name, gradient in cases.gradients(model).items():
        torch.testing.assert_close(gradient, expected[name], rtol=0, atol=1e-15, msg=name)


def oracle_cut(unlock):
    return lambda: dni.BackwardInterface(Oracle([]), unlock=unlock)


def teach(model, found):
    """Give every oracle the messages of its own cuts, in the order they will be asked."""
    for index, cut in enumerate(model.cuts):
        cut.synthesizer.messages.append(found[index])


@pytest.mark.parametrize("network", CONNECTED)
def test_a_true_gradient_gives_plain_gradients_in_one_graph(network):
    model = network(oracle_cut(unlock=False)).double()
    x, y = cases.batch()
    x = x.double()
    expected = cases.plain_gradients(model, x, y)
    teach(model, cases.messages(model, x, y))
    F.cross_entropy(model(x), y).backward()
    assert_equal_gradients(model, expected)


def test_a_true_gradient_gives_plain_gradients_when_sent_early():
    model = Chain(oracle_cut(unlock=True)).double()
    x, y = cases.batch()
    x = x.double()
    expected = cases.plain_gradients(model, x, y)
    teach(model, cases.messages(model, x, y))
    output = model(x)
    early = cases.gradients(model)
    assert early["layers.0.weight"] is not None
    assert early["layers.2.weight"] is None
    F.cross_entropy(output, y).backward()
    assert_equal_gradients(model, expected)


@pytest.mark.parametrize("unlock", [True, False])
def test_true_messages_make_a_bidirectional_interface_invisible(unlock):
    part_a, part_b = nn.Linear(3, WIDTH).double(), nn.Linear(WIDTH, CLASSES).double()
    x, y = torch.randn(5, 3).double(), torch.randint(CLASSES, (5,))
    h = part_a(x)
    loss = F.cross_entropy(part_b(h), y)
    (message,) = torch.autograd.grad(loss, h, retain_graph=True)
    loss.backward()
    expected = [parameter.grad.clone() for parameter in part_a.parameters()]
    part_a.zero_grad()
    interface = dni.BidirectionalInterface(Oracle([h.detach()]), Oracle([message]), unlock=unlock)
    F.cross_entropy(part_b(interface(part_a(x), x)), y).backward()
    for parameter, gradient in zip(part_a.parameters(), expected, strict=True):
        torch.testing.assert_close(parameter.grad, gradient, rtol=0, atol=1e-15)


def test_observing_is_plain_backpropagation_bit_for_bit():
    torch.manual_seed(1)
    model = Chain(lambda: dni.BackwardInterface(cases.synthesizer(), unlock=False, mix=1.0))
    plain = copy.deepcopy(model)
    plain.cuts = nn.ModuleList(nn.Identity() for _ in plain.cuts)
    optimizers = [torch.optim.Adam(net.parameters(), 1e-2) for net in (model, plain)]
    for _ in range(50):
        x, y = cases.batch()
        for net, optimizer in zip((model, plain), optimizers, strict=True):
            optimizer.zero_grad()
            F.cross_entropy(net(x), y).backward()
            optimizer.step()
    for name, parameter in plain.named_parameters():
        assert torch.equal(parameter, model.get_parameter(name)), name


def test_observing_survives_a_synthesizer_that_sends_nan():
    bad = cases.synthesizer()
    nn.init.constant_(bad.layers[-1].bias, float("nan"))
    model = Chain(lambda: dni.BackwardInterface(bad, unlock=False, mix=1.0))
    x, y = cases.batch()
    expected = cases.plain_gradients(model, x, y)
    F.cross_entropy(model(x), y).backward()
    assert torch.equal(model.layers[0].weight.grad, expected["layers.0.weight"])


def test_mix_and_factor_weigh_what_is_sent():
    model = Chain(lambda: dni.BackwardInterface(Oracle([]), unlock=False), cuts=1).double()
    x, y = cases.batch()
    x = x.double()
    expected = cases.plain_gradients(model, x, y)["layers.0.weight"]
    (message,) = cases.messages(model, x, y)
    model.cuts[0].mix, model.cuts[0].factor = 0.25, 0.1
    model.cuts[0].synthesizer.messages.append(20 * message)
    F.cross_entropy(model(x), y).backward()
    # 0.25 g + 0.75 * 0.1 * 20 g
    torch.testing.assert_close(model.layers[0].weight.grad, 1.75 * expected)


@pytest.mark.parametrize("unlock", [True, False])
def test_structures_of_tensors_pass_through(unlock):
    cut = dni.BackwardInterface(Oracle([]), unlock=unlock)
    a, b = (torch.randn(2, width, dtype=torch.float64, requires_grad=True) for width in (3, 4))
    message = torch.randn(2, 7, dtype=torch.float64)
    cut.synthesizer.messages.append(message)
    out = cut({"h": (a * 1, [b * 1])})
    assert torch.equal(out["h"][0], a)
    assert torch.equal(out["h"][1][0], b)
    (out["h"][0].sum() + out["h"][1][0].sum()).backward()
    assert torch.equal(a.grad, message[:, :3])
    assert torch.equal(b.grad, message[:, 3:])


class Recurrent(nn.Module):
    """An LSTM over windows, with the gradient of the future known."""

    def __init__(self):
        super().__init__()
        self.core, self.output = nn.LSTM(3, WIDTH), nn.Linear(WIDTH, 1)

    def loss(self, x, state):
        out, state = self.core(x, state)
        return self.output(out).square().sum(), state


@pytest.mark.parametrize("window", [1, 2, 3, 6])
def test_windows_with_a_true_future_give_the_full_unroll(window):
    model = Recurrent().double()
    x = torch.randn(6, 2, 3).double()
    zero = tuple(torch.zeros(1, 2, WIDTH).double() for _ in "hc")
    parts = x.split(window)

    states, losses, state = [], [], zero
    for part in parts:
        loss, state = model.loss(part, state)
        states.append(state)
        losses.append(loss)
    future = [
        torch.cat(torch.autograd.grad(sum(losses[i + 1 :]), state, retain_graph=True), dim=-1)
        for i, state in enumerate(states[:-1])
    ]
    sum(losses).backward()
    expected = cases.gradients(model)
    model.zero_grad()

    nothing = torch.zeros(1, 2, 2 * WIDTH).double()
    asked = [message for gradient in [*future, nothing] for message in (nothing, gradient)]
    interface = dni.BackwardInterface(Oracle(asked))
    state = zero
    for part in parts:
        with dni.defer_backward():
            start = interface.make_trigger(tuple(tensor.detach() for tensor in state))
            loss, state = model.loss(part, start)
            interface.backward(state)
            dni.backward(loss)
    for name, gradient in cases.gradients(model).items():
        torch.testing.assert_close(gradient, expected[name], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    "interface",
    [
        dni.BackwardInterface(cases.Fixed(None)),
        dni.BackwardInterface(cases.Fixed(None), unlock=False),
        dni.ForwardInterface(cases.Fixed(None)),
        dni.BidirectionalInterface(cases.Fixed(None), cases.Fixed(None)),
    ],
    ids=lambda interface: type(interface).__name__,
)
def test_eval_and_no_grad_are_the_identity_and_ask_no_synthesizer(interface):
    h = torch.randn(2, WIDTH, requires_grad=True)
    arguments = (h,) if isinstance(interface, dni.BackwardInterface) else (h, h)
    interface.eval()
    assert interface(*arguments) is h
    interface.train()
    with torch.no_grad():
        assert interface(*arguments) is h
    with torch.inference_mode():
        assert interface(*arguments) is h
