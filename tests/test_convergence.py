"""Synthesizers find what can be predicted; a network trained by them learns its task."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

import dni
from dni.diagnostics import Monitor
from examples import training
from examples.data import load
from examples.mnist_mlp.main import Network
from tests.cases import WIDTH


@pytest.mark.parametrize("scale", [1.0, 1e-6])
@pytest.mark.parametrize("unlock", [True, False])
def test_a_gradient_that_is_linear_in_the_trigger_is_found(unlock, scale):
    r"""With :math:`L = \|h W - 1\|^2 / 2` the gradient :math:`(h W - 1) W^T` is linear in h."""
    weight = torch.randn(WIDTH, WIDTH) / WIDTH**0.5
    cut = dni.BackwardInterface(dni.BasicSynthesizer(WIDTH), unlock=unlock)
    optimizer = torch.optim.Adam(cut.parameters(), 0.02)
    with Monitor(cut) as monitor:
        for step in range(600):
            if step == 500:
                monitor.read()
            optimizer.zero_grad()
            h = torch.randn(32, WIDTH, requires_grad=True)
            (scale * (cut(h * 1) @ weight - 1).square().sum() / 2).backward()
            optimizer.step()
        measured = monitor.read()[""]
    assert measured.cosine > 0.999
    assert measured.norm_ratio == pytest.approx(1, abs=0.05)


def test_a_gradient_that_needs_the_label_is_found_with_the_label():
    targets = torch.randn(4, WIDTH)
    losses = {}
    for classes in (None, 4):
        cut = dni.BackwardInterface(dni.BasicSynthesizer(WIDTH, context_classes=classes))
        optimizer = torch.optim.Adam(cut.parameters(), 0.02)
        with Monitor(cut) as monitor:
            for step in range(600):
                if step == 500:
                    monitor.read()
                optimizer.zero_grad()
                h, y = torch.randn(32, WIDTH, requires_grad=True), torch.randint(4, (32,))
                with dni.synthesizer_context(None if classes is None else y):
                    out = cut(h * 1)
                F.mse_loss(out, targets[y]).backward()
                optimizer.step()
            losses[classes] = monitor.read()[""].loss
    assert losses[4] < 0.01
    assert losses[None] > 0.2


def test_a_network_decoupled_after_every_layer_learns_its_task():
    data = load("digits")
    errors = {}
    for arm in ("backprop", "DNI", "cDNI"):
        torch.manual_seed(0)
        model = Network(64, decoupled=arm != "backprop", context=arm == "cDNI")
        loop = (600, 128, (3e-4, 3e-3), 0, 3 if arm == "DNI" else 0)
        errors[arm] = training.train(model, data, *loop).test_error
    assert errors["cDNI"] <= errors["backprop"] + 1
    assert errors["DNI"] <= errors["backprop"] + 2
