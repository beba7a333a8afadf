"""DNI and CDNI: a network that trains itself while the loss goes back."""

from __future__ import annotations

import copy
import functools
import io
import pickle

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import dni
from dni.decoupling.remembering import as_features
from tests.decoupling.networks import CASES, Named, Recurrent, images, loss_of, mlp

LABELS = torch.arange(6) % 3


class Steps(nn.Module):
    """A cell that a loop runs, with a method and an attribute of its own."""

    marks = 7

    def __init__(self):
        super().__init__()
        self.cell = nn.Linear(8, 4)
        self.head = nn.Linear(4, 3)

    def start(self, x):
        return torch.zeros(len(x), 4)

    def forward(self, x):
        h = self.start(x)
        for step in x.unbind(1):
            h = torch.tanh(self.cell(torch.cat([h, step], 1)))
        return self.head(h)


def train(net, x, steps=3, after=None):
    for _ in range(steps):
        loss_of(net, x).backward()
        if after:
            after()


@pytest.mark.parametrize("case", CASES)
def test_with_backpropagation_only_it_is_the_plain_network(case):
    """Transparency: λ=1 is an optimiser that steps a little earlier."""
    build, inputs, _, _ = CASES[case]
    plain, x = build(), inputs()
    net = dni.DNI(copy.deepcopy(plain), grad_lr=1e-2, λ=1)
    torch.manual_seed(1)
    optimizer = torch.optim.Adam(plain.parameters(), 1e-2)
    for _ in range(10):
        optimizer.zero_grad()
        loss_of(plain, x).backward()
        optimizer.step()
    torch.manual_seed(1)
    train(net, x, 10)
    found = dni.strip(net.network).state_dict()
    assert found.keys() == plain.state_dict().keys()
    for name, value in plain.state_dict().items():
        torch.testing.assert_close(found[name], value, rtol=0, atol=0)


def test_a_layer_steps_before_the_layer_below_has_its_gradient():
    net, seen = dni.DNI(mlp()), []
    first, last = net.network[0].weight, net.network[6].weight
    before = last.detach().clone()
    first.register_hook(lambda gradient: seen.append(not torch.equal(last, before)))
    train(net, images(4), 1)
    assert seen == [True]


@pytest.mark.parametrize("share", [0, 0.25, 1])
def test_what_a_leaf_learns_from_is_the_mixture(share):
    torch.manual_seed(0)
    net = dni.DNI(nn.Linear(4, 3, bias=False), optim="sgd", grad_lr=1.0, λ=share)
    x, weight = images(4), net.network.weight
    train(net, x, 1)  # the synthesizer is off zero now
    interface = net.network.dni_interface
    output = net.network(x)  # interfaces are called in training only
    real = torch.autograd.grad(loss_of(lambda _: output, x), output)[0]
    synthetic = interface.receive(output)
    assert synthetic.any()
    before, velocity = weight.detach().clone(), net.optim.state[weight]["momentum_buffer"].clone()
    train(net, x, 1)
    expected = x.t() @ (share * real + (1 - share) * synthetic)
    found = (before - weight.detach()) - 0.9 * velocity
    torch.testing.assert_close(found.t(), expected, rtol=1e-4, atol=1e-6)


def test_the_share_may_change_at_any_time():
    net = dni.DNI(mlp(), λ=0.2)
    net.λ = 0.3  # before the first batch
    train(net, images(4), 1)
    assert {interface.mix for interface in dni.interfaces_of(net).values()} == {0.3}
    net.λ = 0.9
    assert {interface.mix for interface in dni.interfaces_of(net).values()} == {0.9}
    assert net.λ == 0.9


def test_the_older_librarys_arithmetic_is_one_argument():
    net = _trained(dni.DNI(mlp(), hidden_size=None, normalize=False))
    cuts = dni.interfaces_of(net.network).values()
    assert all(cut.objective.moments is None for cut in cuts)
    assert {cut.synthesizer.network.hidden_size for cut in cuts} == {10}


def test_after_every_leaf_or_after_the_whole():
    assert list(dni.interfaces_of(_trained(dni.DNI(mlp())).network)) == ["0", "1", "3", "6"]
    whole = dni.DNI(Steps(), recursive=False)
    train(whole, images(3, 4), 1)
    assert list(dni.interfaces_of(whole.network)) == [""]


def _trained(net):
    train(net, images(4), 1)
    return net


def test_a_wrapper_in_a_wrapper_trains_its_own():
    inner = dni.DNI(nn.Sequential(nn.Linear(4, 8), nn.Tanh()), recursive=False)
    outer = dni.DNI(nn.Sequential(inner, nn.Linear(8, 3)))
    train(outer, images(4), 2)
    assert list(dni.interfaces_of(outer.network)) == ["0.network.1", "1"]
    assert len(outer.optim.param_groups[0]["params"]) == 2
    assert inner.optim.state[inner.network[0].weight]["step"] == 2
    assert inner.network[0].weight not in outer.optim.state


def test_an_outer_share_is_not_that_of_a_wrapper_inside():
    inner = dni.DNI(nn.Linear(4, 8), λ=0.9)
    outer = dni.DNI(nn.Sequential(inner, nn.Linear(8, 3)), λ=0.1)
    train(outer, images(4), 1)
    outer.λ = 0.2
    assert [one.mix for one in dni.interfaces_of(outer).values()] == [0.9, 0.2]


@pytest.mark.parametrize("shaped", [False, True])
def test_a_network_is_wrapped_once(shaped):
    network = mlp()
    net = dni.DNI(network)
    if shaped:
        train(net, images(4), 1)
    with pytest.raises(ValueError, match=r"decoupled after '0', '1', '3', '6'. Use the wrapper"):
        dni.DNI(network)
    assert isinstance(dni.DNI(dni.strip(network)), dni.DNI)


def test_stripped_it_is_a_wrapper_without_cuts():
    net = dni.strip(_trained(dni.DNI(mlp())))
    assert dni.interfaces_of(net) == {}
    assert list(net.network.state_dict()) == list(mlp().state_dict())
    train(net, images(4), 1)


def test_a_wrapper_can_stand_where_a_cut_is_wanted():
    model = nn.Sequential(dni.DNI(nn.Linear(4, 4)), nn.Linear(4, 3))
    dni.decouple(model, "0", sample=images(4))
    assert list(dni.interfaces_of(model)) == ["0"]
    loss_of(model, images(4)).backward()
    assert list(dni.interfaces_of(model)) == ["0.network", "0"]
    assert list(dni.strip(model).state_dict())[1:] == [
        "0.network.weight",
        "0.network.bias",
        "1.weight",
        "1.bias",
    ]


def test_methods_attributes_and_items_of_the_network_stay_reachable():
    net = dni.DNI(Steps())
    assert net.start(torch.ones(2, 1)).shape == (2, 4)
    assert net.marks == 7
    assert net.head is net.network.head
    assert dni.DNI(mlp())[0].in_features == 4
    with pytest.raises(AttributeError, match="'Steps' object has no attribute 'finish'"):
        net.finish()


@pytest.mark.parametrize("name", ["adam", "AdamW", "adagrad", "rmsprop", "sgd"])
def test_optimisers_by_name(name):
    net = dni.DNI(mlp(), grad_optim=name, optim=name, grad_lr=0.01)
    before = net.network[0].weight.detach().clone()
    train(net, images(4))
    assert type(net.grad_optim).__name__.lower() == name.lower()
    assert not torch.equal(net.network[0].weight, before)


def test_an_optimiser_by_function_and_one_that_is_there():
    made = dni.DNI(mlp(), optim=functools.partial(torch.optim.SGD, lr=0.3))
    assert made.optim.param_groups[0]["lr"] == 0.3
    network = mlp()
    mine = torch.optim.SGD(network.parameters(), lr=0.0, momentum=0.9)
    net, before = dni.DNI(network, optim=mine), copy.deepcopy(network.state_dict())
    train(net, images(4))
    assert all(
        torch.equal(p, before[name]) for name, p in network.named_parameters() if name in before
    )
    mine.param_groups[0]["lr"] = 0.1  # as a scheduler does
    train(net, images(4))
    assert not torch.equal(network[0].weight, before["0.weight"])
    assert mine.state


def test_gradients_stay_until_the_next_backward_pass():
    """Each is that of one pass: nobody has to call zero_grad."""
    net, x = dni.DNI(nn.Linear(4, 3), optim="sgd", grad_lr=0.0, λ=1), images(4)
    train(net, x, 1)
    weight = net.network.weight
    once = weight.grad.clone()
    assert once.any()
    assert all(parameter.grad is None for parameter in dni.synthesizer_parameters(net))
    train(net, x, 1)
    assert torch.equal(weight.grad, once)


def test_in_evaluation_gradients_add_up_as_they_do():
    net, x = dni.DNI(nn.Linear(4, 3), optim="sgd", grad_lr=0.0, λ=1), images(4)
    train(net, x, 1)
    net.eval()
    net.zero_grad()
    for _ in range(2):
        net(x).sum().backward()
    assert torch.equal(net.network.bias.grad, torch.full((3,), 2.0 * len(x)))


def test_a_method_of_the_network_trains_it_too():
    class Coder(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner, self.outer = nn.Linear(4, 3), nn.Linear(3, 4)

        def encode(self, x):
            return torch.tanh(self.inner(x))

        def forward(self, x):
            return self.outer(self.encode(x))

    torch.manual_seed(0)
    by_call, by_method = (dni.DNI(copy.deepcopy(coder)) for coder in [Coder()] * 2)
    x, found = images(4), []
    for net, answer in (
        (by_call, lambda: by_call(x)),
        (by_method, lambda: by_method.outer(by_method.encode(x))),
    ):
        torch.manual_seed(1)
        for _ in range(3):
            F.mse_loss(answer(), x).backward()
        found.append(net.network.state_dict())
    assert all(torch.equal(value, found[1][name]) for name, value in found[0].items())


def test_looking_at_a_gradient_is_no_step_and_takes_none_away():
    net, x = dni.DNI(nn.Linear(4, 3)), images(4)
    train(net, x, 1)
    weight, kept = net.network.weight, net.network.weight.grad.clone()
    before = weight.detach().clone()
    torch.autograd.grad(loss_of(net, x), [weight])
    assert torch.equal(weight.grad, kept)
    net.eval()
    loss_of(net, x).backward()  # a saliency map, say
    assert torch.equal(weight, before)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_a_checkpoint_of_another_dtype_than_float32(dtype):
    x = images(4).to(dtype)
    net, again = (dni.DNI(nn.Linear(4, 3).to(dtype)) for _ in range(2))
    train(net, x, 2)
    again.load_state_dict(net.state_dict())
    assert {parameter.dtype for parameter in again.parameters()} == {dtype}
    train(again, x, 1)


def test_an_incomplete_checkpoint_loads_no_optimiser():
    net, again = (dni.DNI(nn.Linear(4, 3)) for _ in range(2))
    train(net, images(4), 2)
    state = net.state_dict()
    del state["network.weight"]
    with pytest.raises(RuntimeError, match="Missing key"):
        again.load_state_dict(state)
    assert not again.optim.state


def test_a_checkpoint_of_a_stripped_wrapper_has_no_cuts():
    net = dni.strip(_trained(dni.DNI(mlp())))
    again = dni.strip(dni.DNI(mlp()))
    again.load_state_dict(net.state_dict())
    assert all(map(torch.equal, again.network.parameters(), net.network.parameters()))


def test_in_evaluation_nothing_steps():
    net, x = dni.DNI(mlp()), images(4)
    net.eval()
    before = copy.deepcopy(net.network.state_dict())
    with torch.no_grad():
        net(x)
    assert all(torch.equal(v, before[name]) for name, v in net.network.state_dict().items())
    assert dni.interfaces_of(net) == {}


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda net: pickle.loads(pickle.dumps(net))])
def test_a_copy_trains_itself_and_nothing_else(duplicate):
    torch.manual_seed(0)
    net, x = dni.DNI(mlp()), images(4)
    train(net, x)
    twin = duplicate(net)
    before = copy.deepcopy(net.state_dict()["network.0.weight"])
    torch.manual_seed(1)
    train(twin, x)
    assert torch.equal(net.network[0].weight, before)
    torch.manual_seed(1)
    train(net, x)
    for name, value in net.network.state_dict().items():
        assert torch.equal(twin.network.state_dict()[name], value)


@pytest.mark.parametrize("build", [mlp, Recurrent, Named])
@pytest.mark.parametrize("kind", [dni.DNI, functools.partial(dni.CDNI, classes=3)])
def test_a_saved_run_goes_on_as_if_it_had_not_stopped(build, kind):
    x = images(5, 4) if build is Recurrent else images(4)

    def start():
        torch.manual_seed(0)
        return kind(build(), grad_lr=1e-2)

    def go_on(net):
        with dni.synthesizer_context(None if kind is dni.DNI else LABELS):
            train(net, x)

    net = start()
    go_on(net)
    file = io.BytesIO()
    torch.save((net.state_dict(), torch.get_rng_state()), file)
    go_on(net)
    file.seek(0)
    weights, random = torch.load(file, weights_only=True)
    again = start()  # has seen no batch
    again.load_state_dict(weights)
    torch.set_rng_state(random)
    go_on(again)
    expected = net.network.state_dict()
    assert again.network.state_dict().keys() == expected.keys()
    for name, value in again.network.state_dict().items():
        assert torch.equal(value, expected[name]), name


@pytest.mark.parametrize(
    "network",
    [
        dni.LinearDNI,
        dni.LinearSigmoidDNI,
        dni.LinearBatchNormDNI,
        dni.RNNDNI,
        functools.partial(dni.RNNDNI, kind="gru", num_layers=2),
        functools.partial(dni.RNNDNI, kind="rnn"),
    ],
)
@pytest.mark.parametrize("case", ["sequential", "transformer", "residual", "tuple"])
def test_synthesizers_take_every_layout(network, case):
    build, inputs, _, _ = CASES[case]
    net = dni.DNI(build(), dni_network=network, grad_lr=1e-2)
    train(net, inputs(), 2)
    for interface in dni.interfaces_of(net).values():
        assert interface.synthesizer.network.final.bias.any()


@pytest.mark.parametrize("pool", ["max", "avg"])
def test_maps_have_convolutional_synthesizers(pool):
    build, inputs, _, _ = CASES["residual"]
    params = {"num_layers": 2, "pool": pool}
    network = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3))
    net = dni.DNI(network, dni_network=dni.Conv2dDNI, dni_params=params)
    net(inputs()).square().mean().backward()
    for interface in dni.interfaces_of(net).values():
        assert interface.synthesizer.network.final.weight.any()
    chosen = dni.DNI(build())
    train(chosen, inputs(), 1)
    kinds = {type(one.synthesizer.network) for one in dni.interfaces_of(chosen).values()}
    assert kinds == {dni.Conv2dDNI, dni.LinearDNI}


@pytest.mark.parametrize("name", ["LinearDNI", "LinearSigmoidDNI", "LinearBatchNormDNI", "RNNDNI"])
def test_a_new_network_says_nothing(name):
    message, _ = getattr(dni, name)(5, 7, 4)(torch.randn(3, 5), None)
    assert torch.equal(message, torch.zeros(3, 4))


def test_a_new_convolutional_network_says_nothing():
    message, _ = dni.Conv2dDNI(5, 7, 4)(torch.randn(3, 5, 6, 6), None)
    assert torch.equal(message, torch.zeros(3, 4, 6, 6))


class Counting(dni.DNINetwork):
    """Remembers how often it was asked."""

    def __init__(self, *sizes):
        super().__init__(*sizes)
        self.weight = nn.Parameter(torch.zeros(1))
        self.seen = []

    def forward(self, input, hidden):
        self.seen.append(hidden)
        return input[..., : self.output_size] * self.weight, (hidden or 0) + 1


def test_what_a_network_remembers_lives_for_one_pass():
    net = dni.DNI(Steps(), dni_network=Counting)
    train(net, images(3, 4), 2)
    seen = net.network.cell.dni_interface.synthesizer.network.seen
    assert seen == [None, 1, 2] * 2


@pytest.mark.parametrize("rows", [5, 6])
def test_what_a_network_remembers_does_not_outlive_its_pass(rows):
    net = dni.DNI(Steps(), dni_network=Counting)
    net(torch.randn(6, 3, 4))  # no backward pass
    net(torch.randn(rows, 3, 4))
    assert net.network.cell.dni_interface.synthesizer.network.seen == [None, 1, 2] * 2


class TestContext:
    @pytest.mark.parametrize("labels", [LABELS, F.one_hot(LABELS).float()])
    @pytest.mark.parametrize("case", ["sequential", "residual", "encoder", "tuple"])
    def test_it_stands_beside_the_activation(self, labels, case):
        build, inputs, _, _ = CASES[case]
        net = dni.CDNI(build(), classes=None if labels.is_floating_point() else 3)
        with dni.synthesizer_context(labels):
            train(net, inputs())
        for interface in dni.interfaces_of(net).values():
            made = interface.synthesizer.network
            assert made.input_size == made.output_size + 3

    def test_a_token_may_have_its_own(self):
        build, inputs, _, _ = CASES["transformer"]
        net, x = dni.CDNI(build(), classes=7), inputs()
        with dni.synthesizer_context(x):
            train(net, x)
        for interface in dni.interfaces_of(net).values():
            made = interface.synthesizer.network
            assert made.input_size == made.output_size + 7
        told = F.one_hot(x, 7).float()
        assert torch.equal(as_features(x, 7, torch.zeros(3, 5, 8)), told)
        shared = as_features(x, 7, torch.zeros(5, 8))  # learnt positions: the same for all rows
        torch.testing.assert_close(shared, told.mean(0))

    def test_labels_teach_what_the_activation_does_not_say(self):
        """The gradient of cross-entropy at scores of zero: known with labels, not without."""
        labels = torch.randint(3, (60,))

        def cosine(kind, context, **options):
            torch.manual_seed(0)
            net = kind(nn.Linear(4, 3), λ=1, grad_lr=0.02, optim="sgd", **options)
            shape(net, context)
            with dni.diagnostics.Monitor(net) as monitor:
                for _ in range(200):
                    with dni.synthesizer_context(context):
                        F.cross_entropy(net(torch.randn(60, 4)), labels).backward()
                monitor.read()
                for _ in range(20):
                    with dni.synthesizer_context(context):
                        F.cross_entropy(net(torch.randn(60, 4)), labels).backward()
                (measured,) = monitor.read().values()
            return measured.cosine

        def shape(net, context):
            with dni.synthesizer_context(context):
                F.cross_entropy(net(torch.randn(60, 4)), labels).backward()

        assert cosine(dni.CDNI, labels, classes=3) > 0.9
        assert cosine(dni.DNI, None) < 0.5

    @pytest.mark.parametrize(
        ("context", "message"),
        [
            (None, "around the forward pass, got None"),
            (LABELS, r"pass their number: CDNI\(network, classes=10\)"),
            (torch.ones(5, 3), r"each row of an activation of shape \(6, 8\), got \(5,\)"),
        ],
    )
    def test_a_context_that_does_not_fit(self, context, message):
        net = dni.CDNI(mlp())
        with pytest.raises(ValueError, match=message), dni.synthesizer_context(context):
            loss_of(net, images(4))

    def test_without_a_use_for_it_there_is_a_warning(self):
        message = "the one given is ignored; wrap with CDNI to use it"
        with pytest.warns(UserWarning, match=message), dni.synthesizer_context(LABELS):
            train(dni.DNI(nn.Linear(4, 3)), images(4))

    def test_labels_out_of_range(self):
        net = dni.CDNI(mlp(), classes=2)
        message = "expected labels from 0 to 1.*got 0 to 2"
        with pytest.raises(ValueError, match=message), dni.synthesizer_context(LABELS):
            loss_of(net, images(4))


@pytest.mark.parametrize(
    ("network", "options", "kind", "message"),
    [
        (3, {}, TypeError, "expected a torch.nn.Module, got an int"),
        (nn.ReLU(), {}, ValueError, "got ReLU, which has none. Use it as it is"),
        (nn.Linear(2, 2).requires_grad_(False), {}, ValueError, "frozen or wrapped already"),
        (mlp(), {"grad_optim": "adamm"}, ValueError, "one of adagrad, adam, adamw, rmsprop, sgd"),
        (mlp(), {"grad_optim": torch.optim.Adam}, ValueError, "one of adagrad"),
        (mlp(), {"optim": "lbfgs"}, ValueError, "expected optim to be one of adagrad"),
        (mlp(), {"optim": 3}, TypeError, "a function of parameters, got an int"),
        (mlp(), {"optim": lambda p: 3}, TypeError, "to be an optimiser, got an int"),
        (mlp(), {"grad_lr": -1}, ValueError, "a rate from 0 on, got -1"),
        (mlp(), {"grad_lr": "fast"}, TypeError, "expected grad_lr to be a number"),
        (mlp(), {"λ": 1.5}, ValueError, "λ is the share of backpropagation.*got 1.5"),
        (mlp(), {"λ": "half"}, TypeError, "expected λ to be a number"),
        (mlp(), {"hidden_size": 0}, ValueError, "hidden_size to be a positive integer"),
        (mlp(), {"dni_network": dni.LinearDNI(1, 2, 3)}, TypeError, "to be a class"),
        (mlp(), {"normalize": 1}, TypeError, "normalize"),
        (mlp(), {"dni_params": 3}, TypeError, "dni_params to be a dict of arguments, got an int"),
        (mlp(), {"optim": torch.optim.LBFGS}, TypeError, "got LBFGS, which needs all of them"),
        (
            mlp(),
            {"optim": torch.optim.SGD(nn.Linear(1, 1).parameters())},
            ValueError,
            "an optimiser of the network's parameters, got one that knows none",
        ),
        (mlp(), {"gpu_id": 99}, ValueError, r"of which there are \d+ here; got 99"),
        (mlp(), {"gpu_id": "cuda"}, ValueError, "number of a CUDA device, or -1"),
        (nn.ModuleList([nn.Linear(2, 2)]), {"recursive": False}, ValueError, "without a forward"),
    ],
)
def test_a_mistake_leaves_the_network_alone(network, options, kind, message):
    names = [name for name, _ in network.named_modules()] if isinstance(network, nn.Module) else []
    with pytest.raises(kind, match=message):
        dni.DNI(network, **options)
    if names:
        assert [name for name, _ in network.named_modules()] == names
        assert not any(module._forward_hooks for module in network.modules())


@pytest.mark.parametrize(
    "answer", [lambda h: h, lambda h: (h,), lambda h: (None, h), lambda h: [h]]
)
def test_a_network_that_returns_no_pair(answer):
    class Wrong(dni.DNINetwork):
        def forward(self, input, hidden):
            return answer(input)

    net = dni.DNI(nn.Linear(4, 3), dni_network=Wrong)
    with pytest.raises(TypeError, match=r"return a pair \(output, hidden\).* from Wrong"):
        net(images(4))


def test_a_network_without_a_forward():
    class Empty(dni.DNINetwork):
        pass

    with pytest.raises(NotImplementedError, match=r"Empty needs a forward\(input, hidden\)"):
        dni.DNI(nn.Linear(4, 3), dni_network=Empty)(images(4))


@pytest.mark.parametrize("options", [{}, {"λ": -1}, {"classes": 0}])
def test_a_mistake_leaves_the_network_of_a_conditional_wrapper_alone(options):
    network = mlp()
    if options:
        with pytest.raises(ValueError, match="λ|classes"):
            dni.CDNI(network, **options)
        assert not any(module._forward_hooks for module in network.modules())
    with dni.synthesizer_context(LABELS):
        train(dni.CDNI(network, classes=3), images(4))


@pytest.mark.parametrize("shaped", [False, True])
@pytest.mark.parametrize(
    ("other", "message"),
    [
        (lambda: dni.DNI(nn.Linear(5, 3)), r"expected \(3, 5\) for network.weight, got \(3, 4\)"),
        (lambda: dni.DNI(nn.Linear(4, 3), optim="sgd"), "expected optim SGD, got Adam"),
        (lambda: dni.DNI(nn.Linear(4, 3), hidden_size=4), "expected"),
    ],
)
def test_a_checkpoint_of_another_wrapper_changes_nothing(other, message, shaped):
    net, again = dni.DNI(nn.Linear(4, 3)), other()
    x = images(again.network.in_features)
    train(net, images(4), 2)
    if shaped:
        train(again, x, 1)
    before = [parameter.detach().clone() for parameter in dni.base_parameters(again)]
    with pytest.raises(ValueError, match=message):
        again.load_state_dict(net.state_dict())
    assert all(map(torch.equal, dni.base_parameters(again), before))
    train(again, x, 1)  # and its optimiser is as it was


def test_a_checkpoint_of_another_context():
    with dni.synthesizer_context(LABELS):
        net = dni.CDNI(nn.Linear(4, 3), classes=3)
        train(net, images(4), 1)
    with pytest.raises(ValueError, match="expected a context of 5, got 3"):
        dni.CDNI(nn.Linear(4, 3), classes=5).load_state_dict(net.state_dict())


def test_a_loaded_wrapper_shares_nothing_with_the_one_it_was_loaded_from():
    net, again = (dni.DNI(nn.Linear(4, 3)) for _ in range(2))
    train(net, images(4), 2)
    again.load_state_dict(net.state_dict())
    moments = again.optim.state[again.network.weight]["exp_avg"].clone()
    train(net, images(4), 2)
    assert torch.equal(again.optim.state[again.network.weight]["exp_avg"], moments)
