"""Metrics of messages agree with what a monitor measures."""

from __future__ import annotations

import pytest
import torch

from dni.diagnostics import Monitor
from dni.integrations.torchmetrics import GradientCosine, RelativeError
from tests.cases import Chain, batch, messages, synthesizer


def test_the_cosine_is_the_monitors() -> None:
    import dni

    model = Chain(lambda: dni.BackwardInterface(synthesizer(), unlock=False), cuts=1)
    x, y = batch()
    h = torch.tanh(model.layers[0](x))
    metric = GradientCosine()
    (real,) = messages(model, x, y)
    metric.update(model.cuts[0].receive(h), real)
    with Monitor(model) as monitor:
        torch.nn.functional.cross_entropy(model(x), y).backward()
    assert float(metric.compute()) == pytest.approx(monitor.scalars()["dni/cuts.0/cosine"])


def test_parts_of_two_processes_add_up() -> None:
    for kind in (GradientCosine, RelativeError):
        whole, parts = kind(), [kind(), kind()]
        for step in range(4):
            s, m = torch.randn(3, 2), torch.randn(3, 2)
            whole.update(s, m)
            parts[step % 2].update(s, m)
        parts[0].merge_state(parts[1])
        torch.testing.assert_close(parts[0].compute(), whole.compute())


def test_messages_of_different_shapes_are_no_pair() -> None:
    with pytest.raises(ValueError, match=r"RelativeError: expected a synthetic message .*\(2,\)"):
        RelativeError().update(torch.ones(3), torch.ones(2))
