"""One graph compiles whole, without recompiling; the early form says that it cannot."""

from __future__ import annotations

import shutil

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import dni
from tests.cases import CLASSES, WIDTH, Chain, UsedTwice, batch, compiles, gradients, synthesizer

pytestmark = compiles

# Inductor makes C++: it runs where there is a compiler, and `make test` needs none.
BACKENDS = ["aot_eager", "inductor"] if shutil.which("c++") else ["aot_eager"]


def chain(unlock=False):
    return Chain(lambda: dni.BackwardInterface(synthesizer(context_classes=CLASSES), unlock=unlock))


def loss_of(model, x, y):
    with dni.synthesizer_context(y):
        return F.cross_entropy(model(x), y)


@pytest.fixture(autouse=True)
def _fresh_compiler():
    torch.compiler.reset()


def compiled(backend):
    """The loss under the compiler, and a counter of its graphs."""
    graphs = []

    def counting(graph, inputs):
        graphs.append(graph)
        return torch._dynamo.lookup_backend(backend)(graph, inputs)

    return torch.compile(loss_of, fullgraph=True, backend=counting), graphs


@pytest.mark.parametrize("backend", BACKENDS)
def test_compiled_steps_are_the_eager_ones_and_new_weights_cost_no_graph(backend):
    torch.manual_seed(1)
    eager, model = chain(), chain()
    model.load_state_dict(eager.state_dict())
    fast, graphs = compiled(backend)
    optimizers = [torch.optim.SGD(net.parameters(), 0.1) for net in (eager, model)]
    for mix in (0.0, 0.0, 0.3, 1.0, 0.5, 0.0):
        for net in (eager, model):
            for cut in net.cuts:
                cut.mix, cut.factor = mix, 1 - mix / 2
        x, y = batch()
        for net, function, optimizer in zip(
            (eager, model), (loss_of, fast), optimizers, strict=True
        ):
            optimizer.zero_grad()
            function(net, x, y).backward()
            optimizer.step()
        for name, gradient in gradients(model).items():
            torch.testing.assert_close(gradient, gradients(eager)[name], rtol=1e-4, atol=1e-6)
    assert len(graphs) == 1
    for name, tensor in model.state_dict().items():
        torch.testing.assert_close(tensor, eager.state_dict()[name], rtol=1e-4, atol=1e-6)


def test_a_cut_may_be_called_twice_before_one_backward_pass_and_mix_may_change_between():
    """The first call's graph reads the scale again, with the second call's message in it."""
    found = []
    for compiles_it in (False, True):
        torch.manual_seed(1)
        cut = dni.BackwardInterface(synthesizer(), unlock=False, mix=1.0)
        h = torch.ones(2, WIDTH, requires_grad=True)
        if compiles_it:
            call = torch.compile(cut, fullgraph=True, backend="aot_eager")
            output = call(h).sum() + call(2 * h).square().sum()
            cut.mix = 0.5
            output.backward()
        else:
            cut(2 * h).square().sum().backward()
            cut(h).sum().backward()
        found.append([h.grad, cut.objective.moments, *gradients(cut).values()])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_cut_used_twice_in_one_graph_learns_what_it_learns_in_eager_mode(backend):
    found = []
    for function in (loss_of_pair, compiled_pair(backend)):
        torch.manual_seed(1)
        model = UsedTwice(lambda: dni.BackwardInterface(synthesizer(), unlock=False)).double()
        optimizer = torch.optim.Adam(model.parameters(), 1e-2)
        for _ in range(5):
            x, y = batch()
            optimizer.zero_grad()
            function(model, x.double(), y).backward()
            optimizer.step()
        found.append(
            torch.cat([tensor.detach().flatten() for tensor in model.state_dict().values()])
        )
    torch.testing.assert_close(*found, rtol=1e-10, atol=1e-12)


def loss_of_pair(model, x, y):
    return F.cross_entropy(model(x), y)


def compiled_pair(backend):
    return torch.compile(loss_of_pair, fullgraph=True, backend=backend)


def test_a_compiled_region_skips_what_it_cannot_raise_about():
    model = chain()
    fast, _ = compiled("aot_eager")
    x, y = batch()
    before = model.cuts[1].objective.moments.clone()
    (fast(model, x, y) * float("nan")).backward()
    for parameter in model.cuts[1].parameters():
        assert torch.equal(parameter.grad, torch.zeros_like(parameter))
    assert torch.equal(model.cuts[1].objective.moments, before)
    assert torch.isfinite(model.layers[0].weight.grad).all()


@pytest.mark.parametrize("unlock", [True, False])
def test_the_forward_interfaces_have_a_form_that_compiles(unlock):
    interface = dni.BidirectionalInterface(synthesizer(trigger_dim=3), synthesizer(), unlock=unlock)
    part_a, part_b = nn.Linear(3, WIDTH), nn.Linear(WIDTH, 1)

    def loss(x):
        return part_b(interface(part_a(x), x)).square().mean()

    fast = torch.compile(loss, fullgraph=True, backend="aot_eager")
    if unlock:
        with pytest.raises(RuntimeError, match="unlock=False"):
            fast(torch.randn(4, 3))
    else:
        fast(torch.randn(4, 3)).backward()
        assert part_a.weight.grad.abs().sum() > 0
        assert all(parameter.grad is not None for parameter in interface.parameters())


@pytest.mark.parametrize("fullgraph", [True, False])
def test_the_early_form_names_the_one_that_compiles(fullgraph):
    model = chain(unlock=True)
    fast = torch.compile(loss_of, fullgraph=fullgraph, backend="aot_eager")
    with pytest.raises(RuntimeError, match="unlock=False"):
        fast(model, *batch())
    loss_of(model, *batch()).backward()
