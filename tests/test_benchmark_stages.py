"""The baselines of ``benchmarks.stages``: what is counted, predicted and cut. Nothing is timed."""

from __future__ import annotations

import gc
import itertools
import struct
import threading
from dataclasses import replace

import pytest
import torch
import torch.multiprocessing as mp
import torch.nn.functional as F
from torch import nn

import dni.distributed
from benchmarks.stages import baselines, model, network, processes
from benchmarks.stages.memory import Held
from benchmarks.stages.ours import train_decoupled
from examples.data import SHA256, load

FLOAT = 4
K, M = 4, 8


class Doubled(torch.autograd.Function):
    """Saves what it is given, and a tensor of its own."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x, torch.ones(100))
        return 2 * x

    @staticmethod
    def backward(ctx, gradient):
        return 2 * gradient


@pytest.fixture(scope="module")
def setting(tmp_path_factory):
    """Small, and its data in files: scikit-learn's would be imported by every process."""
    folder, generator = tmp_path_factory.mktemp("data"), torch.Generator().manual_seed(0)
    for name in SHA256:
        sizes = (200, 6, 6) if "images" in name else (200,)
        head = struct.pack(f">HBB{len(sizes)}I", 0, 8, len(sizes), *sizes)
        content = torch.randint(10, sizes, generator=generator, dtype=torch.uint8)
        (folder / name).write_bytes(head + content.numpy().tobytes())
    return processes.Setting(
        str(folder), layers=3, width=16, batch=32, steps=3, warmup=1, norm=False
    )


@pytest.fixture(scope="module")
def shares(setting):
    """Of one process, which is this one, and of a pipeline's stages."""
    alone = baselines.train_alone(0, "", setting, torch.get_num_threads())
    return alone, processes.launch(baselines.train_in_pipeline, 2, setting, "1F1B", 4)


# What is held


def test_held_counts_a_network_to_the_byte():
    net = nn.Sequential(nn.Linear(5, 7), nn.ReLU(), nn.Linear(7, 2))
    with Held(net) as held:
        out = net(torch.ones(3, 5))
        # The input and the ReLU's output are saved, the output comes out; no weight counts.
        assert held.now == held.peak == (3 * 5 + 3 * 7 + 3 * 2) * FLOAT
        out.sum().backward()
        assert held.now == 3 * 2 * FLOAT
        del out
    assert held.now == 0
    assert held.peak == (3 * 5 + 3 * 7 + 3 * 2) * FLOAT


def test_held_counts_a_storage_once_and_whole():
    x = torch.ones(10, 6, requires_grad=True)
    with Held() as held:
        kept = [(x[:2] ** 2).sum(), (x[2:5] ** 2).sum(), (x**2).sum()]
        assert held.now == 10 * 6 * FLOAT
        del kept
        assert held.now == 10 * 6 * FLOAT  # x is alive, whoever keeps it
        del x
        assert held.now == 0


def test_held_adds_up_the_graphs_that_wait():
    net = nn.Sequential(nn.Linear(5, 7), nn.ReLU())
    one = (3 * 5 + 3 * 7) * FLOAT
    with Held(net) as held:
        waiting = [net(torch.ones(3, 5)) for _ in range(4)]
        assert held.now == 4 * one
        while waiting:
            waiting.pop(0).sum().backward()
            assert held.now == len(waiting) * one
        net(torch.ones(3, 5)).sum().backward()
    assert held.peak == 4 * one


def test_held_counts_what_a_function_saves_for_itself():
    x = torch.ones(6, requires_grad=True)
    with Held() as held:
        y = Doubled.apply(x)
        assert held.now == (6 + 100) * FLOAT
        y.sum().backward()
        assert held.now == 6 * FLOAT


def test_held_lets_go_of_a_graph_that_nobody_went_back_through():
    # The tensor that a pack hook is given belongs to the node that keeps what the hook returns:
    # returned as it is, an output would keep itself alive.
    net = nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 7), nn.Sigmoid())
    with Held(net) as held:
        out = net(torch.ones(3, 5))
        del out
        gc.collect()
        assert held.now == 0


def test_held_counts_what_a_schedule_keeps_until_any_thread_frees_it():
    queue = [torch.ones(50), torch.ones(50)[:10]]
    with Held() as held:
        held.watch(*queue, None, "no tensor")
        held.watch(queue[0].view(5, 10))
        assert held.now == 2 * 50 * FLOAT
        worker = threading.Thread(target=queue.clear)
        worker.start()
        worker.join(timeout=10)
        assert held.now == 0
    assert held.peak == 2 * 50 * FLOAT


def test_held_changes_no_gradient_and_leaves_no_hook():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 2))
    x = torch.randn(3, 5)
    expected = torch.autograd.grad(net(x).sum(), list(net.parameters()))
    with Held(net) as held:
        found = torch.autograd.grad(net(x).sum(), list(net.parameters()))
    assert all(map(torch.equal, found, expected))
    peak = held.peak
    net(torch.randn(300, 5)).sum().backward()
    assert held.peak == peak


# What is predicted

COST = model.Cost(forward=1.0, backward=2.0, update=0.5)


@pytest.mark.parametrize("order", [model.gpipe, model.one_forward_one_backward])
@pytest.mark.parametrize(("stages", "micro_batches"), [(2, 2), (2, 8), (4, 4), (4, 32), (3, 7)])
def test_a_pipeline_on_free_links_is_its_closed_form(order, stages, micro_batches):
    seconds = model.pipeline(order, stages, micro_batches, COST)
    closed = (micro_batches + stages - 1) * 3.0 / micro_batches + 0.5
    assert seconds == pytest.approx(closed)
    idle = 1 - 3.0 / (closed - 0.5)
    assert idle == pytest.approx(model.bubble(stages, micro_batches))


def test_a_pipeline_of_one_stage_is_one_process():
    assert model.pipeline(model.gpipe, 1, 4, COST) == pytest.approx(model.single(1, COST))
    assert model.bubble(1, 4) == 0


@pytest.mark.parametrize("order", [model.gpipe, model.one_forward_one_backward])
def test_a_visit_costs_at_each_micro_batch(order):
    cost = COST._replace(visit=0.25)
    more = model.pipeline(order, K, M, cost) - model.pipeline(order, K, M, COST)
    assert more == pytest.approx((M + K - 1) * 2 * 0.25)


@pytest.mark.parametrize(("stages", "micro_batches"), [(2, 2), (2, 8), (4, 4), (4, 32), (8, 16)])
def test_latency_delays_gpipe_once_and_1f1b_at_every_round(stages, micro_batches):
    def lost(order):
        far = model.pipeline(order, stages, micro_batches, COST, link=model.Link(latency=0.01))
        return (far - model.pipeline(order, stages, micro_batches, COST)) / 0.01

    assert lost(model.gpipe) == pytest.approx(2 * (stages - 1))
    rounds = 2 * (stages - 1) * micro_batches / stages + 2 * (stages - 2)
    assert lost(model.one_forward_one_backward) == pytest.approx(rounds)


def test_a_slow_link_is_what_a_step_takes():
    size = 1000.0
    link = model.Link(latency=5.0, bandwidth=10.0)  # 100 s for the messages of a batch
    assert model.decoupled(COST, size=size, link=link) == 100.0
    forward, backward, message = 1.0 / M, 2.0 / M, 100.0 + 5.0
    one_way = forward + message + forward + backward + message + backward
    assert model.pipeline(model.gpipe, 2, M, COST, size, link) == pytest.approx(one_way + 0.5)


def test_decoupled_stages_pay_for_synthesizers_and_not_for_latency():
    slow = model.Link(latency=10.0)
    assert model.decoupled(COST) == 3.5
    assert model.decoupled(COST, share=0.1, link=slow) == pytest.approx(1.1 * 3.5)
    assert model.fill(K, COST, link=slow) == pytest.approx(3 * 11.0)
    assert model.fill(K, COST, 8.0, model.Link(bandwidth=4.0)) == pytest.approx(3 * 3.0)


@pytest.mark.parametrize(("micro_batches", "gain"), [(4, 1.75), (8, 1.375), (32, 1.09375)])
def test_the_gain_is_the_inverse_of_the_share_that_works(micro_batches, gain):
    assert model.gain(4, micro_batches) == pytest.approx(gain)
    cost = COST._replace(update=0.0)
    step = model.pipeline(model.gpipe, 4, micro_batches, cost)
    assert step / model.decoupled(cost) == pytest.approx(gain)


def test_orders_do_every_task_once_and_1f1b_keeps_few_in_flight():
    for stage in range(K):
        for order in (model.gpipe, model.one_forward_one_backward):
            tasks = order(stage, K, M)
            assert sorted(tasks) == sorted((kind, m) for kind in "FB" for m in range(M))
        flight = [1 if kind == "F" else -1 for kind, _ in tasks]
        assert max(sum(flight[:n]) for n in range(len(flight) + 1)) == K - stage


# What is cut, and fed


@pytest.mark.parametrize("count", [1, 2, 3, 4, 8])
def test_parts_are_as_balanced_as_children_allow(count):
    whole = network.network(784, layers=8, width=64)
    parts = network.parts(whole, count)
    prices = network.costs(whole)
    ends = [0]
    for part in parts:
        ends.append(ends[-1] + len(part))
    loads = [sum(prices[a:b]) for a, b in itertools.pairwise(ends)]
    assert len(parts) == count
    assert ends[-1] == len(whole)
    assert max(loads) <= sum(prices) / count + max(prices)


def test_no_other_cut_is_better():
    prices = tuple(network.costs(network.network(784, layers=5, width=300)))
    (found,) = network._ends(prices, 2)
    loads = [max(sum(prices[:end]), sum(prices[end:])) for end in range(1, len(prices))]
    assert loads[found - 1] == min(loads)


def test_the_default_network_is_cut_in_the_middle():
    whole = network.network(784, layers=8, width=1024)
    assert network.cuts(whole, 2) == ["3"]
    with pytest.raises(ValueError, match="9 children cannot be cut into 10 parts"):
        network.cuts(whole, 10)


def test_parts_after_one_another_are_the_whole():
    whole = network.network(64, layers=4, width=32, norm=False)
    x = torch.randn(5, 64)
    h = x
    parts = network.parts(whole, 3)
    for part in parts:
        h = part(h)
    assert torch.equal(h, whole(x))
    again = network.network(64, layers=4, width=32, seed=7, norm=False)
    again.load_state_dict(dni.distributed.merge(part.state_dict() for part in parts))
    assert torch.equal(again(x), whole(x))


def test_a_batch_is_known_by_its_step_and_seed(setting):
    data = load(setting.data)
    x, y = network.batch(data, 5, 16, seed=3)
    assert x.shape == (16, 36)
    again = network.batch(data, 5, 16, seed=3)
    assert torch.equal(x, again[0])
    assert torch.equal(y, again[1])
    assert not torch.equal(x, network.batch(data, 6, 16, seed=3)[0])
    assert not torch.equal(x, network.batch(data, 5, 16, seed=4)[0])


# The arms


def test_a_pipeline_learns_what_one_process_learns(shares):
    alone, stages = shares
    merged = dni.distributed.merge(share.states[3] for share in stages)
    assert list(merged) == list(alone.states[3])
    for name, weight in alone.states[3].items():
        torch.testing.assert_close(merged[name], weight, rtol=1e-4, atol=1e-5)


def test_a_pipeline_sends_activations_down_and_gradients_up(setting, shares):
    _, (first, last) = shares
    assert first.sent == setting.steps * 2 * setting.batch * setting.width * FLOAT
    assert last.sent == 0


def test_the_first_stage_of_1f1b_holds_two_micro_batches_and_the_input(setting, shares):
    alone, (first, _) = shares
    images = setting.batch * 36 * FLOAT
    whole = setting.network(load(setting.data))
    output = setting.batch // 4 * setting.width * FLOAT  # of each block, for a micro-batch
    known = images + 2 * len(network.parts(whole, 2)[0]) * output
    assert known <= first.held <= known + output  # a send may keep what it has sent
    # One process: three layers, the scores, their logarithms, the labels and the mean's weight.
    known = images + setting.batch * (3 * setting.width + 2 * 10) * FLOAT + setting.batch * 8
    assert 0 <= alone.held - known <= 16


def test_an_outcome_is_of_the_parts_put_together(setting, shares):
    alone, stages = shares
    data = load(setting.data)
    made = processes.outcome("1F1B, M = 4", stages, setting, data)
    expected = setting.network(data)
    expected.load_state_dict(alone.states[3])
    assert made.test_error == pytest.approx(network.error(expected, data), abs=1.0)
    assert made.bytes_per_step == 2 * setting.batch * setting.width * FLOAT
    assert made.activation_bytes == [stages[0].held, stages[1].held]


def test_the_mean_of_micro_batches_is_the_loss_of_the_batch(setting):
    data = load(setting.data)
    x, y = setting.batch_of(data, 0)
    whole = setting.network(data)
    pieces = zip(x.chunk(4), y.chunk(4), strict=True)
    losses = torch.stack([F.cross_entropy(whole(a), b) for a, b in pieces])
    torch.testing.assert_close(losses.mean(), F.cross_entropy(whole(x), y))


@pytest.mark.parametrize("hidden", [0, 8])
def test_decoupled_stages_do_the_same_steps_and_exchange_as_much(setting, hidden):
    stages = processes.launch(train_decoupled, 2, replace(setting, hidden=hidden), 2, 0)
    assert [list(share.states) for share in stages] == [[1, 2, 3]] * 2
    activations = setting.steps * setting.batch * setting.width * FLOAT
    for share in stages:
        assert activations < share.sent < 2 * activations
    made = processes.outcome("decoupled", stages, setting, load(setting.data))
    assert [error for _, error in made.curve][-1] == made.test_error


def fails(rank, folder, setting):
    """A stage with a bug."""
    raise KeyError("a bug in a stage")


def test_a_traceback_comes_home(setting):
    with pytest.raises(mp.ProcessRaisedException, match="a bug in a stage"):
        processes.launch(fails, 1, setting)
