"""Parts of a model run after one another are the model, under the same names."""

from __future__ import annotations

import copy
from collections import OrderedDict

import pytest
import torch
from torch import nn

from dni.distributed import merge, split


def nested() -> nn.Sequential:
    torch.manual_seed(0)
    features = nn.Sequential(
        nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), nn.Sequential(nn.Conv2d(3, 2, 3))
    )
    head = nn.Sequential(nn.Flatten(), nn.Linear(2 * 4 * 4, 5))
    return nn.Sequential(OrderedDict(features=features, act=nn.Tanh(), head=head)).double()


CUTS = [
    [],
    ["features"],
    ["act"],
    ["features.0"],
    ["features.1", "features.3"],
    ["features.3.0", "head.0"],
    ["features.0", "features.1", "features.2", "features.3", "act", "head.0"],
]


@pytest.mark.parametrize("at", CUTS, ids=" ".join)
def test_parts_in_a_row_are_the_model(at):
    model = nested()
    parts = split(copy.deepcopy(model), at)
    assert len(parts) == len(at) + 1
    x = torch.randn(2, 1, 8, 8).double()
    expected, h = model(x), x
    for part in parts:
        h = part(h)
    assert torch.equal(h, expected)
    for output in (expected, h):
        output.square().sum().backward()
    named = {name: p.grad for part in parts for name, p in part.named_parameters()}
    assert named.keys() == dict(model.named_parameters()).keys()
    for name, parameter in model.named_parameters():
        assert torch.equal(named[name], parameter.grad)
    merged = merge(part.state_dict() for part in parts)
    assert list(merged) == list(model.state_dict())
    fresh = nested()
    fresh.load_state_dict(merged)


def test_parts_share_the_modules_of_the_model():
    model = nested()
    bottom, top = split(model, ["act"])
    assert bottom.get_submodule("features.1") is model.features[1]
    assert top.get_submodule("head.1") is model.head[1]
    assert list(model.state_dict()) == list(nested().state_dict())  # which stays whole


class Residual(nn.Sequential):
    """Not a chain, although it is a Sequential."""

    def forward(self, x):
        return x + super().forward(x)


def hooked() -> nn.Sequential:
    model = nested()
    model.features.register_forward_hook(lambda module, inputs, output: None)
    return model


def tied() -> nn.Sequential:
    layer = nn.Linear(2, 2)
    return nn.Sequential(layer, nn.ReLU(), layer)


@pytest.mark.parametrize(
    ("model", "at", "error", "message"),
    [
        (nn.Linear(2, 2), ["0"], TypeError, "expected one at '', got Linear"),
        (nn.Sequential(nn.GRU(2, 2), nn.ReLU()), ["0.x"], ValueError, "expected the name"),
        (
            nn.Sequential(Residual(nn.Linear(2, 2), nn.ReLU()), nn.ReLU()),
            ["0.0"],
            TypeError,
            "expected one at '0', got Residual.*in front of it or after",
        ),
        (hooked(), ["features.0"], TypeError, "neither parameters nor hooks.*'features'"),
        (nested(), ["act", "features"], ValueError, "order of the forward pass.*'features'"),
        (nested(), ["act", "act"], ValueError, "each of them once; got 'act'"),
        (nested(), ["headd"], ValueError, "such as 'features', 'features.0'.* got 'headd'"),
        (nested(), [""], ValueError, "got ''"),
        (nested(), ["head"], ValueError, "after the last; leave it out"),
        (nested(), ["head.1"], ValueError, "after the last; leave it out"),
        (tied(), ["1"], ValueError, "part 0 calls '0.weight' and part 1 '2.weight'"),
    ],
)
def test_bad_cuts(model, at, error, message):
    before = list(model.state_dict())
    with pytest.raises(error, match=message):
        split(model, at)
    assert list(model.state_dict()) == before


def test_parts_of_two_models_do_not_merge():
    with pytest.raises(ValueError, match=r"got head.1.bias, head.1.weight in two"):
        merge([split(nested(), ["act"])[1].state_dict()] * 2)
