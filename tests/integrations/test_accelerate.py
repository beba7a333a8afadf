"""A loop of Accelerate, with its scaler."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from torch import Tensor

import dni
from tests.cases import CLASSES, Chain, batch, synthesizer


def trained(scale: float | None, precision: str = "no") -> dict[str, Tensor]:
    """The weights after a few steps; where there is a scale, through Accelerate's scaler."""
    torch.manual_seed(1)
    model = Chain(
        lambda: dni.BackwardInterface(
            synthesizer(context_classes=CLASSES), unlock=False, nonfinite="skip"
        )
    )
    for cut in model.cuts:
        for parameter in cut.synthesizer.layers[-1].parameters():
            torch.nn.init.zeros_(parameter)
    AcceleratorState._reset_state(reset_partial_state=True)
    accelerator = Accelerator(cpu=True, mixed_precision=precision)
    if scale is not None:
        accelerator.scaler = torch.amp.GradScaler("cpu", init_scale=scale)
    base = torch.optim.SGD(dni.base_parameters(model), 0.1)
    own = torch.optim.SGD(dni.synthesizer_parameters(model), 0.1)
    model, base = accelerator.prepare(model, base)
    torch.manual_seed(2)
    for _ in range(5):
        x, y = batch()
        base.zero_grad()
        own.zero_grad()
        with dni.synthesizer_context(y):
            loss = F.cross_entropy(model(x), y)
        accelerator.backward(loss)
        base.step()
        own.step()
    return {
        name: p.detach().clone() for name, p in accelerator.unwrap_model(model).named_parameters()
    }


@pytest.mark.parametrize("scale", [2.0**8, 2.0**16])
def test_its_scaler_changes_nothing(scale: float) -> None:
    expected = trained(None)
    for name, value in trained(scale).items():
        torch.testing.assert_close(value, expected[name], rtol=1e-3, atol=1e-5)


def test_bfloat16_goes_the_same_way() -> None:
    expected = trained(None)
    for name, value in trained(None, "bf16").items():
        torch.testing.assert_close(value, expected[name], rtol=0.05, atol=0.02)
