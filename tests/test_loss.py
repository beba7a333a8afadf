"""A predicted loss: its gradient is the message, and the real one teaches it."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import dni
from tests.cases import CLASSES, WIDTH, Chain, batch, compiles, gradients


def settled(shape=WIDTH, classes=CLASSES):
    """One that has learnt something."""
    made = dni.LossSynthesizer(shape, classes)
    for parameter in made.parameters():
        nn.init.normal_(parameter, std=0.3)
    return made


def classified(made, h, y, pooled=lambda h: h):
    """The gradient that autograd finds for the classifier that ``made`` stands for."""
    h = h.detach().requires_grad_()
    scores = F.linear(pooled(h), made.classifier.weight, made.classifier.bias)
    loss = F.cross_entropy(scores.flatten(0, -2), y.flatten())
    return torch.autograd.grad(loss, h)[0]


@pytest.mark.parametrize("unlock", [True, False])
def test_with_the_weights_of_the_last_layer_it_is_an_oracle(unlock):
    """Transparency: then a cut network has the gradients of plain backpropagation."""
    below, last = nn.Sequential(nn.Linear(4, WIDTH), nn.Tanh()).double(), nn.Linear(WIDTH, CLASSES)
    last.double()
    x, y = torch.randn(5, 4).double(), torch.arange(5) % CLASSES
    parameters = [*below.parameters(), *last.parameters()]
    expected = torch.autograd.grad(F.cross_entropy(last(below(x)), y), parameters)
    oracle = dni.LossSynthesizer(WIDTH, CLASSES).double()
    oracle.classifier.load_state_dict(last.state_dict())
    cut = dni.BackwardInterface(oracle, unlock=unlock)
    with dni.synthesizer_context(y):
        F.cross_entropy(last(cut(below(x))), y).backward()
    for parameter, gradient in zip(parameters, expected, strict=True):
        torch.testing.assert_close(parameter.grad, gradient, rtol=1e-12, atol=1e-14)
    assert oracle.classifier.weight.grad.abs().max() < 1e-12


@pytest.mark.parametrize(
    ("shape", "rows"), [((5,), (5,)), ((3, 5), (3, 5)), ((3, 5), (1, 5)), ((3, 5), (3, 1))]
)
def test_it_says_the_gradient_of_a_cross_entropy(shape, rows):
    made, h, y = settled(), torch.randn(*shape, WIDTH), torch.randint(CLASSES, rows)
    torch.testing.assert_close(made(h, y), classified(made, h, y.expand(shape)))


@pytest.mark.parametrize(
    ("built", "given", "grid"),
    [
        ((6, 6), (6, 6), (6, 6)),
        ((16, 8), (16, 8), (16, 8)),
        ((32, 28), (32, 28), (16, 14)),
        ((17, 31), (17, 31), (9, 16)),  # blocks of several sizes, that overlap
        ((16, 16), (24, 40), (16, 16)),
        ((8, 8), (5, 1), (8, 8)),
    ],
)
def test_of_a_map_it_says_the_gradient_of_a_classifier_of_its_blocks(built, given, grid):
    made = settled((2, *built))
    assert made.grid == grid
    h, y = torch.randn(3, 2, *given), torch.randint(CLASSES, (3,))
    expected = classified(made, h, y, lambda h: F.adaptive_avg_pool2d(h, grid).flatten(1))
    torch.testing.assert_close(made(h, y), expected)


@pytest.mark.parametrize("shape", [(1536,), (256, 4, 4), (32768,), (128, 16, 16)])
def test_many_features_count_less(shape):
    """A step of all weights would move the scores by their sum, and by what all rows share most."""
    made = settled(shape if shape[1:] else shape[0])
    made.classifier.weight.data /= 8
    h, y = torch.randn(5, *shape) + 1, torch.randint(CLASSES, (5,))
    h[2], y[2] = 1000, -100  # not a row of the batch
    gain, kept = min(1, 8192 / h[0].numel()), 1024 / h[0].numel()
    assert made.gain == gain
    less = h - (1 - kept) * h[y >= 0].mean(0)
    made.classifier.weight.data *= gain
    expected = classified(made, less, y, lambda h: h.flatten(1))
    made.classifier.weight.data /= gain
    torch.testing.assert_close(made(h, y), expected)
    alone = classified(made, kept * h[:1], y[:1], lambda h: gain * h.flatten(1))
    torch.testing.assert_close(made(h[:1], y[:1]), alone)


@pytest.mark.parametrize("rows", [(3, 5), (1, 5), (3, 1)])
def test_many_features_of_tokens_count_less(rows):
    made, h, y = settled(4096), torch.randn(3, 5, 4096) + 1, torch.randint(CLASSES, rows)
    made.classifier.weight.data /= 8
    less = h - 0.75 * h.mean((0, 1))
    torch.testing.assert_close(made(h, y), classified(made, less, y.expand(3, 5)))


def test_probabilities_are_labels_too():
    made, (h, y) = settled(), batch()
    torch.testing.assert_close(made(h, F.one_hot(y, CLASSES).float()), made(h, y))
    both = 0.25 * made(h, y) + 0.75 * made(h, y.flip(0))
    mixed = 0.25 * F.one_hot(y, CLASSES) + 0.75 * F.one_hot(y.flip(0), CLASSES)
    torch.testing.assert_close(made(h, mixed), both)


def test_a_row_without_a_label_is_left_out():
    """As ``F.cross_entropy`` leaves it out."""
    made, (h, y) = settled(), batch()
    y[1:3] = -100
    torch.testing.assert_close(made(h, y), classified(made, h, y))
    assert torch.equal(made(h, torch.full_like(y, -100)), torch.zeros_like(h))


def test_labels_may_be_bytes():
    """Of which 156 is what -100 would be."""
    made, h, y = settled(classes=200), torch.randn(3, WIDTH), torch.tensor([1, 156, 199])
    torch.testing.assert_close(made(h, y.byte()), made(h, y))


@pytest.mark.parametrize(
    ("factor", "width"), [(1.0, WIDTH), (1e4, WIDTH), (0.25, WIDTH), (1.0, 32768)]
)
def test_what_it_learns_from_is_the_error_of_its_weights(factor, width, monkeypatch):
    r"""With a fixed error :math:`\delta`, a step of 1 is the least-squares one."""
    made, (_, y) = settled(width).double(), batch()
    made.scale, h = factor, torch.randn(5, width).double()
    with torch.no_grad():
        error = made.classifier(h).softmax(-1) - F.one_hot(y, CLASSES)
        real, old = torch.randn(5, width).double(), made.gain * made.classifier.weight
        weights = old - error.T @ (error @ old - real * 5 / factor) / error.square().sum()
    scores = torch.log(error + F.one_hot(y, CLASSES))
    monkeypatch.setattr(made, "_scores", lambda *_: scores)  # fixed
    cut = dni.BackwardInterface(made, unlock=False)
    with dni.synthesizer_context(y):
        cut(h.requires_grad_()).backward(real)
    moved = made.gain * (made.classifier.weight - made.classifier.weight.grad)
    torch.testing.assert_close(moved, weights, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("shape", [8192, (128, 16, 16)])
def test_a_step_moves_many_weights_no_further_than_8192(shape):
    made = dni.LossSynthesizer(shape, CLASSES)
    rest = (shape,) if isinstance(shape, int) else shape
    h, y = torch.rand(8, *rest), torch.randint(CLASSES, (8,))
    cut = dni.BackwardInterface(made, unlock=False)
    with dni.synthesizer_context(y):
        cut(h.requires_grad_()).backward(torch.randn(8, *rest))
    torch.optim.Adam(cut.parameters(), 1e-3).step()
    moved = made.gain * made.classifier.weight.abs().sum(1)
    torch.testing.assert_close(moved, torch.full((CLASSES,), 8.192), rtol=1e-3, atol=0)


@pytest.mark.parametrize(
    ("factor", "kind"), [(1.0, torch.optim.Adam), (1e4, torch.optim.SGD)], ids=["Adam", "SGD"]
)
@pytest.mark.parametrize("shape", [(WIDTH,), (1, 2, 3), (1, 32, 2)])
def test_the_last_layer_is_found_in_the_scale_that_was_told(factor, kind, shape):
    """Of a map of 32 places a side, each block is two of them."""
    torch.manual_seed(0)
    made = dni.LossSynthesizer(shape if shape[1:] else WIDTH, CLASSES, lambda: factor)
    last = nn.Linear(made.classifier.in_features, CLASSES)
    cut = dni.BackwardInterface(made, unlock=False)
    optimizer = kind(cut.parameters(), 0.01 if kind is torch.optim.Adam else 0.3)
    with dni.diagnostics.Monitor(cut) as monitor:
        for step in range(700):
            if step == 600:
                monitor.read()
            h, y = torch.randn(64, *shape, requires_grad=True), torch.randint(CLASSES, (64,))
            optimizer.zero_grad()
            with dni.synthesizer_context(y):
                seen = cut(h * 1)
            seen = F.adaptive_avg_pool2d(seen, made.grid) if made.grid else seen
            (factor * F.cross_entropy(last(seen.flatten(1)), y)).backward()
            optimizer.step()
        measured = monitor.read()[""]
    assert measured.cosine > 0.999
    assert measured.norm_ratio == pytest.approx(1, abs=0.02)


def test_large_activations_do_not_throw_it_about():
    """Without batch norm: the way through the softmax grows with the activations."""
    torch.manual_seed(0)
    last, made = nn.Linear(WIDTH, CLASSES), dni.LossSynthesizer(WIDTH, CLASSES)
    cut = dni.BackwardInterface(made, unlock=False)
    optimizer = torch.optim.Adam(cut.parameters(), 1e-2)
    ratios = []
    with dni.diagnostics.Monitor(cut) as monitor:
        for _ in range(300):
            h, y = 30 * torch.randn(64, WIDTH), torch.randint(CLASSES, (64,))
            optimizer.zero_grad()
            with dni.synthesizer_context(y):
                F.cross_entropy(last(cut(h.requires_grad_() * 1)), y).backward()
            optimizer.step()
            ratios.append(monitor.read()[""].norm_ratio)
    assert max(ratios) < 1.5


def test_a_new_one_says_exactly_nothing_and_has_something_to_learn():
    made, (h, y) = dni.LossSynthesizer(WIDTH, CLASSES), batch()
    cut = dni.BackwardInterface(made, unlock=False)
    with dni.synthesizer_context(y):
        cut(h.requires_grad_()).backward(torch.randn(5, WIDTH))
    assert torch.equal(h.grad, torch.zeros(5, WIDTH))
    assert made.classifier.weight.grad.abs().min() > 0


@pytest.mark.parametrize("shape", [WIDTH, (2, 3, 3)])
def test_what_is_empty_or_certain_leaves_everything_finite(shape):
    made = dni.LossSynthesizer(shape, CLASSES)
    made.classifier.bias.data[0] = 1000.0  # sure of class 0
    rest = (shape,) if isinstance(shape, int) else shape
    cut = dni.BackwardInterface(made, unlock=False)
    for rows in (5, 0):
        h, y = torch.randn(rows, *rest, requires_grad=True), torch.zeros(rows).long()
        with dni.synthesizer_context(y):
            cut(h).sum().backward()
        assert torch.equal(h.grad, torch.zeros(rows, *rest))
        assert all(parameter.grad.isfinite().all() for parameter in made.parameters())


def test_a_frozen_one_is_applied():
    made, (h, y) = settled().requires_grad_(False), batch()
    cut = dni.BackwardInterface(made, unlock=False)
    with dni.synthesizer_context(y):
        cut(h.requires_grad_()).backward(torch.randn(5, WIDTH))
    assert torch.equal(h.grad, made(h.detach(), y))


def test_under_autocast_its_message_stays_wide():
    """A gradient of 1e-8 is 0 in half precision."""
    made, (h, y) = settled(), batch()
    with torch.autocast("cpu", torch.bfloat16):
        narrow = made(h.bfloat16(), y)
    assert narrow.dtype == torch.float32
    torch.testing.assert_close(narrow, made(h, y), rtol=0.1, atol=0.01)


@pytest.mark.parametrize("features", [WIDTH, 4096])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_in_half_precision_it_fits_its_trigger_and_stays_finite(dtype, features):
    made = settled(features).to(dtype)
    h = 1000 + torch.randn(256, features)  # whose sum float16 cannot hold
    message = made(h.to(dtype), torch.zeros(256).long())
    assert message.dtype == dtype
    assert message.isfinite().all()


def test_a_scale_is_asked_for_each_time():
    scales, made = iter([1.0, 3.0, 0.0]), settled()
    made.scale = lambda: next(scales)
    h, y = batch()
    torch.testing.assert_close(3 * made(h, y), made(h, y))
    with pytest.raises(ValueError, match=r"LossSynthesizer: scale .* above 0, .* got 0.0"):
        made(h, y)


def test_a_moment_learnt_again_gives_the_gradient_that_it_gave():
    cut = dni.BackwardInterface(settled().double(), unlock=False)
    replay, (h, y) = dni.Replay(cut, keep=1), batch()
    with dni.synthesizer_context(y):
        cut(h.double().requires_grad_()).backward(torch.randn(5, WIDTH).double())
    first = gradients(cut)
    cut.zero_grad()
    next(replay.losses(1)).backward()
    for name, gradient in gradients(cut).items():
        torch.testing.assert_close(gradient, first[name], rtol=1e-9, atol=1e-12)


def chain():
    return Chain(lambda: dni.BackwardInterface(settled(), unlock=False))


def loss_of(model, x, y):
    with dni.synthesizer_context(y):
        return F.cross_entropy(model(x), y)


def test_compiled_whole_it_is_the_eager_one():
    torch.compiler.reset()
    eager, model = chain(), chain()
    model.load_state_dict(eager.state_dict())
    fast = torch.compile(loss_of, fullgraph=True, backend="aot_eager")
    for _ in range(3):
        x, y = batch()
        for network, loss in ((eager, loss_of), (model, fast)):
            network.zero_grad()
            loss(network, x, y).backward()
        for name, gradient in gradients(model).items():
            torch.testing.assert_close(gradient, gradients(eager)[name])
    for name, tensor in model.state_dict().items():
        torch.testing.assert_close(tensor, eager.state_dict()[name])


test_compiled_whole_it_is_the_eager_one.pytestmark = compiles


def test_a_transform_finds_the_same_gradients():
    model, (x, y) = chain(), batch()
    loss_of(model, x, y).backward()
    found = torch.func.grad(
        lambda p: loss_of(lambda x: torch.func.functional_call(model, p, (x,)), x, y)
    )(dict(model.named_parameters()))
    for name, gradient in gradients(model).items():
        torch.testing.assert_close(found[name], gradient)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((0, 4), ValueError, "expected shape to be a positive integer, got 0"),
        (((3, 6), 4), ValueError, r"expected shape as \(channels, height, width\), got \(3, 6\)"),
        ((6, 0), ValueError, "context_classes, the number of classes, .* from 1, got 0"),
        ((6, None), ValueError, "context_classes, the number of classes, .* from 1, got None"),
        ((6, 4, 0), ValueError, "scale is the network's loss in units of.* above 0, .* got 0"),
        ((6, 4, "mean"), TypeError, "expected scale to be a number, got a str"),
    ],
)
def test_what_it_cannot_be_built_with(arguments, error, message):
    with pytest.raises(error, match=message):
        dni.LossSynthesizer(*arguments)


@pytest.mark.parametrize(
    ("shape", "trigger", "context", "error", "message"),
    [
        (6, (5, 7), [0] * 5, ValueError, "a trigger of 6 features in its last dimension"),
        ((2, 4, 4), (5, 3, 4, 4), [0] * 5, ValueError, r"a trigger of shape \(N, 2, H, W\)"),
        (6, (5, 6), None, ValueError, "built with a context of 4 numbers or classes, but"),
        (6, (5, 6), [0, 1, 2, 3, 4], ValueError, "expected labels from 0 to 3"),
        (6, (5, 6), [0] * 4, ValueError, r"expected a context of shape \(5,\), one for each"),
    ],
)
def test_what_it_cannot_answer(shape, trigger, context, error, message):
    made = dni.LossSynthesizer(shape, CLASSES)
    labels = None if context is None else torch.tensor(context)
    with pytest.raises(error, match=message):
        made(torch.randn(trigger), labels)
