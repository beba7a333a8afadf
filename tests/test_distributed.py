"""Under DistributedDataParallel: one graph is synchronised, the early form is refused."""

from __future__ import annotations

import tempfile
import traceback

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
import torch.nn.functional as F
from torch import nn
from torch.nn.parallel import DistributedDataParallel

import dni
from tests.cases import WIDTH, Chain, batch, gradients, synthesizer

WORLD = 2


def chain(unlock, normalize=False):
    torch.manual_seed(1)
    return Chain(lambda: dni.BackwardInterface(synthesizer(), unlock=unlock, normalize=normalize))


def replayed(x):
    """A replay that was there before its model was wrapped."""
    model = chain(unlock=False)
    replay = dni.Replay(model)
    DistributedDataParallel(model)(x)
    return replay


def decoupled():
    """A chain of whose layers two are cut from outside."""
    plain = chain(unlock=False)
    plain.cuts = nn.ModuleList()
    return dni.decouple(
        plain,
        ["layers.0", "layers.1"],
        lambda h: synthesizer(),
        normalize=False,
        sample=halves()[0][0],
    )


def halves():
    torch.manual_seed(2)
    x, y = batch(8)
    return list(zip(x.chunk(WORLD), y.chunk(WORLD), strict=True))


class Sends(nn.Module):
    """Backpropagates during its forward pass, as a recurrent network's window does."""

    def __init__(self):
        super().__init__()
        self.core, self.interface = nn.Linear(WIDTH, WIDTH), chain(unlock=False).cuts[0]

    def forward(self, x):
        state = self.core(x)
        self.interface.backward(state)
        return state


def refusal(call):
    try:
        call()
    except RuntimeError as error:
        return str(error)
    return "nothing was refused"


def work(rank, file, results):
    """Both experiments, in one group: starting it is what costs."""
    try:
        torch.set_num_threads(1)
        dist.init_process_group("gloo", f"file://{file}", rank=rank, world_size=WORLD)
        x, y = halves()[rank]
        model = DistributedDataParallel(chain(unlock=False))
        F.cross_entropy(model(x), y).backward()
        found = gradients(model.module)
        refusals = [
            refusal(lambda: DistributedDataParallel(chain(unlock=True))(x)),
            refusal(lambda: DistributedDataParallel(Sends())(x)),
            refusal(lambda: replayed(x)),
        ]
        normalized = DistributedDataParallel(chain(unlock=False, normalize=True))
        optimizer = torch.optim.SGD(normalized.parameters(), 0.1)
        for _ in range(5):
            optimizer.zero_grad()
            F.cross_entropy(normalized(x), y).backward()
            optimizer.step()
        weights = torch.cat([p.detach().flatten() for p in normalized.parameters()])
        attached = DistributedDataParallel(decoupled())
        F.cross_entropy(attached(x), y).backward()
        found |= {f"attached.{name}": g for name, g in gradients(attached.module).items()}
        outside = chain(unlock=True)  # beside DDP, not inside, it may go on
        F.cross_entropy(outside(x), y).backward()
        found = {name: gradient.numpy() for name, gradient in found.items()}
        results.put((rank, found, refusals, weights.numpy()))
        dist.destroy_process_group()
    except Exception:
        results.put((rank, None, traceback.format_exc(), None))


@pytest.fixture(scope="module")
def ranks():
    context = mp.get_context("spawn")
    results = context.Queue()
    with tempfile.TemporaryDirectory() as folder:
        processes = [
            context.Process(target=work, args=(rank, f"{folder}/meet", results), daemon=True)
            for rank in range(WORLD)
        ]
        for process in processes:
            process.start()
        answers = sorted((results.get(timeout=120) for _ in processes), key=lambda one: one[0])
        for process in processes:
            process.join(timeout=60)
    for _, found, said, _ in answers:
        assert found is not None, said
    return answers


@pytest.mark.parametrize(
    ("build", "prefix"), [(lambda: chain(unlock=False), ""), (decoupled, "attached.")]
)
def test_every_rank_has_the_mean_of_the_gradients(ranks, build, prefix):
    model = build()
    expected = None
    for x, y in halves():
        model.zero_grad()
        F.cross_entropy(model(x), y).backward()
        found = gradients(model)
        expected = found if expected is None else {n: expected[n] + found[n] for n in found}
    for _, synchronised, _, _ in ranks:
        for name, gradient in expected.items():
            torch.testing.assert_close(
                torch.from_numpy(synchronised[prefix + name]), gradient / WORLD
            )


def test_every_rank_refuses_the_early_form(ranks):
    for _, _, refusals, _ in ranks:
        *early, replay = refusals
        for refused in early:
            assert "BackwardInterface: unlock=True" in refused
            assert "Build the interface with unlock=False" in refused
        assert "replicas would drift apart" in replay


def test_with_a_running_scale_all_ranks_stay_one_model(ranks):
    (_, _, _, one), (_, _, _, other) = ranks
    assert (one == other).all()
