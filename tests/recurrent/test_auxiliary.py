"""The auxiliary task: its loss, and where its gradient goes."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import dni
from tests import cases


@pytest.mark.parametrize("weight", [1.0, 0.25])
def test_its_gradients_are_those_of_the_explicit_loss(weight):
    synthesizer = cases.synthesizer(6)
    task = dni.AuxiliaryTask(synthesizer, weight=weight, normalize=False)
    h, c, message = (torch.randn(1, 5, size) for size in (2, 4, 6))
    h.requires_grad_()
    c.requires_grad_()
    task.send((message[..., :2], message[..., 2:]), (h, c))
    loss = weight * F.mse_loss(synthesizer(torch.cat((h, c), -1)), message)
    expected = torch.autograd.grad(loss, [h, c, *synthesizer.parameters()])
    for tensor, gradient in zip([h, c, *synthesizer.parameters()], expected, strict=True):
        torch.testing.assert_close(tensor.grad, gradient)


def test_it_does_not_reach_the_message():
    message = torch.randn(5, 6, requires_grad=True)
    dni.AuxiliaryTask(cases.synthesizer(6)).send(message, torch.randn(5, 6, requires_grad=True))
    assert message.grad is None


def test_the_scale_of_the_message_does_not_matter():
    gradients = []
    for scale in (1.0, 1e-6):
        torch.manual_seed(0)
        task = dni.AuxiliaryTask(cases.synthesizer(6))
        state, message = torch.randn(5, 6, requires_grad=True), torch.randn(5, 6)
        task.send(scale * message, state)
        gradients.append(state.grad)
    torch.testing.assert_close(*gradients, rtol=1e-3, atol=1e-6)


def test_its_loss_reaches_the_core_through_the_synthetic_gradient():
    """The same windows with and without it: the core's gradients part once it is learnt."""
    gradients = []
    for weight in (0.0, 50.0):
        torch.manual_seed(0)
        core, interface = nn.GRU(3, 4), dni.BackwardInterface(cases.synthesizer(4))
        task = dni.AuxiliaryTask(cases.synthesizer(4), weight=weight)
        optimizer = torch.optim.Adam(interface.parameters(), 1e-2)
        x = torch.randn(8, 5, 3)
        for _ in range(20):
            core.zero_grad()
            for window in dni.windows(x, size=2, interface=interface, auxiliary=task):
                output, state = core(*window, window.state)
                window.backward(output.square().mean(), state)
            optimizer.step()
            optimizer.zero_grad()
        gradients.append(core.weight_hh_l0.grad.clone())
    assert (gradients[0] - gradients[1]).norm() > gradients[0].norm()


def test_eval_mode_switches_it_off():
    task = dni.AuxiliaryTask(cases.Counting(3)).eval()
    state = torch.ones(2, 3, requires_grad=True)
    task.send(torch.ones(2, 3), state)
    assert task.synthesizer.contexts == []  # nobody was asked
    assert state.grad is None
    assert all(parameter.grad is None for parameter in task.parameters())


def test_a_weight_is_a_number():
    with pytest.raises(TypeError, match="expected weight to be a number"):
        dni.AuxiliaryTask(cases.synthesizer(6), weight="much")


def test_a_predictor_returns_what_it_is_to_foresee():
    task = dni.AuxiliaryTask(cases.Fixed(torch.ones(2, 4)))
    with pytest.raises(ValueError, match=r"returned \(2, 4\) for a message of \(2, 3\)"):
        task.send(torch.ones(2, 3), torch.ones(2, 3, requires_grad=True))


def test_monitors_and_parameter_groups_know_it():
    task = dni.AuxiliaryTask(cases.synthesizer(3))
    model = nn.ModuleDict({"core": nn.GRU(2, 3), "task": task})
    assert len(dni.synthesizer_parameters(model)) == 4
    with dni.diagnostics.Monitor(model) as monitor:
        task.send(torch.ones(2, 3), torch.ones(2, 3, requires_grad=True))
        assert monitor.read()["task"].messages == 1


def test_a_frozen_predictor_still_sends_and_keeps_its_scale():
    task = dni.AuxiliaryTask(cases.synthesizer(6).requires_grad_(False), weight=1.0)
    before = task.objective.moments.clone()
    state, message = torch.randn(5, 6, requires_grad=True), torch.randn(5, 6)
    task.send(message, state)
    loss = F.mse_loss(task.synthesizer(state), message)  # the scale of a task that never learnt: 1
    torch.testing.assert_close(state.grad, torch.autograd.grad(loss, state)[0])
    assert torch.equal(task.objective.moments, before)


def test_in_the_loop_it_is_given_the_context_of_the_state_it_predicts_from():
    core, inner = nn.GRU(3, 4), cases.Counting(4, context_dim=1)
    interface = dni.BackwardInterface(cases.synthesizer(4, context_dim=1))
    loop = dni.windows(
        torch.randn(6, 5, 3), size=2, interface=interface, auxiliary=dni.AuxiliaryTask(inner)
    )
    for index, window in enumerate(loop):
        output, state = core(*window, window.state)
        with dni.synthesizer_context(torch.full((5, 1), float(index))):
            window.backward(output.sum(), state)
    assert [float(context[0, 0]) for context in inner.contexts] == [0, 1]


def test_what_does_not_fit_is_named():
    state = torch.randn(5, 6, requires_grad=True)
    task = dni.AuxiliaryTask(cases.Fixed((state, state)), name="aux")
    with pytest.raises(TypeError, match="'aux'.* returns one tensor"):
        task.send(torch.randn(5, 6), state)
    task = dni.AuxiliaryTask(cases.synthesizer(6), name="aux")
    with pytest.raises(TypeError, match=r"'aux'.*expected dtype torch.float64"):
        task.send(torch.randn(5, 6).double(), state.double())
