"""Local losses: the message is their gradient, and they train their heads."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import dni
from tests.cases import compiles

LABELS = torch.tensor([0, 1, 2, 0, 1])


def interface(head, unlock=False, **options):
    made = dni.LocalLossSynthesizer(head, F.cross_entropy)
    return dni.BackwardInterface(made, unlock=unlock, **options)


@pytest.mark.parametrize("unlock", [True, False])
def test_below_the_cut_everything_learns_from_the_local_loss(unlock):
    below, head, above = nn.Linear(4, 6), nn.Linear(6, 3), nn.Linear(6, 3)
    x = torch.randn(5, 4)
    local = F.cross_entropy(head(below(x)), LABELS)
    known = list(below.parameters()) + list(head.parameters())
    expected = torch.autograd.grad(local, known)
    with dni.synthesizer_context(LABELS):
        h = interface(head, unlock)(below(x))
    F.cross_entropy(above(h), LABELS).backward()
    for parameter, gradient in zip(known, expected, strict=True):
        torch.testing.assert_close(parameter.grad, gradient)


@pytest.mark.parametrize("unlock", [True, False])
def test_a_head_that_is_the_rest_of_the_network_is_an_oracle(unlock):
    """Transparency: then the local loss is the loss, and so are all gradients."""
    below = nn.Sequential(nn.Linear(4, 6), nn.Tanh()).double()
    above = nn.Sequential(nn.Linear(6, 6), nn.Tanh(), nn.Linear(6, 3)).double()
    x = torch.randn(5, 4).double()
    loss = F.cross_entropy(above(below(x)), LABELS)
    expected = torch.autograd.grad(loss, list(below.parameters()))
    cut = interface(copy.deepcopy(above), unlock)
    with dni.synthesizer_context(LABELS):
        F.cross_entropy(above(cut(below(x))), LABELS).backward()
    for parameter, gradient in zip(below.parameters(), expected, strict=True):
        torch.testing.assert_close(parameter.grad, gradient, rtol=1e-12, atol=1e-15)


def test_mix_and_factor_weigh_what_is_sent_and_not_what_the_head_learns():
    below, above, x = nn.Linear(4, 6), nn.Linear(6, 3), torch.randn(5, 4)
    heads, sent = [], []
    for options in ({}, {"factor": 0.5}, {"mix": 1.0}):
        torch.manual_seed(0)
        heads.append(nn.Linear(6, 3))
        below.zero_grad()
        with dni.synthesizer_context(LABELS):
            h = interface(heads[-1], **options)(below(x))
        F.cross_entropy(above(h), LABELS).backward()
        sent.append(below.weight.grad.clone())
    torch.testing.assert_close(sent[1], 0.5 * sent[0])
    plain = torch.autograd.grad(F.cross_entropy(above(below(x)), LABELS), below.weight)
    assert torch.equal(sent[2], *plain)
    assert all(torch.equal(head.weight.grad, heads[0].weight.grad) for head in heads)


def test_a_frozen_head_is_applied_and_not_trained():
    head, h = nn.Linear(6, 3).requires_grad_(False), torch.randn(5, 6, requires_grad=True)
    with dni.synthesizer_context(LABELS):
        interface(head)(h).sum().backward()
    expected = torch.autograd.grad(F.cross_entropy(head(h), LABELS), h)
    torch.testing.assert_close(h.grad, *expected)
    assert head.weight.grad is None


def test_a_parameter_that_the_head_does_not_use_has_no_gradient():
    head = nn.Sequential(nn.Linear(6, 3))
    head.unused = nn.Parameter(torch.ones(1))
    head.forward = lambda x: head[0](x)
    with dni.synthesizer_context(LABELS):
        interface(head)(torch.randn(5, 6, requires_grad=True)).sum().backward()
    assert head.unused.grad is None
    assert head[0].weight.grad is not None


def test_received_it_is_plain_data():
    cut = interface(nn.Linear(6, 3))
    with dni.synthesizer_context(LABELS):
        message = cut.receive(torch.randn(5, 6))
    assert message.shape == (5, 6)
    assert not message.requires_grad


def test_the_same_cuts_learn_locally_with_one_word_changed():
    torch.manual_seed(0)
    x = torch.randn(30, 4)
    y = (x[:, 0] > 0).long()

    def local(h):
        return dni.LocalLossSynthesizer(nn.Linear(h.shape[-1], 2), F.cross_entropy)

    def chosen(h):
        return dni.synthesizer_for(h, context_classes=2)

    for synthesizer in (local, chosen):
        model = nn.Sequential(
            nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 2)
        )
        dni.decouple(model, nn.Tanh, synthesizer)
        optimizer = torch.optim.Adam(model.parameters(), 1e-2)
        for _ in range(200):
            optimizer.zero_grad()
            with dni.synthesizer_context(y):
                F.cross_entropy(model(x), y).backward()
            optimizer.step()
        assert (model.eval()(x).argmax(1) == y).all()


def test_a_monitor_compares_it_with_the_real_message():
    cut = interface(nn.Linear(6, 3))
    h = torch.randn(5, 6, requires_grad=True)
    with dni.diagnostics.Monitor(cut) as monitor, dni.synthesizer_context(LABELS):
        local = F.cross_entropy(cut.synthesizer.head(h), LABELS)
        (message,) = torch.autograd.grad(local, h)
        cut(h).backward(message)
        assert monitor.read()[""].cosine == pytest.approx(1)
        assert monitor.read()[""].loss == pytest.approx(0, abs=1e-12)


def test_compiled_in_parts_it_has_the_same_gradients():
    torch.compiler.reset()
    model = nn.Sequential(nn.Linear(4, 6), interface(nn.Linear(6, 3)), nn.Linear(6, 3))
    x, found = torch.randn(5, 4), []
    for network in (model, torch.compile(model, backend="aot_eager")):
        model.zero_grad()
        with dni.synthesizer_context(LABELS):
            F.cross_entropy(network(x), LABELS).backward()
        found.append([parameter.grad.clone() for parameter in model.parameters()])
    for eager, compiled in zip(*found, strict=True):
        torch.testing.assert_close(compiled, eager)


test_compiled_in_parts_it_has_the_same_gradients.pytestmark = compiles


@pytest.mark.parametrize(
    ("head", "loss", "kind", "message"),
    [
        (3, F.mse_loss, TypeError, "a torch.nn.Module over the trigger as head, got an int"),
        (nn.Linear(2, 2), 3, TypeError, r"a function loss\(head\(trigger\), context\), got 3"),
        (nn.Linear(2, 2), nn.MSELoss, TypeError, r"Did you mean MSELoss\(\)"),
    ],
)
def test_what_is_no_head_and_no_loss(head, loss, kind, message):
    with pytest.raises(kind, match=message):
        dni.LocalLossSynthesizer(head, loss)


@pytest.mark.parametrize(
    ("head", "loss", "context", "message"),
    [
        (nn.Linear(6, 3), F.cross_entropy, None, "the local loss compares with a context"),
        (nn.Linear(6, 3), lambda p, c: p, LABELS, r"a scalar .* got a tensor of shape \(5, 3\)"),
        (nn.Linear(6, 3), lambda p, c: 3.0, LABELS, "got a float"),
        (nn.Linear(6, 3), lambda p, c: p.detach().sum(), LABELS, "that does not require grad"),
        (nn.Embedding(9, 3), lambda p, c: p.sum(), LABELS, "does not depend on it"),
    ],
)
def test_a_local_loss_that_is_none(head, loss, context, message):
    cut = dni.BackwardInterface(dni.LocalLossSynthesizer(head, loss), unlock=False)
    if isinstance(head, nn.Embedding):
        head.forward = lambda h: head.weight
    with pytest.raises(ValueError, match=message), dni.synthesizer_context(context):
        cut(torch.randn(5, 6, requires_grad=True))


def test_its_messages_are_not_normalized():
    made = dni.LocalLossSynthesizer(nn.Linear(6, 3), F.cross_entropy)
    assert dni.BackwardInterface(made).objective.moments is None
    assert dni.BackwardInterface(dni.Centered(made)).objective.moments is None
    with pytest.raises(ValueError, match="have a scale of their own"):
        dni.BackwardInterface(made, normalize=True)


def test_under_autocast_its_gradient_passes_in_the_precision_of_its_forward_pass():
    """1e-9 is 0 in half precision."""

    class Wide(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(4, 3)

        def forward(self, h):
            with torch.autocast("cpu", enabled=False):
                return self.layer(h)

    made, h = (
        dni.LocalLossSynthesizer(Wide(), lambda scores, _: 1e-9 * scores.sum()),
        torch.ones(2, 4),
    )
    plain = made(h)
    with torch.autocast("cpu", torch.float16):
        narrow = made(h)
    assert plain.any()
    torch.testing.assert_close(narrow, plain, rtol=1e-5, atol=0)
