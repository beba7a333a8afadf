"""The outputs of a network's modules, seen in a dry run, and the interfaces for them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from dni import _checks, _trees
from dni.decoupling.select import Places
from dni.interfaces import BackwardInterface, UnidirectionalInterface
from dni.interfaces.several import EachTensor
from dni.interfaces.unshaped import Pairs, Unshaped, same_random_state


def interfaces_for(
    pairs: Pairs, build: Callable[[Tensor], nn.Module], name: str, options: dict[str, Any]
) -> nn.Module:
    """An interface for each tensor; a single one if the output is itself a tensor."""
    made: dict[_trees.Place, BackwardInterface] = {}
    for place, tensor in pairs:
        who = name + _trees.written(place)
        synthesizer = build(tensor.detach())
        _checks.built(synthesizer, who)
        made[place] = BackwardInterface(synthesizer, unlock=False, name=who, **options)
    return made[()] if () in made else EachTensor(made)


def dry_run(model: nn.Module, places: Places, sample: Any, who: str) -> dict[str, Any]:
    """The first outputs of the modules at ``places`` for ``sample``, by name.

    Unless asked for by name, modules that are never called are left out, and so are heads among
    the leaves; other modules whose output is the model's own cause a warning.
    """
    seen: dict[str, Any] = {}
    ran: dict[str, Any] = {}
    calls: Counter[str] = Counter()
    versions: dict[str, list[int]] = {}
    names = {module: name for name, module in places.modules.items()}

    def keep(module: nn.Module, arguments: Any, output: Any) -> None:
        calls[names[module]] += 1
        ran.pop(names[module], None)
        ran[names[module]] = output
        if seen.setdefault(names[module], output) is output:
            versions[names[module]] = [tensor._version for _, tensor in _trees.tensors(output)]

    handles = [module.register_forward_hook(keep) for module in places.modules.values()]
    try:
        result = call(model, sample, who)
    finally:
        for handle in handles:
            handle.remove()
    _checks.all_called([name for name in places.named if name not in seen], who)
    now = {name: [t._version for _, t in _trees.tensors(seen[name])] for name in seen}
    ends = _at_the_end(ran, result)
    _checks.not_at_the_end([n for n in ends if n not in places.leaves | places.named], who)
    spared = heads(places, ran, result)
    _checks.not_in_place([n for n in seen if n not in spared and now[n] != versions[n]], who)
    found = {name: seen[name] for name in places.modules if name in seen and name not in spared}
    _checks.found_some(bool(found), "modules that the sample reaches", places.modules, who)
    _checks.called_once([n for n in found if calls[n] > 1 and n not in places.named], who)
    return found


def heads(places: Places, ran: dict[str, Any], result: Any) -> list[str]:
    """The leaves whose output is the model's own; if there are none, the leaf that runs last.

    ``ran`` holds the last output of each module, in the order of their last calls.
    """
    ends = [name for name in _at_the_end(ran, result) if name in places.leaves]
    return ends or [name for name in list(ran)[-1:] if name in places.leaves]


def _at_the_end(ran: dict[str, Any], result: Any) -> list[str]:
    own = {id(tensor) for _, tensor in _trees.tensors(result)}
    return [
        name
        for name, output in ran.items()
        if any(id(tensor) in own for _, tensor in _trees.tensors(output))
    ]


def call(model: nn.Module, sample: Any, who: str) -> Any:
    """Run ``model`` on ``sample`` without a trace: neither buffers nor random state change."""
    named = isinstance(sample, Mapping)  # a dict, or what a tokenizer returns
    keywords = dict(sample) if named else {}
    arguments = () if named else sample if isinstance(sample, tuple) else (sample,)
    with same_random_state(model.parameters()), _silent(model), torch.enable_grad():
        try:
            buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
            return torch.func.functional_call(model, buffers, arguments, keywords)
        except Exception as error:
            _checks.refused(error, who)


@contextmanager
def _silent(model: nn.Module) -> Iterator[None]:
    """Existing and future interfaces neither send nor learn nor take shape in this block."""
    kinds = (UnidirectionalInterface, Unshaped)
    there = [m for m in model.modules() if isinstance(m, kinds) and m.training]
    for interface in there:
        interface.training = False
    try:
        yield
    finally:
        for interface in there:
            interface.training = True
