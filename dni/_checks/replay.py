"""Replays of what was learnt."""

from __future__ import annotations

import warnings
from typing import Any, NoReturn

from dni._checks.words import is_integer_from


def loss_count(value: Any, who: str) -> None:
    if not is_integer_from(0, value):
        raise ValueError(f"{who}: expected count, a number from 0 on, got {value!r}.")


def remembers_what_is_learnt(learnt: bool) -> None:
    if learnt:
        warnings.warn(
            "dni.Replay: synthesizers have gradients, but none of their messages is remembered. "
            "Make the replay before the first call of a compiled model, and before the first "
            "backward pass.",
            stacklevel=3,
        )


def not_replicated(inside: bool, who: str) -> None:
    if inside:
        raise RuntimeError(
            f"{who}: expected a model that one process trains, got one inside "
            "DistributedDataParallel, which averages the gradients of its own backward passes "
            "only: replicas would drift apart. Leave the replay out."
        )


def stays_with_its_model(who: str) -> NoReturn:
    raise TypeError(
        f"{who}: a replay stays with its model; expected no copy, got copy or pickle. Make another "
        "replay for a copy of the model."
    )
