"""The ready-made synthesizers: their arithmetic, their start, their context."""

from __future__ import annotations

import warnings

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import dni
from tests import cases

MAKERS = {
    "basic": lambda **options: dni.BasicSynthesizer(8, **options),
    "conv": lambda **options: dni.ConvSynthesizer(8, **options),
}
TRIGGERS = {"basic": (3, 8), "conv": (3, 8, 5, 4)}


def settle(module):
    """Move every parameter off its start."""
    for parameter in module.parameters():
        nn.init.normal_(parameter)
    return module


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("context", [None, 10])
@pytest.mark.parametrize("n_hidden", [0, 1, 3])
@pytest.mark.parametrize("kind", MAKERS)
def test_the_first_message_is_exactly_zero_and_can_be_learnt_from(kind, n_hidden, context, bias):
    made = MAKERS[kind](n_hidden=n_hidden, context_dim=context, bias=bias)
    message = made(torch.randn(TRIGGERS[kind]), None if context is None else torch.randn(3, 10))
    assert torch.equal(message, torch.zeros(TRIGGERS[kind]))
    message.backward(torch.randn_like(message))
    last = made.layers[-1] if n_hidden else made.input_trigger
    assert last.weight.grad.abs().sum() > 0
    assert (last.bias is not None) == bias


def test_a_basic_synthesizer_is_its_equation():
    made = settle(dni.BasicSynthesizer(4, 2, hidden_dim=5, trigger_dim=3, context_dim=2))
    h, c = torch.randn(6, 3), torch.randn(6, 2)
    z = made.input_trigger(h) + F.linear(c, made.input_context.weight, made.input_context.bias)
    for layer in made.layers:
        z = layer(torch.relu(z))
    torch.testing.assert_close(made(h, c), z)
    assert z.shape == (6, 4)


def test_saved_weights_have_the_names_of_the_older_library():
    made = dni.BasicSynthesizer(4, 2, hidden_dim=5, trigger_dim=3, context_dim=2)
    shapes = {name: tuple(tensor.shape) for name, tensor in made.state_dict().items()}
    assert shapes == {
        "input_trigger.weight": (5, 3),
        "input_trigger.bias": (5,),
        "input_context.weight": (5, 2),
        "input_context.bias": (5,),
        "layers.0.weight": (5, 5),
        "layers.0.bias": (5,),
        "layers.1.weight": (4, 5),
        "layers.1.bias": (4,),
    }


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("n_hidden", [0, 1])
@pytest.mark.parametrize("kind", MAKERS)
def test_labels_are_their_one_hot_vectors(kind, n_hidden, bias):
    made = settle(MAKERS[kind](n_hidden=n_hidden, context_classes=10, bias=bias))
    trigger, labels = torch.randn(TRIGGERS[kind]), torch.tensor([0, 9, 3])
    one_hot = F.one_hot(labels, 10).float()
    torch.testing.assert_close(made(trigger, labels), made(trigger, one_hot))
    torch.testing.assert_close(made(trigger, labels.int()), made(trigger, one_hot))


def test_labels_belong_to_places_or_are_shared():
    made = settle(dni.BasicSynthesizer(8, context_classes=10))
    trigger, labels = torch.randn(3, 5, 8), torch.randint(10, (3, 5))
    torch.testing.assert_close(made(trigger, labels)[2, 4], made(trigger[2:, 4], labels[2:, 4])[0])
    shared = made(trigger, labels[:, :1])
    torch.testing.assert_close(shared, made(trigger, labels[:, :1].expand(3, 5)))


def test_a_label_is_broadcast_over_space():
    made = settle(dni.ConvSynthesizer(8, kernel_size=1, context_classes=10))
    trigger = torch.randn(1, 8, 1, 1).expand(2, 8, 5, 4)
    message = made(trigger, torch.tensor([1, 2]))
    assert torch.allclose(message[0], message[0, :, :1, :1].expand(8, 5, 4), atol=1e-6)
    assert not torch.allclose(message[0], message[1])


@settings(deadline=None, max_examples=40)
@given(
    leading=st.lists(st.integers(1, 4), max_size=3),
    widths=st.tuples(*[st.integers(1, 5)] * 3),
    n_hidden=st.integers(0, 2),
)
def test_any_leading_sizes_pass_through(leading, widths, n_hidden):
    output_dim, trigger_dim, context_dim = widths
    made = dni.BasicSynthesizer(
        output_dim, n_hidden, trigger_dim=trigger_dim, context_dim=context_dim
    )
    message = made(torch.randn(*leading, trigger_dim), torch.randn(*leading, context_dim))
    assert message.shape == (*leading, output_dim)


@pytest.mark.parametrize("kind", MAKERS)
def test_an_unexpected_context_is_ignored_with_one_warning(kind):
    made, trigger = settle(MAKERS[kind]()), torch.randn(TRIGGERS[kind])
    with pytest.warns(UserWarning, match="the one given is ignored"):
        message = made(trigger, torch.randn(3, 10))
    assert torch.equal(message, made(trigger, None))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        made(trigger, torch.randn(3, 10))


LABELS = torch.tensor([0, 1, 2])


@pytest.mark.parametrize(
    ("options", "context", "error", "match"),
    [
        ({"context_dim": 10}, None, ValueError, "synthesizer_context"),
        ({"context_dim": 10}, "label", TypeError, "expected a tensor as context, got a str"),
        ({"context_dim": 10}, LABELS, TypeError, "build it with context_classes=10"),
        ({"context_dim": 10}, torch.ones(3, 9), ValueError, r"\(3, 10\).*got \(3, 9\)"),
        ({"context_dim": 10}, torch.ones(2, 10), ValueError, r"\(3, 10\).*got \(2, 10\)"),
        ({"context_classes": 10}, LABELS[:2], ValueError, r"\(3,\).*got \(2,\)"),
        ({"context_classes": 10}, LABELS[None], ValueError, r"\(3,\).*got \(1, 3\)"),
        ({"context_classes": 10}, LABELS + 8, ValueError, "from 0 to 9 .* got 8 to 10"),
        ({"context_classes": 10}, LABELS - 1, ValueError, "from 0 to 9 .* got -1 to 1"),
    ],
)
@pytest.mark.parametrize("kind", MAKERS)
def test_a_context_that_does_not_fit_is_refused(kind, options, context, error, match):
    with pytest.raises(error, match=match):
        MAKERS[kind](**options)(torch.randn(TRIGGERS[kind]), context)


@pytest.mark.parametrize(
    ("made", "shape", "match"),
    [
        (dni.BasicSynthesizer(8), (3, 7), r"8 features .* got shape \(3, 7\). Build it for 7"),
        (dni.BasicSynthesizer(8), (3, 16, 5, 5), r"dni.synthesizer_for\(maps\) gives"),
        (dni.BasicSynthesizer(8), (), "Add a dimension"),
        (dni.ConvSynthesizer(8), (3, 7, 5, 5), "for 7 channels"),
        (dni.ConvSynthesizer(8), (3, 8), r"use what dni.synthesizer_for\(features\) gives"),
    ],
)
def test_a_trigger_of_another_width_is_refused(made, shape, match):
    with pytest.raises(ValueError, match=match):
        made(torch.randn(shape))


@pytest.mark.parametrize(
    ("build", "match"),
    [
        (lambda: dni.BasicSynthesizer(0), "expected output_dim to be a positive integer, got 0"),
        (lambda: dni.BasicSynthesizer(4.0), "got 4.0"),
        (lambda: dni.BasicSynthesizer(4, -1), "expected n_hidden"),
        (lambda: dni.BasicSynthesizer(4, context_dim=True), "context_dim"),
        (lambda: dni.BasicSynthesizer(4, context_dim=3, context_classes=4), "got 3 and 4"),
        (lambda: dni.ConvSynthesizer(4, kernel_size=4), "odd kernel_size; got 4"),
        (lambda: dni.ConvSynthesizer(4, hidden_channels=0), "hidden_channels"),
    ],
)
def test_sizes_are_checked(build, match):
    with pytest.raises(ValueError, match=match):
        build()


# -- centred ---------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(5, 6), (1, 5, 6), (2, 5, 6)])
def test_centred_messages_have_no_mean_over_the_batch(shape):
    inner = cases.synthesizer(6)
    trigger = torch.randn(shape)
    message = dni.Centered(inner)(trigger)
    plain = inner(trigger)
    torch.testing.assert_close(message, plain - plain.mean(-2, keepdim=True))
    torch.testing.assert_close(message.mean(-2), torch.zeros(*shape[:-2], 6), atol=1e-6, rtol=0)


@pytest.mark.parametrize(("shape", "over"), [((3, 5, 6), (0, 1)), ((2, 6, 3, 4), (0, 2, 3))])
def test_rows_may_lie_in_several_dimensions(shape, over):
    class Itself(torch.nn.Module):
        def forward(self, trigger, context):
            return trigger

    made, trigger = dni.Centered(Itself(), over), torch.randn(shape)
    torch.testing.assert_close(made(trigger).mean(over), torch.zeros(6), atol=1e-6, rtol=0)
    with pytest.raises(ValueError, match=f"expected a message of {len(shape)} dimensions"):
        made(trigger[0])


def test_a_batch_of_one_is_left_as_it_is():
    inner, trigger = cases.synthesizer(6), torch.randn(1, 1, 6)
    assert torch.equal(dni.Centered(inner)(trigger), inner(trigger))


def test_a_centred_synthesizer_passes_the_context_on():
    inner = cases.Counting(6, context_classes=3)
    labels = torch.tensor([0, 1, 2])
    with dni.synthesizer_context(labels):
        dni.BackwardInterface(dni.Centered(inner), unlock=False)(
            torch.randn(3, 6, requires_grad=True)
        )
    assert inner.contexts == [labels]


def test_only_a_module_can_be_centred():
    with pytest.raises(TypeError, match="expected a torch.nn.Module with forward"):
        dni.Centered(len)


# -- the state of stacked layers -------------------------------------------------------


def test_a_synthesizer_as_wide_as_all_layers_sees_them_joined():
    made = cases.synthesizer(12, context_classes=3)
    state, labels = torch.randn(2, 5, 6), torch.tensor([0, 1, 2, 0, 1])
    expected = made(torch.cat([state[0], state[1]], -1), labels)
    torch.testing.assert_close(torch.cat(list(made(state, labels)), -1), expected)


def test_a_synthesizer_as_wide_as_one_layer_serves_each():
    made, state = cases.synthesizer(6), torch.randn(2, 5, 6)
    torch.testing.assert_close(made(state), torch.stack([made(state[0]), made(state[1])]))


def test_sizes_of_one_may_be_left_out_of_a_context():
    made, state = cases.synthesizer(6, context_classes=3), torch.randn(1, 5, 6)
    labels = torch.tensor([0, 1, 2, 0, 1])
    torch.testing.assert_close(made(state, labels), made(state, labels[None]))
    with pytest.raises(ValueError, match=r"expected a context of shape \(2, 5\)"):
        made(torch.randn(2, 5, 6), labels)


@pytest.mark.parametrize("kind", MAKERS)
def test_an_activation_is_applied_between_layers(kind):
    made = MAKERS[kind](n_hidden=1, activation=torch.sin)
    hidden = made.input_trigger(torch.ones(TRIGGERS[kind]))
    nn.init.normal_(made.layers[0].weight)
    torch.testing.assert_close(made(torch.ones(TRIGGERS[kind])), made.layers[0](torch.sin(hidden)))


def test_an_activation_is_a_function():
    with pytest.raises(TypeError, match=r"got .*GELU.*Did you mean GELU\(\)\?"):
        dni.BasicSynthesizer(8, activation=nn.GELU)
    with pytest.raises(TypeError, match="a function of one tensor, got 'relu'"):
        dni.BasicSynthesizer(8, activation="relu")


def maps(**options):
    return dni.MapSynthesizer((3, 6, 6), hidden=5, **options)


def test_a_map_synthesizer_is_the_sum_of_a_close_and_a_coarse_view():
    made = settle(dni.MapSynthesizer((3, 16, 12), 2, 5, context_dim=4))
    assert made.grid == (8, 6)
    h, c = torch.randn(2, 3, 16, 12), torch.randn(2, 4)
    blocks = h.unflatten(2, (8, 2)).unflatten(4, (6, 2)).mean((3, 5))
    coarse = made.coarse(blocks.flatten(1), c).view(2, 3, 8, 6)
    spread = coarse.repeat_interleave(2, 2).repeat_interleave(2, 3)
    torch.testing.assert_close(made(h, c), made.close(h, c) + spread)


@pytest.mark.parametrize(
    ("side", "blocks"), [(1, 1), (7, 7), (8, 8), (9, 5), (14, 7), (28, 7), (32, 8), (224, 8)]
)
def test_the_coarse_view_has_blocks_of_one_size_and_few(side, blocks):
    assert dni.MapSynthesizer((1, side, side), hidden=1).grid == (blocks, blocks)


def test_a_new_map_synthesizer_says_exactly_nothing_and_can_be_learnt_from():
    made = maps(context_classes=10)
    message = made(torch.randn(2, 3, 6, 6), torch.tensor([1, 2]))
    assert torch.equal(message, torch.zeros(2, 3, 6, 6))
    message.backward(torch.randn_like(message))
    for view in (made.close, made.coarse):
        assert view.layers[-1].weight.grad.abs().sum() > 0


def test_other_sizes_of_maps_are_seen_on_the_same_grid():
    made = settle(maps())
    h = torch.randn(2, 3, 6, 6)
    doubled = h.repeat_interleave(2, 2).repeat_interleave(2, 3)
    message = made(h).repeat_interleave(2, 2).repeat_interleave(2, 3)
    torch.testing.assert_close(made(doubled), message)


def test_a_map_synthesizer_can_learn_what_a_convolution_cannot():
    """In front of a flatten each place has weights of its own."""

    def loss_after(made):
        optimizer = torch.optim.Adam(made.parameters(), 1e-2)
        generator = torch.Generator().manual_seed(0)
        weights = torch.randn(10, 2 * 4 * 4, generator=generator)
        for _ in range(300):
            h = torch.randn(64, 2, 4, 4, generator=generator)
            labels = torch.randint(10, (64,), generator=generator)
            loss = F.mse_loss(made(h, labels), weights[labels].view_as(h))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        return loss.item()

    assert loss_after(dni.MapSynthesizer((2, 4, 4), hidden=32, context_classes=10)) < 0.01
    assert loss_after(dni.ConvSynthesizer(2, 1, 32, 1, context_classes=10)) > 0.5


def test_an_unexpected_context_of_a_map_synthesizer_is_one_warning():
    with pytest.warns(UserWarning, match="ConvSynthesizer: built without a context") as warned:
        maps()(torch.randn(2, 3, 6, 6), torch.randn(2, 4))
    assert len(warned) == 1


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: dni.MapSynthesizer((3, 6)), r"expected shape as \(channels, height, width\), got"),
        (lambda: dni.MapSynthesizer((3, 0, 6)), r"expected shape as .*got \(3, 0, 6\)"),
        (lambda: dni.MapSynthesizer(3), "expected shape as .*got 3"),
        (lambda: maps(n_hidden=0), "expected n_hidden to be an integer from 1, got 0"),
        (lambda: maps()(torch.randn(2, 4, 6, 6)), r"expected a trigger of shape \(N, 3, H, W\)"),
    ],
)
def test_a_map_synthesizer_says_what_it_needs(make, match):
    with pytest.raises(ValueError, match=match):
        make()
