"""What a module puts out, and which interfaces that takes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from dni import _checks, _trees
from dni.interfaces import BackwardInterface, UnidirectionalInterface


class EachTensor(nn.ModuleDict):
    """The interfaces behind a module that puts out several tensors, by their places."""

    def forward(self, output: Any) -> Any:
        """``output``, cut in each tensor that had a gradient when this was built."""
        return _trees.map_tensors(self._cut, output)

    def _cut(self, place: str, tensor: Tensor) -> Any:
        return self[place](tensor) if place in self else tensor


def interfaces_for(
    output: Any, build: Callable[[Tensor], nn.Module], name: str, options: dict[str, Any]
) -> nn.Module:
    """An interface for each tensor of ``output`` that has a gradient; one, if it is a tensor."""
    made: dict[str, BackwardInterface] = {}

    def one(place: str, tensor: Tensor) -> None:
        if tensor.requires_grad:
            who = f"{name}[{place}]" if place else name
            synthesizer = build(tensor.detach())
            _checks.built(synthesizer, who)
            made[place] = BackwardInterface(synthesizer, unlock=False, name=who, **options)

    _trees.map_tensors(one, output)
    _checks.something_to_cut(bool(made), output, name)
    return made[""] if "" in made else EachTensor(made)


def dry_run(
    model: nn.Module, modules: dict[str, nn.Module], sample: Any, who: str
) -> dict[str, Any]:
    """What each of ``modules`` puts out first for ``sample``."""
    seen: dict[str, Any] = {}
    names = {module: name for name, module in modules.items()}

    def keep(module: nn.Module, arguments: Any, output: Any) -> None:
        seen.setdefault(names[module], output)

    handles = [module.register_forward_hook(keep) for module in modules.values()]
    try:
        call(model, sample, who)
    finally:
        for handle in handles:
            handle.remove()
    _checks.all_called(list(modules), seen, who)
    return seen


def call(model: nn.Module, sample: Any, who: str) -> Any:
    """``model`` on ``sample``, without a trace: neither buffers nor random state change."""
    keywords = sample if isinstance(sample, dict) else {}
    arguments = () if keywords else sample if isinstance(sample, tuple) else (sample,)
    buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
    with same_random_state(model), _silent(model), torch.enable_grad():
        try:
            return torch.func.functional_call(model, buffers, arguments, keywords)
        except Exception as error:
            _checks.refused(error, who)


def same_random_state(model: nn.Module) -> Any:
    """Random numbers drawn inside are drawn again outside."""
    devices = {p.device for p in model.parameters() if p.device.type == "cuda"}
    return torch.random.fork_rng(devices=list(devices))


@contextmanager
def _silent(model: nn.Module) -> Iterator[None]:
    """Interfaces that are there already neither send nor learn."""
    there = [m for m in model.modules() if isinstance(m, UnidirectionalInterface) and m.training]
    for interface in there:
        interface.training = False
    try:
        yield
    finally:
        for interface in there:
            interface.training = True
