"""Two groups of parameters that are a partition of all."""

from __future__ import annotations

import torch
from torch import nn

import dni
from tests.cases import Chain, SharedSynthesizer, synthesizer


def cut():
    return dni.BackwardInterface(synthesizer())


def identities(parameters):
    return [id(parameter) for parameter in parameters]


def test_the_groups_partition_the_parameters():
    for network in (Chain, SharedSynthesizer):
        model = network(cut)
        base, own = dni.base_parameters(model), dni.synthesizer_parameters(model)
        assert sorted(identities(base + own)) == sorted(identities(model.parameters()))
        named = [p for name, p in model.named_parameters() if not name.startswith("cuts")]
        assert identities(base) == identities(named)
        assert len(set(identities(own))) == len(own)


def test_a_shared_synthesizer_counts_once():
    assert len(dni.synthesizer_parameters(SharedSynthesizer(cut))) == 4


def test_both_sides_of_a_bidirectional_interface_belong_to_the_synthesizers():
    interface = dni.BidirectionalInterface(synthesizer(), synthesizer())
    assert dni.base_parameters(interface) == []
    assert len(dni.synthesizer_parameters(interface)) == 8


def test_a_model_without_interfaces_has_only_its_own():
    model = nn.Linear(2, 3)
    assert dni.synthesizer_parameters(model) == []
    assert identities(dni.base_parameters(model)) == identities(model.parameters())


def test_each_group_may_have_its_rate():
    model = Chain(cut)
    rates = torch.optim.Adam(
        [
            {"params": dni.base_parameters(model), "lr": 1e-3},
            {"params": dni.synthesizer_parameters(model), "lr": 1e-2},
        ]
    )
    sizes = [(len(group["params"]), group["lr"]) for group in rates.param_groups]
    assert sizes == [(8, 1e-3), (8, 1e-2)]
