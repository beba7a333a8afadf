"""Nothing keeps a graph alive after its step."""

from __future__ import annotations

import gc
import weakref

import pytest
import torch
import torch.nn.functional as F

import dni
from tests.cases import CLASSES, WIDTH, Chain, batch, synthesizer


def live_tensors():
    gc.collect()
    return sum(issubclass(type(thing), torch.Tensor) for thing in gc.get_objects())


def chain(unlock):
    return Chain(lambda: dni.BackwardInterface(synthesizer(context_classes=CLASSES), unlock=unlock))


@pytest.mark.parametrize("unlock", [True, False])
def test_ten_thousand_steps_leave_no_tensor_behind(unlock):
    model = chain(unlock)
    optimizer = torch.optim.SGD(model.parameters(), 1e-3)
    x, y = batch()

    def steps(count):
        for _ in range(count):
            optimizer.zero_grad()
            with dni.synthesizer_context(y):
                output = model(x)
            F.cross_entropy(output, y).backward()
            optimizer.step()
        del output

    steps(10)
    before = live_tensors()
    steps(10_000)
    assert live_tensors() <= before


@pytest.mark.parametrize("unlock", [True, False])
def test_a_trigger_dies_with_its_step(unlock):
    model = chain(unlock)
    x, y = batch()
    with dni.synthesizer_context(y):
        h = torch.tanh(model.layers[0](x))
        out = model.cuts[0](h)
    watched = [weakref.ref(h), weakref.ref(out), weakref.ref(out.grad_fn)]
    out.sum().backward()
    del h, out
    assert [ref() for ref in watched] == [None] * 3


@pytest.mark.parametrize("unlock", [True, False])
def test_an_error_after_the_cut_leaves_no_graph(unlock):
    model = chain(unlock)
    x, y = batch()
    with dni.synthesizer_context(y):
        out = model.cuts[0](torch.tanh(model.layers[0](x)))
    watched = weakref.ref(out.grad_fn)
    with pytest.raises(RuntimeError):
        F.linear(out, torch.zeros(2, WIDTH + 1))
    del out
    gc.collect()  # the traceback
    assert watched() is None


@pytest.mark.parametrize("fails", [True, False])
def test_a_deferring_block_keeps_nothing(fails):
    w = torch.ones(3, requires_grad=True)
    watched = []

    def block():
        h = w * 2
        watched.append(weakref.ref(h))
        dni.backward(h.sum())
        del h
        if fails:
            raise KeyError

    try:
        with dni.defer_backward():
            block()
    except KeyError:
        pass
    gc.collect()
    assert watched[0]() is None
