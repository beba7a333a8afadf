"""With an oracle, and with mix=1, a decoupled network is the plain one."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

import dni
from tests.cases import compiles, gradients
from tests.decoupling.networks import CASES, loss_of, oracles, real_messages


def base_gradients(model):
    return {name: g for name, g in gradients(model).items() if "dni_interface" not in name}


@pytest.mark.parametrize("lazy", [False, True], ids=["sample", "lazy"])
@pytest.mark.parametrize("case", CASES)
def test_with_an_oracle_gradients_are_those_of_backpropagation(case, lazy):
    build, inputs, at, names = CASES[case]
    model, x = build().double(), inputs()
    x = x.double() if x.is_floating_point() else x
    torch.manual_seed(1)  # dropout
    messages = real_messages(model, names, x)
    torch.manual_seed(1)
    loss_of(model, x).backward()
    expected = base_gradients(model)
    model.zero_grad()
    dni.decouple(
        model,
        at,
        oracles(messages),
        normalize=False,
        sample=None if lazy else x,
    )
    torch.manual_seed(1)
    loss_of(model, x).backward()
    found = base_gradients(model)
    assert found.keys() == expected.keys()
    for name, gradient in found.items():
        torch.testing.assert_close(gradient, expected[name], rtol=1e-12, atol=1e-15)
    assert set(dni.interfaces_of(model)) == set(messages)
    asked = [one.synthesizer.messages for one in dni.interfaces_of(model).values()]
    assert len(asked) == len(messages)
    assert not any(asked)  # every message has been asked for


@pytest.mark.parametrize("case", CASES)
def test_a_new_synthesizer_sends_nothing_below_the_first_cut(case):
    """The counter-proof: what the oracle test compares does depend on the synthesizers."""
    build, inputs, at, names = CASES[case]
    model, x = build(), inputs()
    dni.decouple(model, at, sample=x)
    loss_of(model, x).backward()
    first = model.get_submodule(names[0])
    below = [p.grad for n, p in first.named_parameters() if "dni_interface" not in n]
    below = [g for g in below if g is not None] or [next(model.parameters()).grad]
    assert all(not gradient.any() for gradient in below)


@pytest.mark.parametrize("lazy", [False, True], ids=["sample", "lazy"])
@pytest.mark.parametrize("case", CASES)
def test_observing_changes_nothing_in_fifty_steps(case, lazy):
    build, inputs, at, _ = CASES[case]
    torch.manual_seed(0)
    plain = build()
    watched = copy.deepcopy(plain)
    x = inputs()
    dni.decouple(watched, at, mix=1.0, sample=None if lazy else x)
    outcomes = []
    for model in (plain, watched):
        torch.manual_seed(2)
        optimizer = torch.optim.Adam(model.parameters(), 1e-2)
        for _ in range(50):
            optimizer.zero_grad()
            loss_of(model, x).backward()
            optimizer.step()
        outcomes.append(dni.strip(model).state_dict())
    assert outcomes[0].keys() == outcomes[1].keys()
    assert all(torch.equal(value, outcomes[1][name]) for name, value in outcomes[0].items())


@pytest.mark.parametrize("case", CASES)
def test_meanwhile_every_synthesizer_learns(case):
    build, inputs, at, _ = CASES[case]
    model, x = build(), inputs()
    dni.decouple(model, at, mix=1.0)
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)  # before the first batch
    for _ in range(3):
        optimizer.zero_grad()
        loss_of(model, x).backward()
        optimizer.step()
    for interface in dni.interfaces_of(model).values():
        assert all(parameter.any() for parameter in interface.synthesizer.parameters())


@pytest.mark.parametrize("case", CASES)
def test_evaluation_is_the_plain_network_bit_for_bit(case):
    build, inputs, at, _ = CASES[case]
    model, x = build().eval(), inputs()
    expected = model(x)
    dni.decouple(model, at, sample=x)
    assert torch.equal(model(x), expected)
    model.train()
    with torch.no_grad():
        torch.manual_seed(3)
        trained = model(x)
        torch.manual_seed(3)
        assert torch.equal(trained, dni.strip(model)(x))


@pytest.mark.parametrize("case", ["residual", "transformer", "tuple"])
@pytest.mark.parametrize("backend", [pytest.param("aot_eager", marks=compiles)])
def test_compiled_whole_it_has_the_same_gradients(case, backend):
    torch.compiler.reset()
    build, inputs, at, _ = CASES[case]
    model, x = build(), inputs()
    dni.decouple(model, at, sample=x, synthesizer=lambda h: _moved(dni.synthesizer_for(h)))
    loss_of(model, x).backward()
    expected = gradients(model)
    model.zero_grad()
    for interface in dni.interfaces_of(model).values():
        interface.objective.moments.fill_(1e-30)  # as before the first message
    torch.compile(loss_of, fullgraph=case != "tuple", backend=backend)(model, x).backward()
    for name, gradient in gradients(model).items():
        torch.testing.assert_close(gradient, expected[name], rtol=1e-4, atol=1e-7)


def _moved(synthesizer):
    for name, parameter in synthesizer.named_parameters():
        if ".layers." in name:  # the last ones, which start at zero
            nn.init.normal_(parameter, std=0.1)
    return synthesizer
