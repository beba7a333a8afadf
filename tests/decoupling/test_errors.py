"""Each mistake has a message of its own, and leaves the model as it was."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import dni
from tests.cases import compiles
from tests.decoupling.networks import images, loss_of, mlp
from tests.decoupling.test_decouple import Nest


class Chain(nn.Sequential):
    def forward(self, x):
        for layer in self:
            x = layer(x)
        return x


class Odd(nn.Module):
    """What nobody can cut."""

    def __init__(self):
        super().__init__()
        self.never = nn.Linear(4, 4)
        self.number = nn.Linear(4, 4)
        self.number.forward = lambda x: x.argmax(-1)
        self.text = nn.Identity()
        self.text.forward = lambda x: "text"
        self.empty = nn.Sequential()
        self.chain = Chain(nn.Linear(4, 4))
        self.volume = nn.Unflatten(1, (2, 1, 2, 1))
        self.head = nn.Linear(4, 3)

    def forward(self, x):
        self.number(x), self.text(x)
        x = self.volume(self.chain(self.empty(x))).flatten(1)
        return self.head(x)


NEST = [
    ("stme", {}, ValueError, r"got 'stme', which is none. Did you mean 'stem'\?"),
    ("zzz", {}, ValueError, r"Its modules are stem, layers, layers.0, .* and 5 more"),
    ("conv*", {}, ValueError, r"expected to find modules named 'conv\*', got none"),
    (nn.Conv2d, {}, ValueError, "expected to find modules of type Conv2d, got none"),
    ([], {}, ValueError, "at least one place"),
    (3, {}, TypeError, "a name, a pattern, a type of modules"),
    (["stem", 3], {}, TypeError, "got 3"),
    ("layers", {}, ValueError, r"a ModuleList without a forward.*at='layers.\*'"),
    (
        "stem",
        {"sample": torch.ones(2, 9)},
        ValueError,
        "a sample that the model takes.*RuntimeError",
    ),
    ("stem", {"sample": {"y": torch.ones(2, 4)}}, ValueError, "TypeError: .*unexpected keyword"),
    ("stem", {"mix": 2}, ValueError, "expected a number from 0 .* to 1"),
    ("stem", {"factor": float("nan")}, ValueError, "finite factor"),
    ("stem", {"nonfinite": "maybe"}, ValueError, "nonfinite='raise' or 'skip'"),
    ("leafs", {}, ValueError, "Did you mean 'leaves'"),
    ("stem", {"normalize": "x"}, TypeError, "normalize to be True, False or left out, got 'x'"),
    ("stem", {"context_dim": -1}, ValueError, "context_dim to be a positive integer"),
    ("stem", {"context_classes": 2.5}, ValueError, "context_classes to be a positive integer"),
    (
        "stem",
        {"synthesizer": dni.BackwardInterface(dni.BasicSynthesizer(4))},
        TypeError,
        "the interfaces are made here.*Pass its .synthesizer",
    ),
    ("stem", {"synthesizer": 3}, TypeError, "a function that builds one for an output, got an int"),
    ("stem", {"synthesizer": dni.BasicSynthesizer}, TypeError, "lambda output"),
    (
        "layers.*",
        {"synthesizer": dni.BasicSynthesizer(4)},
        ValueError,
        r"one BasicSynthesizer for 3 cuts \(layers.0.1, layers.1.1, layers.2.1\)",
    ),
    (
        "stem",
        {"synthesizer": dni.synthesizer_for, "context_classes": 3},
        ValueError,
        "context_classes is for the synthesizers that are chosen by shape",
    ),
    (
        "stem",
        {"synthesizer": lambda h: 3, "sample": torch.ones(2, 4)},
        TypeError,
        "return a synthesizer, a torch.nn.Module, for 'stem', got an int",
    ),
]
ODD = [
    ("never", ValueError, "got 'never', which the sample did not reach"),
    ("number", ValueError, r"an output with a gradient after 'number', got Tensor\(2,\)"),
    ("text", ValueError, "after 'text', got a str"),
    ("empty", ValueError, "'empty', an empty Sequential"),
    ("chain", ValueError, "'chain', a Chain, which is a list of them"),
    ("volume", ValueError, r"got shape \(2, 2, 1, 2, 1\). Pass a synthesizer of your own"),
]


def assert_plain(model, before):
    assert {name: id(module) for name, module in model.named_modules()} == before
    assert dni.interfaces_of(model) == {}
    assert not any(module._forward_hooks for module in model.modules())


def named(model):
    return {name: id(module) for name, module in model.named_modules()}


@pytest.mark.parametrize(("at", "options", "kind", "message"), NEST)
def test_a_mistake_leaves_the_model_alone(at, options, kind, message):
    model = Nest()
    before = named(model)
    with pytest.raises(kind, match=message):
        dni.decouple(model, at, **options)
    assert_plain(model, before)


@pytest.mark.parametrize(("at", "kind", "message"), ODD)
def test_a_place_that_cannot_be_cut(at, kind, message):
    model = Odd()
    before = named(model)
    with pytest.raises(kind, match=message):
        dni.decouple(model, ["head", at], sample=torch.ones(2, 4))
    assert_plain(model, before)


def test_a_model_without_modules():
    with pytest.raises(ValueError, match="It has no modules inside: at='' is the model itself"):
        dni.decouple(nn.Linear(2, 2), "layer*")


@pytest.mark.parametrize("function", [dni.decouple, dni.validate, dni.strip])
def test_not_a_model(function):
    arguments = {dni.decouple: ("a",), dni.validate: (None, "a"), dni.strip: ()}[function]
    with pytest.raises(TypeError, match="expected a torch.nn.Module, got an int"):
        function(3, *arguments)


@pytest.mark.parametrize(
    "wrap",
    [
        nn.DataParallel,
        pytest.param(torch.compile, marks=compiles),
    ],
)
def test_decouple_before_wrapping(wrap):
    with pytest.raises(TypeError, match="Decouple first, then wrap"):
        dni.decouple(wrap(mlp()), "leaves")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mix": 1.0}, "other arguments: it has mix=0.0. Set it on"),
        ({"mix": 1.0, "factor": 0.1}, "it has mix=0.0 and factor=1.0"),
        ({"normalize": False, "nonfinite": "skip"}, "it has nonfinite=raise and normalize=True"),
        ({"synthesizer": dni.BasicSynthesizer(8)}, "it has another synthesizer"),
    ],
)
def test_decoupling_otherwise_than_before(options, message):
    model = dni.decouple(mlp(), "2", sample=images(4))
    with pytest.raises(ValueError, match=message):
        dni.decouple(model, "2", **options)


def test_a_lazy_cut_that_is_decoupled_otherwise():
    model = dni.decouple(mlp(), "2")
    dni.decouple(model, "2")
    with pytest.raises(ValueError, match="'2' is decoupled already"):
        dni.decouple(model, "2", mix=1.0)


def test_a_name_that_is_taken():
    model = mlp()
    model[2].dni_interface = nn.Linear(2, 2)
    with pytest.raises(ValueError, match="'2' has something else called dni_interface"):
        dni.decouple(model, "2")
    assert isinstance(dni.strip(model)[2].dni_interface, nn.Linear)


def test_a_lazy_cut_in_a_compiled_network():
    torch.compiler.reset()
    model = torch.compile(dni.decouple(mlp(), "2"), backend="eager", fullgraph=True)
    with pytest.raises(Exception, match="Pass sample= to dni.decouple"):
        loss_of(model, images(4))


test_a_lazy_cut_in_a_compiled_network.pytestmark = compiles


def test_a_monitor_needs_shapes():
    model = dni.decouple(mlp(), "2")
    with pytest.raises(RuntimeError, match=r"wait for their first batch to have one \(2\)"):
        dni.diagnostics.Monitor(model)


@pytest.mark.parametrize(
    ("output", "kind", "message"),
    [
        (torch.tensor(1.0), ValueError, r"got shape \(\)"),
        (torch.empty(1, 2, 3, 4, 5), ValueError, "a synthesizer of your own"),
        (torch.tensor([1]), TypeError, "got torch.int64"),
        (None, TypeError, "got None"),
    ],
)
def test_no_synthesizer_for_that(output, kind, message):
    with pytest.raises(kind, match=message):
        dni.synthesizer_for(output)
