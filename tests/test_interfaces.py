"""What an interface asks of its synthesizer and its trigger, and what it refuses."""

from __future__ import annotations

import copy
import pickle
from collections import OrderedDict, namedtuple
from contextlib import nullcontext

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

import dni
from tests import cases
from tests.cases import WIDTH, Chain, Counting, Fixed, batch, gradients, synthesizer

State = namedtuple("State", ["h", "c"])


def trigger(*shape):
    return torch.randn(*(shape or (2, WIDTH)), requires_grad=True) * 1


def both_forms(test):
    return pytest.mark.parametrize("unlock", [True, False])(test)


# -- what holds ----------------------------------------------------------------------


@both_forms
def test_the_synthesizer_is_called_once_per_forward_pass(unlock):
    made = Counting(WIDTH)
    interface = dni.BackwardInterface(made, unlock=unlock)
    interface(trigger()).sum().backward()
    assert len(made.contexts) == 1


@both_forms
def test_each_synthesizer_of_a_pair_is_called_once(unlock):
    forward, backward = Counting(WIDTH, trigger_dim=3), Counting(WIDTH)
    interface = dni.BidirectionalInterface(forward, backward, unlock=unlock)
    interface(trigger(), torch.randn(2, 3)).sum().backward()
    assert len(forward.contexts) == len(backward.contexts) == 1


def test_the_early_form_returns_a_fresh_leaf_with_the_same_values():
    h = trigger()
    out = dni.BackwardInterface(synthesizer())(h)
    assert torch.equal(out, h)
    reached = out.grad_fn.next_functions
    assert all(h.grad_fn is not function for function, _ in reached)


@both_forms
def test_a_frozen_synthesizer_is_applied_and_not_trained(unlock):
    frozen = synthesizer().requires_grad_(False)
    interface = dni.BackwardInterface(frozen, unlock=unlock)
    start = copy.deepcopy(interface.state_dict())
    leaf = torch.randn(2, WIDTH, requires_grad=True)
    (interface(leaf * 1) * 3).sum().backward()
    torch.testing.assert_close(leaf.grad, frozen(leaf.detach()))
    assert all(gradient is None for gradient in gradients(interface).values())
    assert all(torch.equal(start[name], now) for name, now in interface.state_dict().items())


def test_mix_and_factor_are_attributes():
    interface = dni.BackwardInterface(synthesizer(), unlock=False)
    interface.mix, interface.factor = 0.5, 0.1
    assert (interface.mix, interface.factor) == (0.5, 0.1)
    assert "mix=0.5, factor=0.1" in repr(interface)
    interface.mix = torch.tensor(0.25)
    assert interface.mix == 0.25


@pytest.mark.parametrize("build", [copy.deepcopy, lambda made: pickle.loads(pickle.dumps(made))])
def test_copies_and_pickles_go_on_like_the_original(build):
    model = Chain(lambda: dni.BackwardInterface(synthesizer(), unlock=False, mix=0.5))
    x, y = batch()
    nn.functional.cross_entropy(model(x), y).backward()
    model.zero_grad()
    twin = build(model)
    for net in (model, twin):
        nn.functional.cross_entropy(net(x), y).backward()
    for name, gradient in gradients(model).items():
        assert torch.equal(gradient, gradients(twin)[name])


def test_the_scale_is_saved_and_loads_with_weights_only(tmp_path):
    interface = dni.BackwardInterface(synthesizer(), unlock=False)
    (interface(trigger()) * 1e-5).sum().backward()
    torch.save(interface.state_dict(), tmp_path / "state.pt")
    other = dni.BackwardInterface(synthesizer(), unlock=False)
    other.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    h = trigger()
    assert torch.equal(interface.receive(h), other.receive(h))


def test_what_is_received_is_plain_data_in_the_structure_of_its_trigger():
    interface = dni.BackwardInterface(synthesizer(2 * WIDTH))
    state = State(trigger(1, 2, WIDTH), trigger(1, 2, WIDTH))
    received = interface.receive(state)
    assert isinstance(received, State)
    assert not received.h.requires_grad
    assert received.c.shape == state.c.shape


@pytest.mark.parametrize(
    "make",
    [
        lambda h, c: (h, c),
        lambda h, c: [h, c],
        lambda h, c: {"h": h, "c": c},
        lambda h, c: State(h, c),
        lambda h, c: OrderedDict(h=h, c=c),
        lambda h, c: (h, [c, {"twice": h}]),
    ],
)
def test_states_keep_their_structure(make):
    h, c = trigger(2, 3), trigger(2, 5)
    state = make(h, c)
    width = sum(leaf.shape[-1] for leaf in dni._trees.flatten(state, "")[0])
    interface = dni.BackwardInterface(synthesizer(width))
    marked = interface.make_trigger(state)
    assert type(marked) is type(state)
    leaves = dni._trees.flatten(marked, "")[0]
    with dni.defer_backward():
        interface.backward(marked)
        dni.backward(sum(leaf.sum() for leaf in leaves))
    assert interface.synthesizer.input_trigger.weight.grad.abs().sum() > 0


def test_a_marked_trigger_passes_its_gradient_on():
    interface = dni.BackwardInterface(synthesizer())
    h = torch.randn(2, WIDTH, requires_grad=True)
    (interface.make_trigger(h) * 3).sum().backward()
    assert torch.equal(h.grad, torch.full_like(h, 3))


def test_factor_may_be_overridden_for_one_call():
    interface = dni.BackwardInterface(Fixed(torch.ones(2, WIDTH)), factor=0.5)
    for factor, expected in ((None, 0.5), (0.1, 0.1), (1, 1.0)):
        h = torch.randn(2, WIDTH, requires_grad=True)
        interface.backward(h * 1, factor=factor)
        torch.testing.assert_close(h.grad, torch.full_like(h, expected))


def test_send_in_eval_mode_teaches_nothing():
    interface = dni.BackwardInterface(synthesizer()).eval()
    interface.send(torch.ones(2, WIDTH), torch.ones(2, WIDTH))
    interface.backward(trigger())
    assert all(gradient is None for gradient in gradients(interface).values())


def test_autocast_leaves_the_regression_in_float32():
    model = Chain(lambda: dni.BackwardInterface(synthesizer(), unlock=False))
    x, y = batch()
    with torch.autocast("cpu", torch.bfloat16):
        loss = nn.functional.cross_entropy(model(x), y)
    loss.backward()
    assert all(gradient.dtype == torch.float32 for gradient in gradients(model).values())


@both_forms
def test_under_autocast_a_gradient_passes_in_the_precision_of_its_forward_pass(unlock):
    """1e-9 is 0 in half precision."""
    layer = nn.Linear(3, WIDTH)
    cut = dni.BackwardInterface(Fixed(torch.full((2, WIDTH), 1e-9)), unlock=unlock)
    with torch.autocast("cpu", torch.float16):
        with torch.autocast("cpu", enabled=False):
            h = layer(torch.ones(2, 3))
        out = cut(h)
    out.sum().backward()
    expected = torch.full((WIDTH, 3), 2e-9)
    torch.testing.assert_close(layer.weight.grad, expected, rtol=1e-5, atol=0)


def test_gradcheck_where_the_gradient_is_true():
    observe = dni.BackwardInterface(synthesizer().double(), unlock=False, mix=1.0)
    h = torch.randn(2, WIDTH, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(observe, (h,))
    assert torch.autograd.gradgradcheck(observe, (h,))


# -- what is refused -----------------------------------------------------------------


@both_forms
@pytest.mark.parametrize(
    ("message", "error", "match"),
    [
        (None, TypeError, "returns one tensor.* got None from Fixed"),
        ((torch.ones(2, WIDTH),), TypeError, "got a tuple"),
        (torch.ones(2, 5), ValueError, r"returned \(2, 5\) for .* Did you mean output_dim=6"),
        (torch.ones(3, WIDTH), ValueError, r"\(3, 6\) for a message of \(2, 6\)"),
        (torch.ones(2, WIDTH, device="meta"), ValueError, r"on meta .* interface.to\('cpu'\)"),
        (torch.ones(2, WIDTH).double(), TypeError, r"torch.float64 .* interface.to\(torch.float32"),
    ],
)
def test_a_synthesizer_that_returns_no_message_is_refused(message, error, match, unlock):
    interface = dni.BackwardInterface(Fixed(message), unlock=unlock, name="here")
    leaf = torch.randn(2, WIDTH, requires_grad=True)
    with pytest.raises(error, match=f"^BackwardInterface 'here': .*{match}"):
        interface(leaf * 1)
    assert leaf.grad is None


@both_forms
def test_a_trigger_without_gradient_is_refused(unlock):
    interface = dni.BackwardInterface(synthesizer(), unlock=unlock)
    with pytest.raises(RuntimeError, match="expected a trigger that requires grad.*frozen"):
        interface(torch.randn(2, WIDTH))
    with pytest.raises(RuntimeError, match="expected a trigger that requires grad"):
        interface.backward(torch.randn(2, WIDTH))


@pytest.mark.parametrize(
    ("message", "match"),
    [
        (None, "got None"),
        ((), "an empty tuple"),
        (3.0, "got a float"),
        ([torch.ones(2, 3), "x"], "got a str"),
    ],
)
def test_what_is_no_message_is_refused(message, match):
    with pytest.raises(TypeError, match=f"a message is a tensor, or a non-empty tuple.*{match}"):
        dni.BackwardInterface(synthesizer())(message)


def test_tensors_that_cannot_be_joined_are_refused():
    with pytest.raises(ValueError, match=r"leading sizes \(2,\).* beside \(3, 6\)"):
        dni.BackwardInterface(synthesizer())((trigger(), trigger(3, WIDTH)))
    with pytest.raises(ValueError, match="joined along their last dimension"):
        dni.BackwardInterface(synthesizer())((trigger().sum(), trigger().sum()))
    with pytest.raises(TypeError, match=r"floating-point.* got torch.int64"):
        dni.BackwardInterface(synthesizer()).make_trigger(torch.ones(2, WIDTH).long())


@pytest.mark.parametrize(
    ("options", "error", "match"),
    [
        ({"mix": 1.5, "unlock": False}, ValueError, "from 0 .* to 1 .* got 1.5"),
        ({"mix": -0.1, "unlock": False}, ValueError, "got -0.1"),
        ({"mix": float("nan"), "unlock": False}, ValueError, "got nan"),
        ({"mix": "half", "unlock": False}, TypeError, "expected mix to be a number, got a str"),
        ({"mix": 0.5}, ValueError, "cannot be mixed.* Pass unlock=False"),
        ({"factor": float("inf")}, ValueError, "expected a finite factor"),
        ({"factor": None}, TypeError, "expected factor to be a number, got None"),
        ({"nonfinite": "ignore"}, ValueError, "nonfinite='raise' or 'skip', got 'ignore'"),
    ],
)
def test_options_are_checked(options, error, match):
    with pytest.raises(error, match=match):
        dni.BackwardInterface(synthesizer(), **options)


def test_a_refused_change_changes_nothing():
    interface = dni.BackwardInterface(synthesizer(), unlock=False, mix=0.5)
    with pytest.raises(ValueError, match="got 2"):
        interface.mix = 2
    assert interface.mix == 0.5
    early = dni.BackwardInterface(synthesizer())
    with pytest.raises(ValueError, match="unlock=False"):
        early.mix = 0.5
    with pytest.raises(ValueError, match="unlock=False"):
        interface.unlock = True
    assert not interface.unlock
    interface.mix = 0
    interface.unlock = True


def test_a_synthesizer_is_a_module():
    with pytest.raises(TypeError, match=r"expected a torch.nn.Module .* got a function"):
        dni.BackwardInterface(lambda trigger, context: trigger)


def test_a_second_backward_into_the_trigger_is_refused():
    interface, layer = dni.BackwardInterface(synthesizer()), nn.Linear(WIDTH, WIDTH)
    h = layer(torch.randn(2, WIDTH))
    out = interface(h)
    before = layer.weight.grad.clone()
    with pytest.raises(RuntimeError, match="got a second backward pass.*unlock=False"):
        (out + h).sum().backward()
    assert torch.equal(layer.weight.grad, before)


def test_two_early_interfaces_on_one_trigger_are_refused():
    h = nn.Linear(WIDTH, WIDTH)(torch.randn(2, WIDTH)).tanh()
    dni.BackwardInterface(synthesizer())(h)
    with pytest.raises(RuntimeError, match="got a second backward pass.*defer_backward"):
        dni.BackwardInterface(synthesizer())(h)


def test_a_graph_used_up_by_somebody_else_is_explained_too():
    a = nn.Linear(WIDTH, WIDTH)(torch.randn(2, WIDTH)).tanh()
    a.sum().backward()
    with pytest.raises(RuntimeError, match="got a second backward pass"):
        dni.BackwardInterface(synthesizer())(a.tanh())


def test_the_loss_of_the_same_window_needs_a_deferring_block():
    interface, core = dni.BackwardInterface(synthesizer()), nn.Linear(WIDTH, WIDTH)
    state = core(torch.randn(2, WIDTH)).tanh()
    interface.backward(state)
    with pytest.raises(RuntimeError, match="second backward pass.*defer_backward"):
        state.sum().backward()


@both_forms
def test_a_second_backward_of_the_loss_is_an_error_and_teaches_nothing(unlock):
    model = Chain(lambda: dni.BackwardInterface(synthesizer(), unlock=unlock))
    x, y = batch()
    loss = nn.functional.cross_entropy(model(x), y)
    loss.backward()
    before = gradients(model)
    with pytest.raises(RuntimeError, match="a second time"):
        loss.backward()
    for name, gradient in gradients(model).items():
        if gradient is not None and name.startswith("cuts"):
            assert torch.equal(gradient, before[name])


def test_a_window_that_forgot_to_defer_or_to_detach_is_told_so():
    interface, core = dni.BackwardInterface(synthesizer()), nn.GRU(3, WIDTH)
    output, state = core(torch.randn(4, 2, 3), interface.make_trigger(torch.zeros(1, 2, WIDTH)))
    interface.backward(state)
    with pytest.raises(RuntimeError, match="dni.backward: .*second backward.*defer_backward"):
        dni.backward(output.sum())
    with (
        pytest.raises(RuntimeError, match="Detach a state"),
        dni.defer_backward(),
    ):
        output, _ = core(torch.randn(4, 2, 3), interface.make_trigger(state))
        dni.backward(output.sum())


@both_forms
def test_a_synthesizer_built_for_other_tensors_is_refused(unlock):
    wide = torch.randn(2, WIDTH, dtype=torch.float64, requires_grad=True) * 1
    interface = dni.BackwardInterface(synthesizer(), unlock=unlock)
    with pytest.raises(TypeError, match=r"dtype torch.float64, got torch.float32.*interface.to"):
        interface(wide)
    elsewhere = dni.BackwardInterface(synthesizer().to("meta"), unlock=unlock)
    with pytest.raises((TypeError, ValueError), match=r"interface.to\('cpu'\)"):
        elsewhere(trigger())


@both_forms
def test_a_synthesizer_that_changes_its_trigger_is_refused(unlock):
    class InPlace(nn.Module):
        def forward(self, trigger, context):
            return trigger.relu_()

    with pytest.raises(RuntimeError, match="InPlace changed it in place"):
        dni.BackwardInterface(InPlace(), unlock=unlock)(trigger())


@pytest.mark.parametrize("call", ["forward", "send"])
def test_a_bidirectional_interface_checks_both_sides_before_it_uses_either(call):
    x, layer = torch.randn(2, 3), nn.Linear(3, WIDTH)
    wrong_input = dni.BidirectionalInterface(dni.BasicSynthesizer(5, trigger_dim=3), synthesizer())
    with pytest.raises(ValueError, match="ForwardInterface"):
        getattr(wrong_input, call)(layer(x), x)
    assert layer.weight.grad is None
    wrong_gradient = dni.BidirectionalInterface(synthesizer(trigger_dim=3), Fixed(None))
    with pytest.raises(TypeError, match="BackwardInterface"):
        getattr(wrong_gradient, call)(layer(x), x)
    assert all(gradient is None for gradient in gradients(wrong_gradient).values())
    with pytest.raises(RuntimeError, match="requires grad"):
        getattr(wrong_gradient, call)(layer(x).detach(), x)
    assert all(gradient is None for gradient in gradients(wrong_gradient).values())


def test_each_side_of_a_bidirectional_interface_has_its_own_eval_mode():
    interface = dni.BidirectionalInterface(synthesizer(trigger_dim=3), synthesizer())
    x, leaf = torch.randn(2, 3), torch.randn(2, WIDTH, requires_grad=True)
    interface.forward_interface.eval()
    out = interface(leaf * 1, x)
    assert torch.equal(out, leaf)
    torch.testing.assert_close(leaf.grad, interface.backward_interface.receive(leaf))
    interface.forward_interface.train()
    interface.backward_interface.eval()
    leaf.grad = None
    out = interface(leaf * 1, x)
    assert not torch.equal(out, leaf)
    assert leaf.grad is None
    out.sum().backward()
    assert torch.equal(leaf.grad, torch.ones_like(leaf))
    interface.forward_interface.eval()
    h = leaf * 1
    assert interface(h, x) is h


def test_an_error_of_another_kind_inside_a_synthesizer_passes_unchanged():
    class Exhausted(nn.Linear):
        def forward(self, trigger, context):
            raise torch.OutOfMemoryError("nothing left")

    interface = dni.BackwardInterface(Exhausted(WIDTH, WIDTH).double())
    with pytest.raises(torch.OutOfMemoryError, match="nothing left"):
        interface(trigger())


@pytest.mark.parametrize("reentrant", [True, False])
def test_checkpointing_the_connected_form_changes_nothing(reentrant):
    found = []
    for checkpointed in (True, False):
        torch.manual_seed(1)
        model = Chain(
            lambda: dni.BackwardInterface(synthesizer(context_dim=3), unlock=False)
        ).double()
        optimizer = torch.optim.Adam(model.parameters(), 1e-2)

        def scores(inputs, model=model):
            with dni.synthesizer_context(inputs[:, :3].detach()):
                return model(inputs)

        for _ in range(5):
            x, y = batch()
            inputs = x.double().requires_grad_()
            optimizer.zero_grad()
            out = (
                checkpoint(scores, inputs, use_reentrant=reentrant)
                if checkpointed
                else scores(inputs)
            )
            nn.functional.cross_entropy(out, y).backward()
            optimizer.step()
        found.append(
            torch.cat([tensor.detach().flatten() for tensor in model.state_dict().values()])
        )
    assert torch.equal(*found)


def test_a_scaled_loss_trains_alike_if_the_scaler_leaves_the_synthesizers_alone():
    weights = []
    for scale in (1.0, 2.0**16):
        torch.manual_seed(1)
        model = Chain(lambda: dni.BackwardInterface(synthesizer(), unlock=False))
        for cut in model.cuts:
            nn.init.zeros_(cut.synthesizer.layers[-1].weight)
            nn.init.zeros_(cut.synthesizer.layers[-1].bias)
        scaler = torch.amp.GradScaler("cpu", init_scale=scale)
        base = torch.optim.SGD(dni.base_parameters(model), 0.1)
        own = torch.optim.SGD(dni.synthesizer_parameters(model), 0.1)
        for _ in range(10):
            x, y = batch()
            base.zero_grad()
            own.zero_grad()
            scaler.scale(nn.functional.cross_entropy(model(x), y)).backward()
            scaler.step(base)
            own.step()
            scaler.update()
        weights.append(
            torch.cat([parameter.detach().flatten() for parameter in model.parameters()])
        )
    torch.testing.assert_close(*weights, rtol=1e-4, atol=1e-6)


def test_a_functional_transform_sees_the_same_gradient():
    model = Chain(lambda: dni.BackwardInterface(synthesizer(), unlock=False, normalize=False))
    x, y = batch()

    def loss(parameters):
        return nn.functional.cross_entropy(torch.func.functional_call(model, parameters, (x,)), y)

    found = torch.func.grad(loss)(dict(model.named_parameters()))
    loss(dict(model.named_parameters())).backward()
    for name, gradient in gradients(model).items():
        torch.testing.assert_close(found[name], gradient)


def test_a_module_made_on_meta_finds_its_weights_again():
    with torch.device("meta"):
        interface = dni.BackwardInterface(synthesizer(), unlock=False, mix=0.5, factor=0.1)
    interface.to_empty(device="cpu")
    interface.load_state_dict(dni.BackwardInterface(synthesizer()).state_dict())
    torch.testing.assert_close(interface._schedule, torch.tensor([0.5, 0.1]))


@both_forms
def test_an_in_place_operation_after_the_cut_is_an_error(unlock):
    interface = dni.BackwardInterface(synthesizer(), unlock=unlock)
    h = trigger()
    before = h.detach().clone()
    with pytest.raises(
        RuntimeError, match=r"(?s)Cut.* is a view and is being modified inplace.*cloning"
    ):
        nn.functional.relu(interface(h), inplace=True)
    assert torch.equal(h, before)
    out = interface(trigger()).clone()
    nn.functional.relu(out, inplace=True).sum().backward()


@pytest.mark.parametrize(
    "kind", [dni.BackwardInterface, dni.ForwardInterface, dni.UnidirectionalInterface]
)
def test_a_checkpoint_of_another_size_changes_nothing(kind):
    interface, other = kind(cases.synthesizer(4)), kind(cases.synthesizer(5))
    before = {name: value.clone() for name, value in interface.state_dict().items()}
    with pytest.raises(ValueError, match="a checkpoint has the size of the model; expected"):
        interface.load_state_dict(other.state_dict())
    for name, value in interface.state_dict().items():
        assert torch.equal(value, before[name]), name


@both_forms
@pytest.mark.parametrize("reentrant", [True, False])
def test_only_the_early_form_refuses_to_run_again_in_a_backward_pass(unlock, reentrant):
    interface = dni.BackwardInterface(synthesizer(), unlock=unlock)
    part = nn.Linear(WIDTH, WIDTH)
    x = torch.randn(3, WIDTH, requires_grad=True)
    interface(part(x)).sum().backward()  # a plain step before does not matter
    out = checkpoint(lambda x: interface(part(x)), x, use_reentrant=reentrant)
    if unlock and not reentrant:
        with pytest.raises(RuntimeError, match=r"once; expected no second run .* unlock=False"):
            out.sum().backward()
    else:
        out.sum().backward()


def test_a_transform_refuses_a_running_scale_and_says_what_to_build():
    interface = dni.BackwardInterface(synthesizer(), unlock=False)
    h = torch.randn(3, WIDTH, requires_grad=True)

    def loss(parameters):
        return torch.func.functional_call(interface, parameters, (h,)).sum()

    with pytest.raises(RuntimeError, match=r"expected normalize=False in torch\.func\.grad"):
        torch.func.grad(loss)(dict(interface.named_parameters()))


@pytest.mark.parametrize("steps", [False, True], ids=["erased", "used"])
def test_early_gradients_that_are_erased_before_they_are_used_are_missed(steps):
    part, cut = (
        nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.ReLU()),
        dni.BackwardInterface(synthesizer()),
    )
    optimizer = torch.optim.SGD(part.parameters(), lr=0.1)
    for _ in range(3):
        out = cut(part(torch.randn(3, WIDTH)))
        if steps:  # part A learns before part B has run: that is what the early form is for
            optimizer.step()
        optimizer.zero_grad()
        with (
            nullcontext() if steps else pytest.warns(UserWarning, match=r"got a zero_grad\(\) bef")
        ):
            out.sum().backward()


def test_early_gradients_that_are_kept_or_of_frozen_parts_are_not_missed():
    cut = dni.BackwardInterface(synthesizer())
    frozen = nn.Linear(WIDTH, WIDTH).requires_grad_(False)
    for part in (nn.Linear(WIDTH, WIDTH), frozen):
        out = cut(part(torch.randn(3, WIDTH, requires_grad=True)))
        out.sum().backward()
    assert part.weight.grad is None
