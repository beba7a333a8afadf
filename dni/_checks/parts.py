"""A network in parts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn


def sequential(module: nn.Module, name: str, who: str) -> nn.Sequential:
    plain = isinstance(module, nn.Sequential) and type(module).forward is nn.Sequential.forward
    if not plain:
        raise TypeError(
            f"{who}: only a Sequential can be cut between its children; expected one at "
            f"{name!r}, got {type(module).__name__}. Cut in front of it or after it, or write "
            "the parts by hand."
        )
    assert isinstance(module, nn.Sequential)
    own = [*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)]
    if own or module._forward_hooks or module._forward_pre_hooks:
        raise TypeError(
            f"{who}: expected a Sequential with neither parameters nor hooks of its own at "
            f"{name!r}, which no part could keep. Give them to a child."
        )
    return module


def cut_is_in(name: str, rest: nn.Module, model: nn.Module, who: str) -> None:
    if name in dict(rest.named_modules()) and name:
        return
    if name in dict(model.named_modules()) and name:
        raise ValueError(
            f"{who}: expected cuts in the order of the forward pass, each of them once; got "
            f"{name!r} after a later one."
        )
    names = ", ".join(map(repr, list(dict(model.named_modules()))[1:9]))
    raise ValueError(f"{who}: expected the name of a module, such as {names}; got {name!r}.")


def parts_stand_alone(parts: Sequence[nn.Module], who: str) -> None:
    if not any(True for _ in parts[-1].children()):
        raise ValueError(
            f"{who}: expected cuts between modules, got one after the last; leave it out."
        )
    owners: dict[int, tuple[int, str]] = {}
    for number, part in enumerate(parts):
        tensors = [*part.named_parameters(), *part.named_buffers()]
        for name, tensor in tensors:
            owner, first = owners.setdefault(id(tensor), (number, name))
            if owner != number:
                raise ValueError(
                    f"{who}: expected parts with tensors of their own, got one that part {owner} "
                    f"calls {first!r} and part {number} {name!r}: processes share no memory. Untie "
                    "them, or cut elsewhere."
                )


def merges(merged: Mapping[str, Any], state: Mapping[str, Any], who: str) -> None:
    twice = sorted(merged.keys() & state.keys())
    if twice:
        raise ValueError(
            f"{who}: expected each name in one part, got {', '.join(twice)} in two. Are these "
            "parts of one model?"
        )
