"""Under DistributedDataParallel: one graph is synchronised, the early form is refused."""

from __future__ import annotations

import tempfile
import traceback

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
import torch.nn.functional as F
from torch.nn.parallel import DistributedDataParallel

import dni
from tests.cases import Chain, batch, gradients, synthesizer

WORLD = 2


def chain(unlock):
    torch.manual_seed(1)
    return Chain(lambda: dni.BackwardInterface(synthesizer(), unlock=unlock, normalize=False))


def halves():
    torch.manual_seed(2)
    x, y = batch(8)
    return list(zip(x.chunk(WORLD), y.chunk(WORLD), strict=True))


def work(rank, file, results):
    """Both experiments, in one group: starting it is what costs."""
    try:
        torch.set_num_threads(1)
        dist.init_process_group("gloo", f"file://{file}", rank=rank, world_size=WORLD)
        x, y = halves()[rank]
        model = DistributedDataParallel(chain(unlock=False))
        F.cross_entropy(model(x), y).backward()
        found = gradients(model.module)
        try:
            DistributedDataParallel(chain(unlock=True))(x)
            refusal = "nothing was refused"
        except RuntimeError as error:
            refusal = str(error)
        outside = chain(unlock=True)  # beside DDP, not inside, it may go on
        F.cross_entropy(outside(x), y).backward()
        results.put((rank, {name: g.numpy() for name, g in found.items()}, refusal))
        dist.destroy_process_group()
    except Exception:
        results.put((rank, None, traceback.format_exc()))


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
    for _, found, said in answers:
        assert found is not None, said
    return answers


def test_every_rank_has_the_mean_of_the_gradients(ranks):
    model = chain(unlock=False)
    expected = None
    for x, y in halves():
        model.zero_grad()
        F.cross_entropy(model(x), y).backward()
        found = gradients(model)
        expected = found if expected is None else {n: expected[n] + found[n] for n in found}
    for _, synchronised, _ in ranks:
        for name, gradient in expected.items():
            torch.testing.assert_close(torch.from_numpy(synchronised[name]), gradient / WORLD)


def test_every_rank_refuses_the_early_form(ranks):
    for _, _, refusal in ranks:
        assert "BackwardInterface: unlock=True" in refusal
        assert "unlock=False" in refusal
