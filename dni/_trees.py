"""Messages: a tensor, or a tuple, list or dict of tensors, which a synthesizer sees as one.

An LSTM hands on ``(h, c)``; a stack of layers of different widths hands on a list.
A synthesizer should not care, so its trigger is always *one* tensor: the leaves joined
along their last dimension. What it predicts is split the same way::

    (h, c) --flatten--> [h, c] --join--> (..., H + C) --synthesizer--> (..., H + C)
    (s_h, s_c) <--rebuild-- [s_h, s_c] <--split like [h, c]--------------'
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from dni import _checks

Place = tuple[Any, ...]  # the keys and indices that lead to a tensor
Rebuild = Callable[[Iterable[Tensor]], Any]


def flatten(message: Any, who: str) -> tuple[list[Tensor], Rebuild]:
    """The tensors of ``message`` from left to right, and a function that replaces them."""
    leaves: list[Tensor] = []
    _collect(message, leaves, who)
    return leaves, lambda new: _rebuild(message, iter(new))


def join(leaves: Sequence[Tensor], who: str) -> Tensor:
    """One tensor that holds all leaves, side by side in the last dimension."""
    if len(leaves) == 1:
        return leaves[0]
    _checks.joinable(leaves, who)
    return torch.cat(list(leaves), dim=-1)


def split(joined: Tensor, like: Sequence[Tensor]) -> Sequence[Tensor]:
    """The inverse of :func:`join`."""
    if len(like) == 1:
        return [joined]
    return torch.split(joined, [leaf.shape[-1] for leaf in like], dim=-1)


def tensors(message: Any, place: Place = ()) -> Iterator[tuple[Place, Tensor]]:
    """The tensors in any output, with their places; anything else in it is skipped."""
    if isinstance(message, Tensor):
        yield place, message
    elif isinstance(message, dict):
        for key, item in message.items():
            yield from tensors(item, (*place, key))
    elif isinstance(message, (tuple, list)):
        for number, item in enumerate(message):
            yield from tensors(item, (*place, number))


def map_tensors(
    function: Callable[[Place, Tensor], Tensor], message: Any, place: Place = ()
) -> Any:
    """``message`` with ``function(place, tensor)`` in place of each tensor, otherwise unchanged."""
    if isinstance(message, Tensor):
        return function(place, message)
    if isinstance(message, dict):
        copied = copy.copy(message)  # keeps the class: an OrderedDict, a model's output
        for key, item in message.items():
            copied[key] = map_tensors(function, item, (*place, key))
        return copied
    if not isinstance(message, (tuple, list)):
        return message
    items = [map_tensors(function, item, (*place, k)) for k, item in enumerate(message)]
    if hasattr(message, "_fields"):  # a namedtuple
        return type(message)(*items)
    return items if isinstance(message, list) else type(message)(items)


def on_device_of(message: Any, like: Any) -> Any:
    """``message``, moved to where the first tensor of ``like`` is."""
    _, first = next(tensors(like))
    return map_tensors(lambda _, tensor: tensor.to(first.device, non_blocking=True), message)


def written(place: Place) -> str:
    """A place as Python writes it: ``[1][0]``, ``['h']``."""
    return "".join(f"[{key!r}]" for key in place)


def _collect(message: Any, leaves: list[Tensor], who: str) -> None:
    if isinstance(message, Tensor):
        leaves.append(message)
    elif isinstance(message, (tuple, list)) and message:
        for item in message:
            _collect(item, leaves, who)
    elif isinstance(message, dict) and message:
        for item in message.values():
            _collect(item, leaves, who)
    else:
        _checks.not_a_message(message, who)


def _rebuild(message: Any, new: Iterator[Tensor]) -> Any:
    return map_tensors(lambda _, old: next(new), message)
