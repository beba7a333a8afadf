"""What is decoupled, what it is afterwards, and how it becomes plain again."""

from __future__ import annotations

import copy
import gc
import io
import pickle
import warnings
from collections import UserDict

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, parametrize
from torch.optim.optimizer import register_optimizer_step_pre_hook

import dni
from dni.interfaces import optimizers
from tests.decoupling.networks import CASES, Encoder, Shared, images, loss_of, mlp


def learnt(layer):
    """Its weight passes through another layer."""
    parametrize.register_parametrization(layer, "weight", nn.Linear(4, 4))
    return layer


class Nest(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Linear(4, 4)
        self.layers = nn.ModuleList(nn.Sequential(nn.Linear(4, 4), nn.ReLU()) for _ in range(3))
        self.layer10 = nn.Linear(4, 4)
        self.head = nn.Linear(4, 3)

    def forward(self, x):
        x = self.stem(x)
        for layer in self.layers:
            x = layer(x)
        return self.head(self.layer10(x))


@pytest.mark.parametrize(
    ("at", "cuts"),
    [
        ("stem", ["stem"]),
        ("layers.1", ["layers.1.1"]),  # after a chain is after its last link
        ("layers.*", ["layers.0.1", "layers.1.1", "layers.2.1"]),
        ("layers.**", [f"layers.{k}.{j}" for k in range(3) for j in range(2)]),
        ("layer*", ["layer10"]),  # and not layers, a list that nobody calls
        ("layer??", ["layer10"]),
        ("layers.[02]", ["layers.0.1", "layers.2.1"]),
        ("layers.[!0].0", ["layers.1.0", "layers.2.0"]),
        (nn.ReLU, ["layers.0.1", "layers.1.1", "layers.2.1"]),
        (["stem", "layers.0.0", "stem"], ["stem", "layers.0.0"]),
        ([nn.ReLU, "stem"], ["stem", "layers.0.1", "layers.1.1", "layers.2.1"]),
        ("leaves", ["stem", "layers.0.0", "layers.1.0", "layers.2.0", "layer10"]),
        ("", [""]),
    ],
)
def test_where(at, cuts):
    model = dni.decouple(Nest(), at, sample=images(4))
    assert list(dni.interfaces_of(model)) == cuts


def test_frozen_leaves_are_no_leaves():
    model = mlp()
    model[0].requires_grad_(False)
    dni.decouple(model, "leaves", sample=images(4))
    assert list(dni.interfaces_of(model)) == ["1", "3"]


@pytest.mark.parametrize("how", [parametrizations.weight_norm, learnt])
def test_a_parametrized_leaf_is_a_leaf(how):
    """Its weight is no activation to cut."""
    model = nn.Sequential(how(nn.Linear(4, 4)), nn.ReLU(), how(nn.Linear(4, 4)))
    wrapped = dni.DNI(copy.deepcopy(model))
    dni.decouple(model, "leaves", sample=images(4))
    assert list(dni.interfaces_of(model)) == ["0"]
    wrapped(images(4)).sum().backward()
    assert list(dni.interfaces_of(wrapped.network)) == ["0", "2"]


def test_a_shared_module_has_one_interface():
    model = dni.decouple(Shared(), ["again", "first", "aga*"], sample=images(4))
    assert list(dni.interfaces_of(model)) == ["first"]


def test_the_class_of_a_synthesizer_follows_the_output():
    chosen = [dni.synthesizer_for(torch.empty(size)) for size in ((5,), (2, 5), (2, 3, 5))]
    assert [type(one.synthesizer) for one in chosen] == [dni.BasicSynthesizer] * 2 + [
        dni.TokenSynthesizer
    ]
    maps = dni.synthesizer_for(torch.empty(2, 6, 4, 3), n_hidden=2, hidden=8, context_dim=4)
    assert maps(torch.ones(2, 6, 4, 3), torch.ones(2, 4)).shape == (2, 6, 4, 3)


@pytest.mark.parametrize("context", [torch.tensor([1, 2]), torch.tensor([[1], [2]])])
def test_a_label_of_a_sequence_reaches_all_its_tokens(context):
    made = dni.TokenSynthesizer(4, context_classes=3)
    nn.init.normal_(made.input_context.weight)
    message = made(torch.zeros(2, 2, 4), context)  # as many tokens as sequences
    expected = made.input_context.weight.t()[torch.tensor([1, 2])]
    assert torch.equal(message, expected[:, None].expand(2, 2, 4))


def test_a_label_may_belong_to_a_token():
    made = dni.TokenSynthesizer(4, context_classes=3)
    nn.init.normal_(made.input_context.weight)
    labels = torch.tensor([[0, 1], [2, 1]])
    assert torch.equal(made(torch.zeros(2, 2, 4), labels), made.input_context.weight.t()[labels])


def test_a_context_reaches_the_synthesizers_of_all_layouts():
    build, inputs, at, _ = CASES["encoder"]
    model, x = build(), inputs()
    dni.decouple(model, at, context_classes=3)
    with dni.synthesizer_context(torch.arange(6) % 3):
        loss_of(model, x).backward()
    for interface in dni.interfaces_of(model).values():
        assert interface.synthesizer.synthesizer.input_context.bias.grad is not None


def test_options_reach_the_interfaces():
    model = dni.decouple(
        mlp(), ["2", "5"], mix=0.5, factor=0.1, normalize=False, nonfinite="skip", sample=images(4)
    )
    for interface in dni.interfaces_of(model).values():
        assert (interface.unlock, interface.mix, interface.factor) == (False, 0.5, 0.1)
        assert interface.objective.moments is None
        assert interface.objective.nonfinite == "skip"
    assert interface.who == "BackwardInterface '5'"


def test_an_instance_serves_one_cut():
    mine = dni.BasicSynthesizer(8)
    model = dni.decouple(mlp(), "2", mine)
    assert dni.interfaces_of(model)["2"].synthesizer is mine


@pytest.mark.parametrize("case", CASES)
def test_stripped_it_is_what_it_was(case):
    build, inputs, at, _ = CASES[case]
    model, x = build(), inputs()
    keys, kind, names = list(model.state_dict()), type(model), list(dict(model.named_modules()))
    expected = model.eval()(x)
    assert torch.equal(dni.strip(dni.decouple(model, at, sample=x))(x), expected)
    dni.decouple(model.train(), at)
    assert list(model.state_dict()) == keys  # no synthesizer has a shape yet
    loss_of(model, x).backward()
    assert set(keys) < set(model.state_dict())
    assert type(model) is kind
    assert dni.strip(model) is model
    assert list(model.state_dict()) == keys
    assert list(dict(model.named_modules())) == names
    fresh = build()  # batch norm has moved on: compare with the weights of now
    fresh.load_state_dict(model.state_dict())
    assert torch.equal(model.eval()(x), fresh.eval()(x))
    assert dni.strip(model) is model  # once more is nothing


def test_decoupling_twice_is_decoupling_once():
    model = dni.decouple(mlp(), ["2", "5"], sample=images(4))
    before = dict(model.named_modules())
    dni.decouple(model, ["2", "5"], sample=images(4))
    assert dict(model.named_modules()) == before
    dni.decouple(model, ["2", "3"], sample=images(4))
    assert list(dni.interfaces_of(model)) == ["2", "3", "5"]


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))])
@pytest.mark.parametrize("lazy", [False, True], ids=["sample", "lazy"])
def test_copies_are_decoupled_and_live_apart(duplicate, lazy):
    torch.manual_seed(0)
    model, x = mlp(), images(4)
    dni.decouple(model, ["2", "5"], sample=None if lazy else x)
    twin = duplicate(model)
    found = []
    for one in (model, twin):
        torch.manual_seed(1)
        optimizer = torch.optim.SGD(one.parameters(), 0.1)
        for _ in range(3):
            optimizer.zero_grad()
            loss_of(one, x).backward()
            optimizer.step()
        found.append(one.state_dict())
    assert found[0].keys() == found[1].keys()
    assert all(torch.equal(value, found[1][name]) for name, value in found[0].items())
    dni.strip(twin)
    assert list(dni.interfaces_of(model)) == ["2", "5"]
    assert dni.interfaces_of(twin) == {}
    loss_of(twin, x).backward()


def test_a_saved_run_goes_on_as_if_it_had_not_stopped():
    x = images(4)

    def start():
        torch.manual_seed(0)
        model = dni.decouple(mlp(), ["2", "5"], context_classes=3, sample=x)
        return model, torch.optim.Adam(model.parameters(), 1e-2)

    def steps(model, optimizer):
        for _ in range(5):
            optimizer.zero_grad()
            with dni.synthesizer_context(torch.arange(6) % 3):
                loss_of(model, x).backward()
            optimizer.step()

    model, optimizer = start()
    steps(model, optimizer)
    file = io.BytesIO()
    torch.save((model.state_dict(), optimizer.state_dict(), torch.get_rng_state()), file)
    steps(model, optimizer)
    again, resumed = start()
    file.seek(0)
    weights, state, random = torch.load(file, weights_only=True)
    again.load_state_dict(weights)
    resumed.load_state_dict(state)
    torch.set_rng_state(random)
    steps(again, resumed)
    expected = model.state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in again.state_dict().items())


def test_a_sample_leaves_no_trace():
    model, x = mlp(), images(4)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    random = torch.get_rng_state()
    dni.decouple(model, "2", sample=x)
    assert torch.equal(torch.get_rng_state(), random)
    assert all(torch.equal(value, model.state_dict()[name]) for name, value in before.items())
    assert all(parameter.grad is None for parameter in model.parameters())


def test_a_sample_leaves_interfaces_that_are_there_alone():
    cut = dni.BackwardInterface(dni.BasicSynthesizer(8), unlock=True)
    model = nn.Sequential(nn.Linear(4, 8), cut, nn.Linear(8, 8), nn.Linear(8, 3))
    dni.decouple(model, "2", sample=images(4))
    assert all(parameter.grad is None for parameter in model.parameters())
    assert cut.training


@pytest.mark.parametrize(
    "sample",
    [
        (torch.ones(2, 4),),
        {"input": torch.ones(2, 4)},
        UserDict(input=torch.ones(2, 4)),  # as a tokenizer returns
    ],
)
def test_a_sample_may_be_arguments_or_keywords(sample):
    model = dni.decouple(nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 3)), "0", sample=sample)
    assert len(dni.interfaces_of(model)) == 1


def test_what_nobody_insists_on_and_the_sample_does_not_reach_is_left_alone():
    model = nn.TransformerEncoderLayer(4, 2, 8, batch_first=True)
    dni.decouple(model, "leaves", sample=torch.randn(2, 3, 4))
    assert list(dni.interfaces_of(model)) == ["linear1", "linear2", "norm1"]
    assert not list(nn.Module.modules(model.self_attn.out_proj))[1:]


def test_the_head_is_the_leaf_that_puts_out_the_output():
    class Backwards(nn.Module):
        def __init__(self):
            super().__init__()
            self.head, self.body = nn.Linear(8, 3), nn.Linear(4, 8)

        def forward(self, x):
            return self.head(self.body(x))

    model = dni.decouple(Backwards(), "leaves", sample=images(4))
    assert list(dni.interfaces_of(model)) == ["body"]


@pytest.mark.parametrize("lazy", [False, True], ids=["sample", "lazy"])
def test_a_head_may_stand_before_the_output(lazy):
    class Probabilities(nn.Module):
        def __init__(self):
            super().__init__()
            self.body, self.head = nn.Linear(4, 8), nn.Linear(8, 3)

        def forward(self, x):
            return self.head(self.body(x).relu()).log_softmax(-1)

    model = Probabilities()
    assert dni.validate(model, images(4), "leaves") == []
    dni.decouple(model, "leaves", sample=None if lazy else images(4))
    loss_of(model, images(4)).backward()
    assert list(dni.interfaces_of(model)) == ["body"]


@pytest.mark.parametrize("lazy", [False, True], ids=["sample", "lazy"])
def test_outputs_may_be_packed_or_called_anything(lazy):
    class Odd(nn.Module):
        def forward(self, x):
            return {"a_b": x, "a": {"b": x.tanh()}, "keys": x.sin(), 3: [x.cos()]}

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.core, self.odd, self.head = nn.GRU(4, 5), Odd(), nn.Linear(5, 3)

        def forward(self, x):
            packed = nn.utils.rnn.pack_sequence([row[: 5 - k] for k, row in enumerate(x[:3])])
            found = self.odd(self.core(packed)[0].data)
            return self.head(found["a_b"] + found["a"]["b"] + found["keys"] + found[3][0])

    model, x = Net(), images(5, 4)
    dni.decouple(model, ["core", "odd"], mix=1.0, sample=None if lazy else x)
    loss_of(model, x).backward()
    places = ["odd['a_b']", "odd['a']['b']", "odd['keys']", "odd[3][0]"]
    assert list(dni.interfaces_of(model)) == ["core[0][0]", "core[1]", *places]
    assert model.core.weight_ih_l0.grad.any()
    copied = copy.deepcopy(model)
    assert list(dni.interfaces_of(copied)) == list(dni.interfaces_of(model))


def test_a_module_and_a_tensor_of_its_parent_may_have_one_name():
    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.attn = nn.Linear(4, 4)

        def forward(self, x):
            h = self.attn(x)
            return {"attn": h.tanh(), "out": h}

    model = dni.decouple(nn.Sequential(Block()), ["0", "0.attn"], sample=images(4))
    assert list(dni.interfaces_of(model)) == ["0.attn", "0['attn']", "0['out']"]


def test_a_dry_run_gives_no_shape_to_cuts_that_wait():
    model = dni.decouple(mlp(), "2", context_classes=3)
    assert dni.validate(model, images(4), "5") == []
    dni.decouple(model, "5", sample=images(4))
    assert list(dni.interfaces_of(model)) == ["5"]


def test_a_type_that_means_the_head_too_is_warned_of():
    with pytest.warns(UserWarning, match=r"dni.decouple: the output of '6' is the model's own"):
        dni.decouple(mlp(), nn.Linear, sample=images(4))


def test_an_operation_in_place_after_a_cut_is_found_in_the_dry_run():
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(inplace=True), nn.Linear(8, 3))
    with pytest.raises(ValueError, match=r"got '0', whose output is changed in place"):
        dni.decouple(model, "0", sample=images(4))
    assert dni.interfaces_of(model) == {}


def test_a_head_that_ran_before_is_the_head():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.head, self.body = nn.Linear(4, 4), nn.Linear(4, 4)

        def forward(self, x):
            return self.head(self.body(self.head(x))).log_softmax(-1)

    model = dni.decouple(Twice(), "leaves", sample=images(4))
    assert list(dni.interfaces_of(model)) == ["body"]


def test_a_module_that_runs_twice_is_warned_of():
    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.one, self.two, self.relu = nn.Linear(4, 4), nn.Linear(4, 4), nn.ReLU()

        def forward(self, x):
            return self.two(self.relu(self.one(self.relu(x)))).sum(-1)

    with pytest.warns(UserWarning, match=r"called several times .*: 'relu'; .*by name"):
        dni.decouple(Block(), nn.ReLU, sample=images(4).requires_grad_())
    dni.decouple(Block(), "relu", sample=images(4).requires_grad_())


@pytest.mark.filterwarnings("ignore:.*is the model's own")
@pytest.mark.parametrize("lazy", [False, True], ids=["sample", "lazy"])
@pytest.mark.parametrize(
    ("at", "cuts"),
    [(["leaves", "4"], ["0", "2", "4"]), (["leaves", nn.Linear], ["0", "2", "4"])],
)
def test_what_is_asked_for_twice_is_not_left_out(at, cuts, lazy):
    model = nn.Sequential(
        *(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 3))
    )
    dni.decouple(model, at, sample=None if lazy else images(4), mix=1.0)
    loss_of(model, images(4)).backward()
    assert list(dni.interfaces_of(model)) == cuts


def test_a_container_that_is_asked_for_is_not_a_leaf():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = nn.Sequential(nn.Linear(4, 8), nn.ReLU())
            self.head = nn.Sequential(nn.ReLU(), nn.Linear(8, 3))

        def forward(self, x):
            return self.head(self.body(x))

    for sample in (None, images(4)):
        model = dni.decouple(Net(), ["leaves", "head"], mix=1.0, sample=sample)
        loss_of(model, images(4)).backward()
        assert list(dni.interfaces_of(model)) == ["body.0", "head.1"]


def test_an_instance_may_serve_the_only_leaf():
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
    mine = dni.BasicSynthesizer(8)
    dni.decouple(model, "leaves", mine, sample=images(4))
    assert dni.interfaces_of(model)["0"].synthesizer is mine


def test_a_sample_gives_a_waiting_cut_its_shape():
    model = dni.decouple(mlp(), "2")
    dni.decouple(model, "2", sample=images(4))
    assert list(dni.interfaces_of(model)) == ["2"]


class TestAnOptimiserThatIsTooOld:
    def steps(self, model, optimizer, count):
        for _ in range(count):
            optimizer.zero_grad()
            loss_of(model, images(4)).backward()
            optimizer.step()

    @pytest.mark.parametrize("lazy", [False, True], ids=["sample", "lazy"])
    def test_is_noticed(self, lazy):
        model = mlp()
        optimizer = torch.optim.SGD(model.parameters(), 0.1)
        dni.decouple(model, "2", sample=None if lazy else images(4))
        with pytest.warns(UserWarning, match="Make the optimizer after dni.decouple"):
            self.steps(model, optimizer, 102)
        gc.collect()  # models of other tests are missed too
        self.steps(model, optimizer, 102)  # once is enough
        assert not optimizers._watched

    def test_is_not_missed_where_another_one_steps(self):
        model = dni.decouple(mlp(), "2", sample=images(4))
        base = torch.optim.SGD(dni.base_parameters(model), 0.1)
        extra = torch.optim.SGD(dni.synthesizer_parameters(model), 0.1)
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            for step in range(120):
                self.steps(model, base, 1)
                if step % 20 == 19:
                    extra.step()
        assert said == []
        assert all(parameter.any() for parameter in dni.synthesizer_parameters(model))


class TestWithoutASample:
    def test_an_optimiser_made_before_the_first_batch_trains_the_synthesizers(self):
        model = dni.decouple(mlp(), ["2", "5"])
        base, extra = dni.base_parameters(model), dni.synthesizer_parameters(model)
        assert len(extra) == 2
        optimizer = torch.optim.Adam([{"params": base}, {"params": extra, "lr": 0.1}])
        for _ in range(3):
            optimizer.zero_grad()
            loss_of(model, images(4)).backward()
            optimizer.step()
        groups = [set(group["params"]) for group in optimizer.param_groups]
        assert groups[0] == set(dni.base_parameters(model))
        assert groups[1] == set(dni.synthesizer_parameters(model))
        assert len(groups[1]) == 8
        assert all(parameter.any() for parameter in groups[1])

    def test_nothing_is_looked_for_after_the_first_steps(self):
        model = dni.decouple(mlp(), "2")
        optimizer = torch.optim.SGD(model.parameters(), 0.1)
        loss_of(model, images(4)).backward()
        for _ in range(2):
            gc.collect()
            optimizer.step()
        assert optimizers._waiting == optimizers._watched == []

    def test_hooks_of_others_on_optimisers_go_on(self):
        model, seen = dni.decouple(mlp(), "2"), []
        optimizer = torch.optim.SGD(model.parameters(), 0.1)
        other = register_optimizer_step_pre_hook(lambda *_: seen.append(1))
        loss_of(model, images(4)).backward()
        for _ in range(2):
            gc.collect()
            optimizer.step()
        other.remove()
        assert seen == [1, 1]

    def test_random_numbers_are_those_of_the_plain_network(self):
        model, x = mlp(), images(4)
        plain = copy.deepcopy(model)
        dni.decouple(model, "2", mix=1.0)
        torch.manual_seed(5)
        expected = plain(x)
        torch.manual_seed(5)
        assert torch.equal(model(x), expected)

    @pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))])
    def test_a_copied_optimiser_trains_the_copied_synthesizers(self, duplicate):
        model = dni.decouple(mlp(), "2")
        optimizer = torch.optim.SGD(model.parameters(), 0.1)
        loss_of(model, images(4)).backward()  # shaped, but not exchanged yet
        model, optimizer = duplicate((model, optimizer))
        for _ in range(3):
            optimizer.zero_grad()
            loss_of(model, images(4)).backward()
            optimizer.step()
        assert all(parameter.any() for parameter in dni.synthesizer_parameters(model))

    def test_frozen_while_they_wait_synthesizers_stay_frozen(self):
        model = dni.decouple(mlp(), "2")
        model.requires_grad_(False)
        model[0].requires_grad_(True)
        loss_of(model, images(4)).backward()
        assert not any(parameter.requires_grad for parameter in dni.synthesizer_parameters(model))

    def test_names_follow_the_parameters(self):
        model = dni.decouple(mlp(), "2")
        optimizer = torch.optim.SGD(model.named_parameters(), 0.1)
        loss_of(model, images(4)).backward()
        optimizer.step()
        (group,) = optimizer.param_groups
        assert len(group["param_names"]) == len(group["params"]) == len(list(model.parameters()))
        assert group["param_names"][-1] == "6.bias"

    def test_eval_asks_for_no_shape(self):
        model = dni.decouple(mlp(), "2").eval()
        model(images(4))
        assert dni.interfaces_of(model) == {}
        model.train()
        with torch.no_grad():
            model(images(4))
        assert dni.interfaces_of(model) == {}

    def test_what_looks_at_its_parameters_is_told_why_not(self):
        model = dni.decouple(mlp(), "2")
        with pytest.raises(ValueError, match="a synthesizer that waits for its first batch"):
            sum(parameter.numel() for parameter in model.parameters())

    def test_a_plain_checkpoint_loads(self):
        plain = mlp()
        model = dni.decouple(mlp(), "2")
        model.load_state_dict(plain.state_dict())
        assert torch.equal(model[0].weight, plain[0].weight)

    def test_a_decoupled_checkpoint_does_not(self):
        saved = dni.decouple(mlp(), "2", sample=images(4)).state_dict()
        model = dni.decouple(mlp(), "2")
        with pytest.raises(ValueError, match=r"waits for its first batch. Pass sample="):
            model.load_state_dict(saved)

    def test_the_context_of_the_first_batch_is_used(self):
        model = dni.decouple(mlp(), "2", context_classes=3)
        for _ in range(2):
            with dni.synthesizer_context(torch.tensor([0, 1, 2] * 2)):
                loss_of(model, images(4)).backward()
            torch.optim.SGD(model.parameters(), 0.1).step()  # off zero
        (interface,) = dni.interfaces_of(model).values()
        assert interface.synthesizer.synthesizer.input_context.bias.grad.any()


def test_under_autocast_a_synthesizer_keeps_its_width():
    model = dni.decouple(nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 3)), "0")
    with torch.autocast("cpu", torch.bfloat16):
        loss = loss_of(model, images(4))
    loss.backward()
    assert all(p.dtype == torch.float32 for p in dni.synthesizer_parameters(model))


def test_a_network_of_another_dtype_has_synthesizers_of_that_dtype():
    model, x = mlp().double(), images(4).double()
    for sample in (None, x):
        dni.decouple(dni.strip(model), "2", lambda h: dni.BasicSynthesizer(8), sample=sample)
        loss_of(model, x).backward()
        assert all(p.dtype == torch.float64 for p in dni.synthesizer_parameters(model))


def test_the_loss_that_a_decoupled_network_ends_at_is_lower():
    torch.manual_seed(0)
    model, x = mlp(), images(4)
    labels = torch.arange(6) % 3
    dni.decouple(model, ["2", "5"], context_classes=3)
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    losses = []
    for _ in range(150):
        optimizer.zero_grad()
        with dni.synthesizer_context(labels):
            loss = loss_of(model, x)
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert sum(losses[-5:]) < 0.2 * sum(losses[:5])


@pytest.mark.parametrize("at", [nn.TransformerEncoderLayer, "encoder.layers.*.linear1"])
def test_the_fused_path_of_a_transformer_is_the_same(at):
    """In evaluation without gradients PyTorch fuses a layer, hook or no hook."""
    model, x = Encoder().eval(), images(5, 8)
    with torch.no_grad():
        plain = model(x)
        dni.decouple(model, at, sample=x)
        assert torch.equal(model(x), plain)
