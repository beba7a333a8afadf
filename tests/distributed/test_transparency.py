"""Stages in lock-step do the arithmetic of one process, to the last bit."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import dni
from dni.distributed import Stage, take_turns
from tests.distributed.networks import (
    adam,
    backward_interfaces,
    batches,
    bidirectional_interfaces,
    complete_stages,
    network,
    update_stages,
)


class Oracle(nn.Module):
    """Knows the gradient that will come: it was put in as the context."""

    def forward(self, trigger: Tensor, context: Tensor) -> Tensor:
        return context


def same(whole: nn.Module, other: nn.Module) -> None:
    for (name, mine), theirs in zip(whole.state_dict().items(), other.state_dict().values()):  # noqa: B905
        assert torch.equal(mine, theirs), name


def test_with_an_oracle_stages_have_the_gradients_of_plain_backpropagation() -> None:
    whole = network()
    x, y, _ = next(batches(1))
    h, kept = x, []
    for layer in whole:
        h = layer(h)
        kept.append(h)
        h.retain_grad()
    F.cross_entropy(h, y).backward()
    gradients = {name: p.grad.clone() for name, p in whole.named_parameters() if p.grad is not None}
    whole.zero_grad()

    cuts = [dni.BackwardInterface(Oracle(), normalize=False) for _ in range(2)]
    stages = update_stages(whole, cuts)
    # each stage is told the gradient at its own end: the context travels with the batch, so
    # the second is told when it is its turn
    batch = None
    for stage, truth in zip(stages, [kept[0].grad, kept[1].grad, None], strict=True):
        if stage.upstream is None:
            batch = dni.distributed.Batch(x, y, truth)
        else:
            batch = stage.upstream.poll()
            assert batch is not None
            batch = batch._replace(context=truth)
        stage.advance(batch)
    for name, parameter in whole.named_parameters():
        assert parameter.grad is not None
        assert torch.equal(parameter.grad, gradients[name]), name


def test_update_unlock_in_lock_step_is_one_process() -> None:
    whole, cuts = network(), backward_interfaces()
    other = copy.deepcopy(whole)
    stages = update_stages(other, cuts)
    optimizer = adam([*whole.parameters()], [p for cut in cuts for p in cut.parameters()])
    for x, y, context in batches(12):
        with dni.synthesizer_context(context):
            h = cuts[1](whole[1](cuts[0](whole[0](x))))
            F.cross_entropy(whole[3](whole[2](h)), y).backward()
        optimizer.step()
        optimizer.zero_grad()
        take_turns(stages, x, y, context)
    same(whole, other)
    for cut, stage in zip(cuts, stages[:2], strict=True):
        assert stage.downstream is not None
        same(cut, stage.downstream.interface())


def test_complete_unlock_in_lock_step_is_one_process() -> None:
    whole, cuts = network(), bidirectional_interfaces()
    other = copy.deepcopy(whole)
    stages = complete_stages(other, cuts, lock_step=True)
    optimizer = adam([*whole.parameters()], [p for cut in cuts for p in cut.parameters()])
    for x, y, _ in batches(12):
        first, second = (cut.receive(x) for cut in cuts)
        cuts[0].send(whole[0](x), x)
        cuts[1].send(whole[1](first), x)
        F.cross_entropy(whole[3](whole[2](second)), y).backward()
        optimizer.step()
        optimizer.zero_grad()
        take_turns(stages, x, y)
    same(whole, other)
    for cut, stage in zip(cuts, stages[:2], strict=True):
        assert stage.downstream is not None
        same(cut, stage.downstream.interface())


@pytest.mark.parametrize("unlock", ["update", "complete"])
def test_a_stage_taken_up_again_goes_on_as_if_nothing_had_been(unlock: str) -> None:
    def stages(whole: nn.Sequential) -> list[Stage]:
        torch.manual_seed(1)
        if unlock == "update":
            return update_stages(whole, backward_interfaces())
        return complete_stages(whole, bidirectional_interfaces(), lock_step=True)

    whole, other = network(), network()
    one, two = stages(whole), stages(other)
    data = [batch if unlock == "update" else batch[:2] for batch in batches(8)]
    for batch in data[:4]:
        take_turns(one, *batch)
    for before, after in zip(one, two, strict=True):
        after.load_state_dict(copy.deepcopy(before.state_dict()))
    for batch in data[4:]:
        take_turns(one, *batch)
        take_turns(two, *batch)
    same(whole, other)
    assert [stage.clock for stage in two] == [8, 8, 8]
