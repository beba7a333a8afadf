"""A monitor's numbers are those of the explicit formulas; it changes nothing."""

from __future__ import annotations

import copy
import csv
import gc
import sys
import weakref

import pytest
import torch
import torch.nn.functional as F

import dni
from dni.diagnostics import Monitor
from tests.cases import WIDTH, Chain, Fixed, batch, compiles, synthesizer


@pytest.mark.parametrize("unlock", [True, False])
def test_what_is_measured_is_what_the_formulas_say(unlock):
    made = synthesizer()
    interface = dni.BackwardInterface(made, unlock=unlock, normalize=False)
    trigger, message = torch.randn(3, WIDTH), torch.randn(3, WIDTH)
    with Monitor(interface) as monitor:
        for sign in (1, -1):
            interface(trigger.clone().requires_grad_() * 1).backward(sign * message)
        (measured,) = monitor.read().values()
        assert monitor.read()[""].messages == 0
    prediction = made(trigger).detach()
    cosine = F.cosine_similarity(prediction.flatten(), message.flatten(), dim=0)
    losses = [F.mse_loss(prediction, sign * message) for sign in (1, -1)]
    assert measured.messages == 2
    assert measured.cosine == pytest.approx(0, abs=1e-6)
    assert abs(cosine) > 1e-3
    assert measured.loss == pytest.approx(sum(losses).item() / 2, rel=1e-5)
    assert measured.norm_ratio == pytest.approx(
        (prediction.norm() / message.norm()).item(), rel=1e-5
    )


def test_a_perfect_prediction_has_cosine_one():
    message = torch.randn(3, WIDTH)
    fixed = Fixed(torch.nn.Parameter(message.clone()))
    interface = dni.BackwardInterface(fixed, unlock=False, normalize=False)
    with Monitor(interface) as monitor:
        interface(torch.randn(3, WIDTH, requires_grad=True)).backward(message)
        (measured,) = monitor.read().values()
    assert measured[:3] == pytest.approx((0, 1, 1), abs=1e-6)


def test_zero_messages_do_not_count():
    interface = dni.BackwardInterface(synthesizer(), unlock=False)
    with Monitor(interface) as monitor:
        interface(torch.randn(3, WIDTH, requires_grad=True)).backward(torch.zeros(3, WIDTH))
        assert monitor.read()[""].messages == 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_to_predict_nothing_is_measured_as_that(dtype):
    """Of what never learns nobody knows the scale, but the messages' own."""
    silent = dni.BackwardInterface(Fixed(torch.zeros(3, WIDTH, dtype=dtype)), unlock=False)
    h, message = torch.randn(2, 3, WIDTH, dtype=dtype)
    with Monitor(silent.to(dtype)) as monitor:
        silent(h.requires_grad_()).backward(1e-5 * message)
        (measured,) = monitor.read().values()
    assert measured.loss == pytest.approx(1.0)
    assert (measured.cosine, measured.norm_ratio, measured.messages) == (0.0, 0.0, 1)


def test_a_frozen_synthesizer_is_measured_too():
    interface = dni.BackwardInterface(synthesizer().requires_grad_(False), unlock=False)
    moments = interface.objective.moments.clone()
    with Monitor(interface) as monitor:
        h = torch.randn(3, WIDTH, requires_grad=True)
        interface(h).sum().backward()
        assert monitor.read()[""].messages == 1
    assert torch.equal(interface.objective.moments, moments)


@pytest.mark.parametrize("unlock", [True, False])
def test_each_message_of_a_pair_of_interfaces_counts_once(unlock):
    pair = dni.BidirectionalInterface(synthesizer(trigger_dim=3), synthesizer(), unlock=unlock)
    with Monitor(pair) as monitor:
        h = torch.randn(2, WIDTH, requires_grad=True)
        pair(h * 1, torch.randn(2, 3)).sum().backward()
        assert [measured.messages for measured in monitor.read().values()] == [1, 1]


def test_a_copy_of_a_measured_model_is_not_measured():
    interface = dni.BackwardInterface(synthesizer())
    with Monitor(interface):
        twin = copy.deepcopy(interface)
        with Monitor(twin):
            pass
        assert interface.objective.record is not None


def test_one_monitor_at_a_time_and_only_while_it_is_open():
    interface = dni.BackwardInterface(synthesizer())
    with Monitor(interface) as monitor:
        with pytest.raises(RuntimeError, match="Close that one first"):
            Monitor(interface)
        monitor.read()
    with pytest.raises(RuntimeError, match="Read it before"):
        monitor.read()


def test_a_monitor_is_not_saved_and_leaves_no_trace():
    model = Chain(lambda: dni.BackwardInterface(synthesizer(), unlock=False))
    keys = set(model.state_dict())
    with Monitor(model) as monitor:
        assert set(monitor.read()) == {"cuts.0", "cuts.1"}
        assert set(model.state_dict()) == keys
    assert model.cuts[0].objective.record is None
    x, y = batch()
    F.cross_entropy(model(x), y).backward()


@pytest.mark.parametrize("backend", [pytest.param("aot_eager", marks=compiles)])
def test_a_compiled_model_is_measured_too(backend):
    torch.compiler.reset()
    model = Chain(lambda: dni.BackwardInterface(synthesizer(), unlock=False))
    fast = torch.compile(model, fullgraph=True, backend=backend)
    x, y = batch()
    measured = []
    for net in (model, fast):
        with Monitor(model) as monitor:
            F.cross_entropy(net(x), y).backward()
            measured.append(monitor.read()["cuts.1"])
    assert measured[0] == pytest.approx(measured[1], rel=1e-4)


def decoupled():
    model = torch.nn.Sequential(
        *(torch.nn.Linear(WIDTH, WIDTH), torch.nn.Tanh()),
        *(torch.nn.Linear(WIDTH, WIDTH), torch.nn.Tanh(), torch.nn.Linear(WIDTH, 4)),
    )
    x, y = batch()
    dni.decouple(model, torch.nn.Tanh, mix=1.0, sample=x)
    return model, lambda: F.cross_entropy(model(x), y).backward()


def test_the_history_is_what_was_read():
    model, step = decoupled()
    with Monitor(model) as monitor:
        read = []
        for _ in range(3):
            step()
            read.append(monitor.read())
    history = monitor.history()  # also when it is closed
    assert list(history) == ["1", "3"]
    for name, seen in history.items():
        assert seen == [one[name] for one in read]
    history["1"].clear()
    assert len(monitor.history()["1"]) == 3


def test_closing_reads_what_is_left():
    model, step = decoupled()
    with Monitor(model) as monitor:
        step()
        monitor.read()
        step()
    assert [one.messages for one in monitor.history()["3"]] == [1, 1]


def test_a_table_has_a_line_for_each_interface():
    model, step = decoupled()
    with Monitor(model) as monitor:
        step()
    lines = monitor.table().splitlines()
    assert [line.split()[0] for line in lines] == ["interface", "1", "3"]
    assert lines[2].split()[-1] == "1"
    assert len({len(line) for line in lines}) == 1


def test_a_history_may_be_short(tmp_path):
    model = Chain(lambda: dni.BackwardInterface(synthesizer(), unlock=False))
    with Monitor(model, keep=2) as monitor:
        for _ in range(3):
            last = monitor.read()
    assert [len(seen) for seen in monitor.history().values()] == [2, 2]
    monitor.to_csv(tmp_path / "history.csv")
    with open(tmp_path / "history.csv", newline="") as file:
        assert [row["read"] for row in csv.DictReader(file)] == ["2", "3"] * 2
    assert {name: seen[-1] for name, seen in monitor.history().items()} == last
    with pytest.raises(ValueError, match="expected keep to be a positive integer, got 0"):
        Monitor(model, keep=0)


def test_the_history_as_a_file(tmp_path):
    model, step = decoupled()
    with Monitor(model) as monitor:
        for _ in range(2):
            step()
            monitor.read()
    monitor.to_csv(tmp_path / "cuts.csv")
    with open(tmp_path / "cuts.csv") as file:
        rows = list(csv.DictReader(file))
    assert [(row["read"], row["interface"]) for row in rows] == [
        *(("1", "1"), ("2", "1"), ("1", "3"), ("2", "3"))
    ]
    assert float(rows[3]["loss"]) == monitor.history()["3"][1].loss


def test_the_history_as_a_picture(tmp_path):
    model, step = decoupled()
    with Monitor(model) as monitor:
        for _ in range(2):
            step()
            monitor.read()
    figure = monitor.plot(tmp_path / "cuts.png")
    assert [axes.get_title() for axes in figure.axes] == [
        "synthesizer loss",
        "cosine",
        "norm ratio",
    ]
    for place, axes in enumerate(figure.axes):
        for line, seen in zip(axes.lines, monitor.history().values(), strict=True):
            assert list(line.get_ydata()) == [one[place] for one in seen]
    assert (tmp_path / "cuts.png").read_bytes().startswith(b"\x89PNG")


def test_without_matplotlib_a_plot_says_what_to_do(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    message = "pip install matplotlib"
    with Monitor(decoupled()[0]) as monitor, pytest.raises(ImportError, match=message):
        monitor.plot()


def test_a_plain_network_has_nothing_to_measure():
    with Monitor(torch.nn.Linear(2, 2)) as monitor:
        monitor.read()
    assert monitor.table() == "no interfaces"


def test_measuring_keeps_no_graph():
    model, step = decoupled()
    kept = weakref.WeakSet()
    model[1].register_forward_hook(lambda m, a, output: kept.add(output))
    with Monitor(model):
        step()
        model.zero_grad()
        gc.collect()
        assert not kept


def test_a_lost_monitor_stops_measuring():
    model, step = decoupled()
    Monitor(model)
    gc.collect()
    with Monitor(model) as monitor:
        step()
    assert monitor.history()["1"][0].messages == 1


def test_cuts_that_no_batch_reaches_are_not_waited_for():
    model = torch.nn.TransformerEncoderLayer(4, 2, 8, batch_first=True)
    dni.decouple(model, "leaves")  # its attention reads out_proj without calling it
    x = torch.randn(2, 3, 4)
    model(x).sum().backward()
    with Monitor(model) as monitor:
        model(x).sum().backward()
    assert "self_attn.out_proj" not in monitor.history()
    assert "linear1" in monitor.history()


def test_the_loss_of_a_scale_of_its_own_is_in_units_of_the_messages():
    class Half(torch.nn.Module):
        own_scale = True

        def forward(self, trigger, context):
            return trigger / 2

    cut = dni.UnidirectionalInterface(Half())
    with dni.diagnostics.Monitor(cut) as monitor:
        for message in (1e-6 * torch.randn(5, 3), torch.zeros(5, 3)):
            cut.send(message, message)
        measured = monitor.read()[""]
    assert measured.loss == pytest.approx(0.25)
    assert (measured.cosine, measured.norm_ratio, measured.messages) == pytest.approx((1, 0.5, 1))
