"""One regression for every message: its gradient, its scale, what it does not learn from."""

from __future__ import annotations

import re
import warnings

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import dni
from tests.cases import WIDTH, Chain, batch, gradients, synthesizer


def learn(interface, message, trigger):
    """The gradient that reaches the synthesizer's last bias."""
    interface.zero_grad()
    (interface(trigger.requires_grad_() * 1) * message).sum().backward()
    return interface.synthesizer.layers[-1].bias.grad.clone()


def made(**options):
    torch.manual_seed(1)
    return dni.BackwardInterface(synthesizer(), unlock=False, **options)


def test_the_raw_objective_is_the_mean_squared_error():
    interface, trigger, message = (
        made(normalize=False),
        torch.randn(3, WIDTH),
        torch.randn(3, WIDTH),
    )
    found = learn(interface, message, trigger)
    loss = F.mse_loss(interface.synthesizer(trigger.detach()), message)
    (expected,) = torch.autograd.grad(loss, interface.synthesizer.layers[-1].bias)
    torch.testing.assert_close(found, expected)


def test_a_scale_is_a_rate_for_adam():
    """Regression on m / r at a rate is regression on m at r times that rate, r times Adam's eps."""
    r, told = 1e-5, []
    trigger, messages = torch.randn(8, WIDTH).double(), torch.randn(20, 8, WIDTH).double()
    for scale, factor in ((1.0, 1.0), (r, r)):
        cut = dni.UnidirectionalInterface(dni.BasicSynthesizer(WIDTH).double(), normalize=False)
        optimizer = torch.optim.Adam(cut.parameters(), lr=1e-2 * factor, eps=1e-8 * factor)
        for message in messages:
            optimizer.zero_grad()
            cut.send(scale * message, trigger)
            optimizer.step()
        told.append(cut.receive(trigger) / scale)
    torch.testing.assert_close(*told, rtol=1e-9, atol=0.0)


@pytest.mark.parametrize("scale", [1e-9, 1e-5, 1.0, 1e5])
def test_the_normalized_objective_is_free_of_scale(scale):
    trigger, messages = torch.randn(3, WIDTH), torch.randn(4, 3, WIDTH)
    one, other = made(), made()
    for message in messages:
        torch.testing.assert_close(
            learn(one, message, trigger),
            learn(other, scale * message, trigger),
            rtol=1e-4,
            atol=1e-6,
        )
    torch.testing.assert_close(
        scale * one.receive(trigger), other.receive(trigger), rtol=1e-4, atol=0.0
    )


def test_the_layout_of_a_message_does_not_matter():
    trigger, message = torch.randn(5, 3, WIDTH), torch.randn(5, 3, WIDTH)
    batch_first = learn(made(), message, trigger)
    batch_second = learn(made(), message.transpose(0, 1), trigger.transpose(0, 1).detach())
    torch.testing.assert_close(batch_first, batch_second)


def test_send_and_a_cut_teach_the_same():
    trigger, message = torch.randn(3, WIDTH), torch.randn(3, WIDTH)
    cut, sent = made(), made()
    expected = learn(cut, message, trigger)
    sent.send(message, trigger)
    torch.testing.assert_close(sent.synthesizer.layers[-1].bias.grad, expected)
    torch.testing.assert_close(sent.objective.moments, cut.objective.moments)


def test_the_scale_is_the_root_mean_square_of_the_messages():
    interface = made()
    for _ in range(600):
        learn(interface, 3 * torch.randn(8, WIDTH), torch.randn(8, WIDTH))
    mean_square, weight = interface.objective.moments
    assert (mean_square / weight).sqrt().item() == pytest.approx(3, rel=0.05)


def test_a_scale_of_one_holds_until_the_first_message():
    interface, trigger = made(), torch.randn(3, WIDTH)
    assert torch.equal(interface.receive(trigger), interface.synthesizer(trigger).detach())


@pytest.mark.parametrize("uses", [150, 300])
def test_one_cut_may_be_used_at_every_step_of_a_long_sequence(uses):
    interface = made()
    for _ in range(5):
        h = torch.zeros(2, WIDTH, requires_grad=True)
        for _ in range(uses):
            h = interface(torch.tanh(h + 0.1))
        h.square().mean().backward()
        mean_square, weight = interface.objective.moments.tolist()
        assert 0 < weight <= uses / 100
        assert mean_square > 0
    assert all(torch.isfinite(parameter.grad).all() for parameter in interface.parameters())


@pytest.mark.parametrize("uses", [150, 300])
def test_messages_that_come_by_the_hundred_have_the_right_scale(uses):
    objective = made().objective
    for _ in range(6):
        snapshot = objective.snapshot()
        for _ in range(uses):
            message = 0.01 * torch.randn(8, WIDTH)
            objective.gradient(torch.zeros(8, WIDTH), message, snapshot, True, "here")
        mean_square, weight = objective.moments
        assert (mean_square / weight).sqrt().item() == pytest.approx(0.01, rel=0.2)


def test_an_empty_batch_teaches_nothing():
    for unlock in (True, False):
        interface = dni.BackwardInterface(synthesizer(), unlock=unlock)
        before = interface.objective.moments.clone()
        interface(torch.zeros(0, WIDTH, requires_grad=True) * 1).sum().backward()
        assert torch.equal(interface.objective.moments, before)
        assert all(not parameter.grad.any() for parameter in interface.parameters())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_the_scale_of_a_narrow_module_is_kept_in_float32(dtype):
    interface = made().to(dtype)
    assert interface.objective.moments.dtype == torch.float32
    for _ in range(500):
        message = 1e-3 * torch.randn(8, WIDTH).to(dtype)
        out = interface(torch.randn(8, WIDTH, dtype=dtype, requires_grad=True) * 1)
        out.backward(message)
    mean_square, weight = interface.objective.moments
    assert (mean_square / weight).sqrt().item() == pytest.approx(1e-3, rel=0.05)


def test_messages_that_are_all_zero_do_no_harm():
    interface, trigger = made(), torch.randn(3, WIDTH)
    for _ in range(5000):
        interface.send(torch.zeros(3, WIDTH), trigger)
    found = learn(interface, torch.randn(3, WIDTH), trigger)
    assert torch.isfinite(found).all()
    assert found.abs().max() < 10


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf"), 1e30])
@pytest.mark.parametrize("normalize", [True, False])
def test_a_message_that_is_not_finite_is_named_and_not_learnt(bad, normalize):
    interface = dni.BackwardInterface(
        synthesizer(), unlock=False, normalize=normalize, name="encoder.2"
    )
    message = torch.ones(2, WIDTH)
    message[0, 0] = bad
    before = {name: tensor.clone() for name, tensor in interface.state_dict().items()}
    out = interface(torch.randn(2, WIDTH, requires_grad=True) * 1)
    with pytest.raises(FloatingPointError, match=r"'encoder.2': .*nonfinite='skip'"):
        out.backward(message)
    assert all(gradient is None for gradient in gradients(interface).values())
    assert all(torch.equal(before[name], now) for name, now in interface.state_dict().items())
    with pytest.raises(FloatingPointError, match="must be finite"):
        interface.send(message, torch.randn(2, WIDTH))


def test_a_skipped_message_leaves_the_synthesizer_alone_and_part_a_learning():
    interface = dni.BackwardInterface(synthesizer(), unlock=False, nonfinite="skip")
    before = {name: tensor.clone() for name, tensor in interface.state_dict().items()}
    h = torch.randn(2, WIDTH, requires_grad=True)
    interface(h).backward(torch.full((2, WIDTH), float("nan")))
    assert torch.isfinite(h.grad).all()
    assert all(gradient is None for gradient in gradients(interface).values())
    assert all(torch.equal(before[name], now) for name, now in interface.state_dict().items())
    interface(h).sum().backward()
    assert interface.synthesizer.layers[-1].bias.grad is not None


def test_a_nan_in_the_loss_reaches_no_synthesizer():
    model = Chain(lambda: dni.BackwardInterface(synthesizer(), unlock=False, nonfinite="skip"))
    x, y = batch()
    (F.cross_entropy(model(x), y) * float("nan")).backward()
    assert model.layers[2].weight.grad.isnan().any()
    for name, gradient in gradients(model).items():
        if name.startswith(("cuts.1", "layers.0")):
            assert gradient is None or torch.isfinite(gradient).all(), name


def test_a_small_message_survives_half_precision():
    interface = dni.BackwardInterface(dni.BasicSynthesizer(WIDTH).to(torch.bfloat16), unlock=False)
    h = torch.randn(4, WIDTH, dtype=torch.bfloat16, requires_grad=True)
    interface(h).backward(torch.full((4, WIDTH), 1e-7, dtype=torch.bfloat16))
    gradient = interface.synthesizer.input_trigger.bias.grad
    torch.testing.assert_close(
        gradient.float(), torch.full((WIDTH,), -2 / WIDTH), rtol=0.02, atol=0
    )


def test_an_older_librarys_weights_load_without_normalize():
    state = {f"synthesizer.{name}": tensor for name, tensor in synthesizer().state_dict().items()}
    dni.BackwardInterface(synthesizer(), normalize=False).load_state_dict(state)
    with pytest.raises(RuntimeError, match="objective.moments"):
        dni.BackwardInterface(synthesizer()).load_state_dict(state)
    dni.BackwardInterface(synthesizer()).load_state_dict(state, strict=False)


def test_the_scale_follows_the_module():
    interface = dni.BackwardInterface(synthesizer()).to(torch.float64)
    assert interface.objective.moments.dtype == torch.float64
    assert nn.Sequential(interface).to("meta")[0].objective.moments.device.type == "meta"


@pytest.mark.parametrize(("factor", "warned"), [(1.0, False), (65536.0, True)])
def test_an_own_scale_that_is_not_that_of_the_messages_is_warned_of_once(factor, warned):
    torch.manual_seed(0)
    last, cut = nn.Linear(WIDTH, 4), dni.BackwardInterface(dni.LossSynthesizer(WIDTH, 4))
    optimizer = torch.optim.Adam(cut.parameters())
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for _ in range(300):
            x, y = batch()
            optimizer.zero_grad()
            with dni.synthesizer_context(y), dni.defer_backward():
                dni.backward(F.cross_entropy(last(cut(x.requires_grad_() * 1)), y) * factor)
            optimizer.step()
    expected = "expected messages of that scale, but for a hundred .* the loss a sum, or multi.*"
    found = [one for one in caught if re.search(expected, str(one.message))]
    assert len(found) == warned
