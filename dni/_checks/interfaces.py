"""Interfaces, and the monitors that watch them."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any, NoReturn

from torch import nn

from dni._checks.words import as_number, kind, shape

_ONE_GRAPH = (
    "Build the interface with unlock=False, or collect its gradients around the call in "
    "`with dni.defer_backward():`: the same gradients in one graph."
)


def is_synthesizer(synthesizer: Any, who: str) -> None:
    if not isinstance(synthesizer, nn.Module):
        raise TypeError(
            f"{who}: expected a torch.nn.Module with forward(trigger, context) as synthesizer, got "
            f"{kind(synthesizer)}."
        )


def yes_or_no(value: Any, name: str, who: str) -> None:
    if value is not None and not isinstance(value, bool):
        raise TypeError(f"{who}: expected {name} to be True, False or left out, got {value!r}.")


def normalize(value: bool | None, own_scale: bool, synthesizer: nn.Module, who: str) -> bool:
    if own_scale and value:
        raise ValueError(
            f"{who}: the messages of {type(synthesizer).__name__} have a scale of their own; "
            "expected normalize=False, got normalize=True. Leave it out."
        )
    yes_or_no(value, "normalize", who)
    return not own_scale if value is None else value


def one_of(name: str, value: Any, choices: Sequence[str], who: str) -> None:
    if value not in choices:
        expected = " or ".join(repr(choice) for choice in choices)
        raise ValueError(f"{who}: expected {name}={expected}, got {value!r}.")


def mix(value: Any, unlock: bool, who: str) -> float:
    number = as_number("mix", value, who)
    if not 0.0 <= number <= 1.0:
        raise ValueError(
            f"{who}: mix is the share of the real gradient in what is sent upstream; expected a "
            f"number from 0 (synthetic only) to 1 (observe only), got {value!r}."
        )
    if unlock and number > 0.0:
        raise ValueError(
            f"{who}: with unlock=True the synthetic gradient leaves before the real one exists, so "
            f"they cannot be mixed; expected mix=0, got mix={value!r}. Pass unlock=False."
        )
    return number


def factor(value: Any, who: str, name: str = "factor") -> float:
    number = as_number(name, value, who)
    if number != number or number in (float("inf"), float("-inf")):
        raise ValueError(f"{who}: expected a finite {name}, got {value!r}.")
    return number


def refuse_compiled_unlock(who: str) -> NoReturn:
    raise RuntimeError(
        f"{who}: unlock=True, send and backward run a backward pass during the forward pass, which "
        f"a compiled region cannot do; expected eager mode, got torch.compile. {_ONE_GRAPH}"
    )


def not_distributed(active: bool, who: str) -> None:
    if active:
        raise RuntimeError(
            f"{who}: unlock=True, send and backward run a backward pass before "
            "DistributedDataParallel listens, so its gradients would not be synchronised; expected "
            f"a single process, got a DDP forward pass. {_ONE_GRAPH}"
        )


def inside_transform(who: str, cause: Exception) -> NoReturn:
    raise RuntimeError(
        f"{who}: unlock=True, send and backward run a backward pass, which a transform of "
        "torch.func cannot; expected eager mode, got torch.func.grad or the like. Build the "
        "interface with unlock=False, normalize=False."
    ) from cause


def not_run_again(again: bool, who: str) -> None:
    if again:
        raise RuntimeError(
            f"{who}: with unlock=True a forward pass sends its synthetic gradient, once; expected "
            "no second run of it during the backward pass, got one, as "
            "torch.utils.checkpoint.checkpoint(use_reentrant=False) makes. Build the interface "
            "with unlock=False, and call zero_grad(): part A has its gradient already."
        )


def second_backward(who: str, cause: Exception | None = None) -> NoReturn:
    raise RuntimeError(
        f"{who}: this graph has been backpropagated once; expected no other gradient to reach it, "
        "got a second backward pass. (With unlock=True a synthetic gradient is the first.) If the "
        "trigger is used elsewhere too (a skip connection, a second interface, the loss of the "
        "same window), build the interface with unlock=False, or put both passes into one "
        "`with dni.defer_backward():` block. Detach a state that comes from the window before."
    ) from cause


def monitored_once(measuring: bool) -> None:
    if measuring:
        raise RuntimeError(
            "dni.diagnostics.Monitor: expected interfaces that nobody measures, got one with an "
            "open monitor. Close that one first."
        )


def monitor_open(measuring: bool) -> None:
    if not measuring:
        raise RuntimeError(
            "dni.diagnostics.Monitor: expected an open monitor, got one that was closed. Read it "
            "before its `with` block ends."
        )


def plotting() -> Any:
    try:
        from matplotlib import figure
    except ImportError as error:
        raise ImportError(
            "dni.plot: expected matplotlib, got none installed. Install it with `pip install "
            "matplotlib`, or write a monitor's numbers with to_csv(path)."
        ) from error
    return figure


def has_reads(any_of_them: bool, who: str) -> None:
    if not any_of_them:
        raise ValueError(f"{who}: expected a monitor that has been read, got none. Call read().")


def writes_scalars(writer: Any) -> None:
    if not (hasattr(writer, "add_scalar") or hasattr(writer, "log")):
        raise TypeError(
            "dni.diagnostics.Monitor: expected a SummaryWriter (add_scalar) or a run (log) to "
            f"write to, got {kind(writer)}."
        )


def zeroed_after_forward(early: Sequence[str], who: str) -> None:
    if early:
        raise RuntimeError(
            f"{who}: automatic optimisation calls zero_grad between forward and backward; expected "
            f"interfaces with unlock=False, got unlock=True in {', '.join(early)}: their synthetic "
            "gradients would be lost. Pass unlock=False, or optimise by hand."
        )


def same_shapes(synthetic: Any, real: Any, who: str) -> None:
    if synthetic.shape != real.shape:
        raise ValueError(
            f"{who}: expected a synthetic message of the real one's shape, {shape(real)}; got "
            f"{shape(synthetic)}."
        )


def erased(who: str) -> None:
    warnings.warn(
        f"{who}: expected synthetic gradients, sent during the forward pass, to be kept until the "
        "optimiser steps; got a zero_grad() before the backward pass, which erased them. Call it "
        "before the forward pass, or build the interface with unlock=False.",
        stacklevel=2,
    )
