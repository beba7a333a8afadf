"""How messages name things."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from numbers import Integral
from typing import Any

from torch import Tensor


def is_integer_from(least: int, value: Any) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool) and int(value) >= least


def as_number(name: str, value: Any, who: str) -> float:
    convert: Callable[[Any], float] = float
    try:
        if isinstance(value, (str, bytes)):
            raise TypeError
        return convert(value)
    except (TypeError, ValueError) as error:
        raise TypeError(f"{who}: expected {name} to be a number, got {kind(value)}.") from error


def output_dim_hint(output: Tensor, like: Tensor) -> str:
    same_but_width = output.dim() == like.dim() and output.shape[:-1] == like.shape[:-1]
    return f" Did you mean output_dim={like.shape[-1]}?" if same_but_width else ""


def alike(one: Any, other: Any) -> bool:
    """Whether two messages have the same containers and sizes."""
    if isinstance(one, Tensor) and isinstance(other, Tensor):
        return one.shape == other.shape
    if isinstance(one, dict) and isinstance(other, dict):  # of any class: a channel loses it
        return list(one) == list(other) and all(alike(one[key], other[key]) for key in one)
    if type(one) is not type(other):
        return False
    if isinstance(one, (tuple, list)):
        return len(one) == len(other) and all(map(alike, one, other))
    return True


def structure(message: Any) -> str:
    """``(Tensor(1, 5, 2), Tensor(1, 5, 2))``, for an LSTM's state."""
    if isinstance(message, Tensor):
        return f"Tensor{shape(message)}"
    if isinstance(message, dict):
        return f"{{{', '.join(f'{key!r}: {structure(item)}' for key, item in message.items())}}}"
    if isinstance(message, (tuple, list)):
        left, right = "()" if isinstance(message, tuple) else "[]"
        return left + ", ".join(structure(item) for item in message) + right
    return kind(message)


def size(shape: Sequence[int]) -> str:
    return str(tuple(shape))


def shape(tensor: Tensor) -> str:
    return size(tensor.shape)


def kind(value: Any) -> str:
    if value is None:
        return "None"
    name = type(value).__name__
    return f"{'an' if name[0] in 'aeiouAEIOU' else 'a'} {name}"
