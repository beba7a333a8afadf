r"""The network of every arm, the places where it is cut, and the batches that it sees.

An arm that is cut elsewhere, sees other samples or computes another function is no comparison.
So all of them build, cut and feed the network with what is here. Its batch norm sees what a
stage sees at a time: a micro-batch in a pipeline, a batch elsewhere. Without (``norm=False``) a
pipeline does one process's arithmetic, up to rounding; but networks as deep are not trained so,
and synthetic gradients need it more than backpropagation does (``--no-norm`` tries it).

A child's cost is its multiplications for a sample,

.. math:: c_j = \sum_{\text{linear } l \in j} n_l \cdot in_l \cdot out_l, \qquad
    n_l = 3 \; (\text{forward, gradient of the weight, of the input}),

with :math:`n_l = 2` for the first layer, whose input needs no gradient. :func:`cuts` gives the
parts of which the dearest is the cheapest: a pipeline is as fast as its slowest stage.
"""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor, nn

import dni.distributed
from examples.data import CLASSES, Images

STEPS = 1_000_003  # of one seed, before another's: the CPU's generator reads 32 bits of a seed


def network(
    inputs: int, layers: int = 12, width: int = 1024, seed: int = 0, norm: bool = True
) -> nn.Sequential:
    """``layers`` blocks (linear, batch norm, ReLU), and a linear layer for the classes."""
    torch.manual_seed(seed)
    blocks = []
    for size in (inputs, *[width] * (layers - 1)):
        linear = nn.Linear(size, width)
        nn.init.kaiming_normal_(linear.weight, nonlinearity="relu")
        nn.init.zeros_(linear.bias)
        between = [nn.BatchNorm1d(width)] if norm else []
        blocks.append(nn.Sequential(linear, *between, nn.ReLU()))
    return nn.Sequential(*blocks, nn.Linear(width, CLASSES))


def costs(model: nn.Sequential) -> list[int]:
    """The cost of each child; see the module."""
    found, products = [], 2
    for child in model:
        found.append(0)
        for layer in child.modules():
            if isinstance(layer, nn.Linear):
                found[-1] += products * layer.in_features * layer.out_features
                products = 3
    return found


def cuts(model: nn.Sequential, parts: int) -> list[str]:
    """The children after which ``model`` is cut: for ``dni.distributed.split(model, at=...)``.

    Example:
        >>> from benchmarks.stages.network import cuts, network
        >>> cuts(network(64, layers=4, width=64), 2)
        ['1']
    """
    names = [name for name, _ in model.named_children()]
    if not 1 <= parts <= len(names):
        raise ValueError(f"{len(names)} children cannot be cut into {parts} parts.")
    return [names[end - 1] for end in _ends(tuple(costs(model)), parts)]


def parts(model: nn.Sequential, count: int) -> list[nn.Sequential]:
    """``model``, cut."""
    return dni.distributed.split(model, at=cuts(model, count))


def rows(step: int, samples: int, size: int, seed: int = 0) -> Tensor:
    """Which of the samples make up batch ``step``; any step can be asked for, in any order."""
    generator = torch.Generator().manual_seed(seed * STEPS + step)
    return torch.randint(samples, (size,), generator=generator)


def batch(data: Images, step: int, size: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Batch ``step``: images as rows of pixels, and labels."""
    index = rows(step, len(data.train_y), size, seed)
    return data.train_x[index].flatten(1), data.train_y[index]


@torch.no_grad()
def error(model: nn.Module, data: Images) -> float:
    """Per cent of the test set."""
    model.eval()
    wrong = [
        (model(x.flatten(1)).argmax(1) != y).sum()
        for x, y in zip(data.test_x.split(1000), data.test_y.split(1000), strict=True)
    ]
    model.train()
    return 100 * float(sum(wrong)) / len(data.test_y)


def _ends(prices: tuple[int, ...], count: int) -> list[int]:
    """Where each part but the last ends; of equally good ways, the one with the earliest ends."""

    @cache
    def best(start: int, left: int) -> tuple[int, tuple[int, ...]]:
        if left == 1:
            return sum(prices[start:]), ()
        ways = []
        for end in range(start + 1, len(prices) - left + 2):
            dearest, ends = best(end, left - 1)
            ways.append((max(sum(prices[start:end]), dearest), (end, *ends)))
        return min(ways)

    return list(best(0, count)[1])
