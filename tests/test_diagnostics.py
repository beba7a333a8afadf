"""A monitor's numbers are those of the explicit formulas; it changes nothing."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F

import dni
from dni.diagnostics import Monitor
from tests.cases import WIDTH, Chain, Fixed, batch, compiles, synthesizer


@pytest.mark.parametrize("unlock", [True, False])
def test_what_is_measured_is_what_the_formulas_say(unlock):
    made = synthesizer()
    interface = dni.BackwardInterface(made, unlock=unlock, normalize=False)
    trigger, message = torch.randn(3, WIDTH), torch.randn(3, WIDTH)
    with Monitor(interface) as monitor:
        for sign in (1, -1):
            interface(trigger.clone().requires_grad_() * 1).backward(sign * message)
        (measured,) = monitor.read().values()
        assert monitor.read()[""].messages == 0
    prediction = made(trigger).detach()
    cosine = F.cosine_similarity(prediction.flatten(), message.flatten(), dim=0)
    losses = [F.mse_loss(prediction, sign * message) for sign in (1, -1)]
    assert measured.messages == 2
    assert measured.cosine == pytest.approx(0, abs=1e-6)
    assert abs(cosine) > 1e-3
    assert measured.loss == pytest.approx(sum(losses).item() / 2, rel=1e-5)
    assert measured.norm_ratio == pytest.approx(
        (prediction.norm() / message.norm()).item(), rel=1e-5
    )


def test_a_perfect_prediction_has_cosine_one():
    message = torch.randn(3, WIDTH)
    fixed = Fixed(torch.nn.Parameter(message.clone()))
    interface = dni.BackwardInterface(fixed, unlock=False, normalize=False)
    with Monitor(interface) as monitor:
        interface(torch.randn(3, WIDTH, requires_grad=True)).backward(message)
        (measured,) = monitor.read().values()
    assert measured[:3] == pytest.approx((0, 1, 1), abs=1e-6)


def test_zero_messages_do_not_count():
    interface = dni.BackwardInterface(synthesizer(), unlock=False)
    with Monitor(interface) as monitor:
        interface(torch.randn(3, WIDTH, requires_grad=True)).backward(torch.zeros(3, WIDTH))
        assert monitor.read()[""].messages == 0


def test_a_frozen_synthesizer_is_measured_too():
    interface = dni.BackwardInterface(synthesizer().requires_grad_(False), unlock=False)
    moments = interface.objective.moments.clone()
    with Monitor(interface) as monitor:
        h = torch.randn(3, WIDTH, requires_grad=True)
        interface(h).sum().backward()
        assert monitor.read()[""].messages == 1
    assert torch.equal(interface.objective.moments, moments)


@pytest.mark.parametrize("unlock", [True, False])
def test_each_message_of_a_pair_of_interfaces_counts_once(unlock):
    pair = dni.BidirectionalInterface(synthesizer(trigger_dim=3), synthesizer(), unlock=unlock)
    with Monitor(pair) as monitor:
        h = torch.randn(2, WIDTH, requires_grad=True)
        pair(h * 1, torch.randn(2, 3)).sum().backward()
        assert [measured.messages for measured in monitor.read().values()] == [1, 1]


def test_a_copy_of_a_measured_model_is_not_measured():
    interface = dni.BackwardInterface(synthesizer())
    with Monitor(interface):
        twin = copy.deepcopy(interface)
        with Monitor(twin):
            pass
        assert interface.objective.record is not None


def test_one_monitor_at_a_time_and_only_while_it_is_open():
    interface = dni.BackwardInterface(synthesizer())
    with Monitor(interface) as monitor:
        with pytest.raises(RuntimeError, match="Close that one first"):
            Monitor(interface)
        monitor.read()
    with pytest.raises(RuntimeError, match="Read it before"):
        monitor.read()


def test_a_monitor_is_not_saved_and_leaves_no_trace():
    model = Chain(lambda: dni.BackwardInterface(synthesizer(), unlock=False))
    keys = set(model.state_dict())
    with Monitor(model) as monitor:
        assert set(monitor.read()) == {"cuts.0", "cuts.1"}
        assert set(model.state_dict()) == keys
    assert model.cuts[0].objective.record is None
    x, y = batch()
    F.cross_entropy(model(x), y).backward()


@pytest.mark.parametrize("backend", [pytest.param("aot_eager", marks=compiles)])
def test_a_compiled_model_is_measured_too(backend):
    torch.compiler.reset()
    model = Chain(lambda: dni.BackwardInterface(synthesizer(), unlock=False))
    fast = torch.compile(model, fullgraph=True, backend=backend)
    x, y = batch()
    measured = []
    for net in (model, fast):
        with Monitor(model) as monitor:
            F.cross_entropy(net(x), y).backward()
            measured.append(monitor.read()["cuts.1"])
    assert measured[0] == pytest.approx(measured[1], rel=1e-4)
