"""Every problem is found, all at once, and nothing is found where there is none."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import dni
from tests.decoupling.networks import CASES, images, mlp


class Troubled(nn.Module):
    """One problem after each of its modules."""

    def __init__(self):
        super().__init__()
        self.frozen = nn.Linear(4, 4).requires_grad_(False)
        self.fine = nn.Linear(4, 4)
        self.changed = nn.Linear(4, 4)
        self.relu = nn.ReLU(inplace=True)
        self.twice = nn.Linear(4, 4)
        self.unused = nn.Linear(4, 4)
        self.never = nn.Linear(4, 4)
        self.labels = nn.Identity()
        self.labels.forward = lambda x: x.argmax(-1)
        self.volume = nn.Unflatten(1, (2, 1, 2, 1))
        self.tied = nn.Linear(4, 4)
        self.head = nn.Linear(4, 4)
        self.head.weight = self.tied.weight

    def forward(self, x):
        x = self.relu(self.changed(self.fine(self.frozen(x))))
        x = self.twice(torch.tanh(self.twice(x)))
        self.unused(x), self.labels(x)
        x = self.tied(self.volume(x).flatten(1))
        return self.head(torch.tanh(x))


EXPECTED = [
    ("frozen", "no gradient flows back into it"),
    ("changed", "its output is changed in place after the cut"),
    ("twice", "it is called 2 times"),
    ("unused", "its output is unused"),
    ("never", "it is never called"),
    ("labels", r"unsupported output, Tensor(3,)"),
    ("volume", "no ready-made synthesizer for an output of (3, 2, 1, 2, 1)"),
    ("tied", "tied.weight is used below and above the cut"),
    ("head", "its output is the model's own"),
]


def test_all_problems_are_found_at_once():
    model = Troubled()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    names = [name for name, _ in model.named_children()]
    found = dni.validate(model, torch.randn(3, 4), names)
    assert [problem.cut for problem in found] == [name for name, _ in EXPECTED]
    for problem, (_, what) in zip(found, EXPECTED, strict=True):
        assert problem.what.startswith(what)
        assert str(problem) == f"{problem.cut}: {problem.what}. {problem.remedy}."
    assert all(torch.equal(value, model.state_dict()[name]) for name, value in before.items())
    assert all(parameter.grad is None for parameter in model.parameters())
    assert not any(module._forward_hooks for module in model.modules())


@pytest.mark.parametrize("decoupled", [False, True])
@pytest.mark.parametrize("case", sorted(CASES.keys() - {"shared"}))
def test_sound_cuts_have_no_problems(case, decoupled):
    """Residual connections around a cut and inside it are sound."""
    build, inputs, at, _ = CASES[case]
    model, x = build(), inputs()
    if decoupled:
        dni.decouple(model, at, sample=x)
    assert dni.validate(model, x, at) == []


def test_what_decouple_leaves_alone_is_no_problem():
    """The head, and a leaf that is read and not called."""
    model = nn.TransformerEncoderLayer(4, 2, 8, batch_first=True)
    assert dni.validate(model, torch.randn(2, 3, 4), "leaves") == []
    assert dni.validate(mlp(), images(4), "leaves") == []
    (problem,) = dni.validate(mlp(), images(4), ["leaves", "6"])
    assert problem.what == "its output is the model's own"


@pytest.mark.parametrize(
    ("build", "sample", "at", "what"),
    [
        (
            lambda: nn.TransformerEncoderLayer(4, 2, 8, batch_first=True),
            torch.randn(2, 3, 4), "*.out_proj", "it is never called",
        ),
        (lambda: nn.Sequential(nn.Linear(4, 3), nn.Tanh()), images(4), "leaves", "it is the head"),
    ],
)  # fmt: skip
def test_where_nothing_is_left_to_cut_there_is_a_problem(build, sample, at, what):
    (problem,) = dni.validate(build(), sample, at)
    assert problem.what.startswith(what)
    with pytest.raises(ValueError, match="expected to find modules that the sample reaches"):
        dni.decouple(build(), at, sample=sample)


def test_a_cut_inside_a_residual_branch_is_sound():
    build, inputs, _, _ = CASES["residual"]
    assert dni.validate(build(), inputs(), "layer2.0.conv1") == []


def test_weights_tied_by_functional_code_are_found():
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.tokens = nn.Embedding(7, 4)
            self.core = nn.Linear(4, 4)

        def forward(self, x):
            return nn.functional.linear(self.core(self.tokens(x)), self.tokens.weight)

    (first, second) = dni.validate(Tied(), torch.randint(7, (2, 3)), ["tokens", "core"])
    assert first.what.startswith("tokens.weight is used below and above")
    assert second.what.startswith("tokens.weight is used below and above")


def test_what_validate_says_of_an_operation_in_place_is_what_happens():
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(inplace=True), nn.Linear(8, 3))
    (problem,) = dni.validate(model, images(4), "0")
    assert "in place" in problem.what
    dni.decouple(model, "0")
    with pytest.raises(RuntimeError, match="modified inplace"):
        model(images(4))


@pytest.mark.parametrize(
    ("at", "sample", "message"),
    [("relu", images(4), "which is none"), ("2", images(9), "a sample that the model takes")],
)
def test_what_cannot_be_asked(at, sample, message):
    model = mlp()
    with pytest.raises(ValueError, match=message):
        dni.validate(model, sample, at)
    assert not any(module._forward_hooks for module in model.modules())
