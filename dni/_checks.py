"""Every check of an argument, and what it says.

A message names who speaks, the rule, what was expected, what came, and the way out.
Checks run before anything is changed: an error leaves contexts, gradients and
statistics as they were. They are written for the first reader of a traceback, so each
is one function with one sentence, and no other file formats an error.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from numbers import Integral
from typing import Any, NoReturn

import torch
from torch import Tensor, nn

# -- contexts ------------------------------------------------------------------------


def not_deferring(deferring: bool) -> None:
    if deferring:
        raise RuntimeError(
            "dni.defer_backward: blocks do not nest; expected no open block in this thread, "
            "got a second one. Gradients are already collected: leave the inner block out."
        )


def backward_arguments(tensor: Any, gradient: Any) -> None:
    who = "dni.backward"
    if not isinstance(tensor, Tensor):
        raise TypeError(f"{who}: expected a tensor to backpropagate from, got {_kind(tensor)}.")
    if not tensor.requires_grad:
        raise RuntimeError(
            f"{who}: a gradient needs a graph to flow through; expected a tensor that requires "
            f"grad, got one of shape {_shape(tensor)} that does not. Was it detached, or made "
            "under torch.no_grad()?"
        )
    if gradient is None:
        if tensor.numel() != 1:
            raise RuntimeError(
                f"{who}: without a gradient, expected a scalar loss, got a tensor of shape "
                f"{_shape(tensor)}. Pass dni.backward(tensor, gradient), or reduce the loss."
            )
    elif not isinstance(gradient, Tensor):
        raise TypeError(f"{who}: expected a tensor as gradient, got {_kind(gradient)}.")
    elif gradient.shape != tensor.shape:
        raise ValueError(
            f"{who}: a gradient has the shape of its tensor; expected {_shape(tensor)}, got "
            f"{_shape(gradient)}."
        )


# -- messages ------------------------------------------------------------------------


def not_a_message(message: Any, who: str) -> NoReturn:
    empty = isinstance(message, (tuple, list, dict))
    got = f"an empty {type(message).__name__}" if empty else _kind(message)
    raise TypeError(
        f"{who}: a message is a tensor, or a non-empty tuple, list or dict of messages; got "
        f"{got}. Pass only the tensors that cross the cut."
    )


def joinable(leaves: Sequence[Tensor], who: str) -> None:
    first = leaves[0]
    for leaf in leaves:
        if leaf.dim() == 0 or leaf.shape[:-1] != first.shape[:-1] or leaf.dtype != first.dtype:
            raise ValueError(
                f"{who}: the tensors of one message are joined along their last dimension; "
                f"expected one dtype and equal leading sizes {_size(first.shape[:-1])}, got "
                f"{_shape(first)} {first.dtype} beside {_shape(leaf)} {leaf.dtype}. Use one "
                "interface for each group of tensors that fit."
            )


def trigger(leaves: Sequence[Tensor], who: str) -> None:
    for leaf in leaves:
        if not leaf.requires_grad:
            raise RuntimeError(
                f"{who}: a synthetic gradient is sent back from the trigger into the graph that "
                f"made it; expected a trigger that requires grad, got one of shape "
                f"{_shape(leaf)} that does not. Is the part below frozen, detached or an input? "
                "Then there is nothing to decouple: leave the interface out, or call .eval() on it."
            )


def floating(leaves: Sequence[Tensor], who: str) -> None:
    for leaf in leaves:
        if not leaf.is_floating_point():
            raise TypeError(
                f"{who}: only floating-point tensors have gradients; expected one, got "
                f"{leaf.dtype} of shape {_shape(leaf)}."
            )


def is_tensor(output: Any, synthesizer: nn.Module, who: str) -> None:
    if not isinstance(output, Tensor):
        raise TypeError(
            f"{who}: a synthesizer returns one tensor, the synthetic message; got {_kind(output)} "
            f"from {type(synthesizer).__name__}. Does its forward(trigger, context) end in "
            "`return message`?"
        )


def misplaced(synthesizer: nn.Module, trigger: Tensor, who: str, cause: Exception) -> None:
    """Explain an error inside a synthesizer that was built for other tensors."""
    fits_anything = torch.is_autocast_enabled(trigger.device.type)
    if type(cause) is not RuntimeError or fits_anything or not trigger.is_floating_point():
        return
    for parameter in synthesizer.parameters():
        for kind, have, want in (
            ("device", parameter.device, trigger.device),
            ("dtype", parameter.dtype, trigger.dtype),
        ):
            if have != want:
                argument = repr(str(want)) if kind == "device" else str(want)
                raise TypeError(
                    f"{who}: a synthesizer's parameters and its trigger must fit; expected {kind} "
                    f"{want}, got {have}. Convert the synthesizer: interface.to({argument})."
                ) from cause


def unchanged(before: int, after: int, synthesizer: nn.Module, who: str) -> None:
    if before != after:
        raise RuntimeError(
            f"{who}: a trigger is the activation itself; expected a synthesizer that leaves it as "
            f"it is, but {type(synthesizer).__name__} changed it in place. Use out-of-place "
            "operations in it (nn.ReLU() for nn.ReLU(inplace=True))."
        )


def prediction(output: Tensor, like: Tensor, who: str) -> None:
    """A synthesizer's output has the shape, dtype and device of the real message."""
    if output.shape != like.shape:
        raise ValueError(
            f"{who}: the synthesizer returned {_shape(output)} for a message of {_shape(like)}; "
            f"both must agree.{_output_dim_hint(output, like)}"
        )
    if output.device != like.device:
        raise ValueError(
            f"{who}: the synthesizer returned a tensor on {output.device} for a message on "
            f"{like.device}; move it there: interface.to({str(like.device)!r})."
        )
    if output.dtype != like.dtype and not torch.is_autocast_enabled(like.device.type):
        raise TypeError(
            f"{who}: the synthesizer returned {output.dtype} for a message of {like.dtype}; "
            f"convert it: interface.to({like.dtype})."
        )


def nonfinite_message(message: Tensor, policy: str, who: str) -> None:
    if policy == "raise":
        bad = int((~torch.isfinite(message)).sum())
        what = f"{bad} of {message.numel()} elements are NaN or Inf" if bad else "its square is Inf"
        raise FloatingPointError(
            f"{who}: a real message must be finite; expected numbers in a message of shape "
            f"{_shape(message)}, but {what}. The synthesizer has not learnt from it. Look for the "
            "cause above this cut, or pass nonfinite='skip' to pass over such messages (with a "
            "GradScaler, overflows are normal)."
        )


# -- interfaces ----------------------------------------------------------------------

_ONE_GRAPH = (
    "Build the interface with unlock=False, or collect its gradients around the call in "
    "`with dni.defer_backward():`: the same gradients in one graph."
)


def is_synthesizer(synthesizer: Any, who: str) -> None:
    if not isinstance(synthesizer, nn.Module):
        raise TypeError(
            f"{who}: expected a torch.nn.Module with forward(trigger, context) as synthesizer, got "
            f"{_kind(synthesizer)}."
        )


def one_of(name: str, value: Any, choices: Sequence[str], who: str) -> None:
    if value not in choices:
        expected = " or ".join(repr(choice) for choice in choices)
        raise ValueError(f"{who}: expected {name}={expected}, got {value!r}.")


def mix(value: Any, unlock: bool, who: str) -> float:
    number = _number("mix", value, who)
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


def factor(value: Any, who: str) -> float:
    number = _number("factor", value, who)
    if number != number or number in (float("inf"), float("-inf")):
        raise ValueError(f"{who}: expected a finite factor, got {value!r}.")
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


# -- synthesizers --------------------------------------------------------------------


def positive(who: str, **sizes: int | None) -> None:
    for name, value in sizes.items():
        if value is not None and not _is_integer_from(1, value):
            raise ValueError(f"{who}: expected {name} to be a positive integer, got {value!r}.")


def hidden_count(value: Any, who: str) -> None:
    if not _is_integer_from(0, value):
        raise ValueError(f"{who}: expected n_hidden, a number of layers from 0 on, got {value!r}.")


def odd(name: str, value: int, who: str) -> None:
    if value % 2 == 0:
        raise ValueError(
            f"{who}: a synthetic gradient has the height and width of its trigger, which needs an "
            f"odd {name}; got {value}."
        )


def context_size(dim: int | None, classes: int | None, who: str) -> int | None:
    if dim is not None and classes is not None and dim != classes:
        raise ValueError(
            f"{who}: context_dim is the width of a context vector, context_classes the number of "
            f"labels, which become vectors of that width; expected one of them, got {dim} and "
            f"{classes}."
        )
    return classes if dim is None else dim


def feature_width(tensor: Tensor, width: int, who: str) -> None:
    if tensor.dim() < 1 or tensor.shape[-1] != width:
        hint = f"Build it for {tensor.shape[-1]} features" if tensor.dim() else "Add a dimension"
        if tensor.dim() == 4:
            hint = (
                f"For maps (N, C, H, W) use dni.ConvSynthesizer(channels={tensor.shape[1]}), or "
                "put the interface behind the flattening"
            )
        raise ValueError(
            f"{who}: expected a trigger of {width} features in its last dimension, got shape "
            f"{_shape(tensor)}. {hint}."
        )


def maps(tensor: Tensor, channels: int, who: str) -> None:
    if tensor.dim() != 4 or tensor.shape[1] != channels:
        hint = (
            f"Build it with channels={tensor.shape[1]}"
            if tensor.dim() == 4
            else "For plain features use dni.BasicSynthesizer"
        )
        raise ValueError(
            f"{who}: expected a trigger of shape (N, {channels}, H, W), got {_shape(tensor)}. "
            f"{hint}."
        )


def context_given(context: Any, width: int, who: str) -> None:
    if context is None:
        raise ValueError(
            f"{who}: built with a context of {width} numbers or classes, but there is none; "
            "expected the call inside `with dni.synthesizer_context(labels):`, got no context. "
            "(Under activation checkpointing open that block inside the checkpointed function: it "
            "runs again during the backward pass.)"
        )
    if not isinstance(context, Tensor):
        raise TypeError(
            f"{who}: expected a tensor as context, got {_kind(context)}. Any object may be a "
            "context, but a synthesizer that reads it must be written for it."
        )


def labels_allowed(context: Tensor, classes: int | None, width: int, who: str) -> None:
    if classes is None or context.is_complex():
        raise TypeError(
            f"{who}: expected a floating-point context of {width} numbers, got {context.dtype}. To "
            f"use integer labels as they are, build it with context_classes={width}."
        )


def labels_in_range(error: Exception, context: Tensor, classes: int, who: str) -> NoReturn:
    raise ValueError(
        f"{who}: expected labels from 0 to {classes - 1} (context_classes={classes}), got "
        f"{int(context.min())} to {int(context.max())}."
    ) from error


def context_shape(leading: torch.Size, width: int, got: Tensor, classes: bool, who: str) -> None:
    """A context has a vector, or a label, for each place of the trigger (or 1 for all)."""
    places = got.shape if classes else got.shape[:-1]
    fits = len(places) == len(leading) and all(
        have in (1, want) for have, want in zip(places, leading, strict=False)
    )
    if not fits or not (classes or got.shape[-1] == width):
        expected = tuple(leading) if classes else (*leading, width)
        raise ValueError(
            f"{who}: expected a context of shape {_size(expected)}, one for each place of the "
            f"trigger (sizes of 1 are broadcast), got {_shape(got)}."
        )


# -- words ---------------------------------------------------------------------------


def _is_integer_from(least: int, value: Any) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool) and int(value) >= least


def _number(name: str, value: Any, who: str) -> float:
    convert: Callable[[Any], float] = float
    try:
        if isinstance(value, (str, bytes)):
            raise TypeError
        return convert(value)
    except (TypeError, ValueError) as error:
        raise TypeError(f"{who}: expected {name} to be a number, got {_kind(value)}.") from error


def _output_dim_hint(output: Tensor, like: Tensor) -> str:
    same_but_width = output.dim() == like.dim() and output.shape[:-1] == like.shape[:-1]
    return f" Did you mean output_dim={like.shape[-1]}?" if same_but_width else ""


def _size(shape: Sequence[int]) -> str:
    return str(tuple(shape))


def _shape(tensor: Tensor) -> str:
    return _size(tensor.shape)


def _kind(value: Any) -> str:
    if value is None:
        return "None"
    name = type(value).__name__
    return f"{'an' if name[0] in 'aeiouAEIOU' else 'a'} {name}"
