"""The ready-made synthesizers and their contexts."""

from __future__ import annotations

import warnings
from typing import Any, NoReturn

import torch
from torch import Tensor, nn

from dni._checks.words import as_number, is_integer_from, kind, shape, size


def positive(who: str, **sizes: int | None) -> None:
    for name, value in sizes.items():
        if value is not None and not is_integer_from(1, value):
            raise ValueError(f"{who}: expected {name} to be a positive integer, got {value!r}.")


def hidden_count(value: Any, who: str) -> None:
    if not is_integer_from(0, value):
        raise ValueError(f"{who}: expected n_hidden, a number of layers from 0 on, got {value!r}.")


def at_least_one_hidden(value: Any, who: str) -> None:
    if not is_integer_from(1, value):
        raise ValueError(
            f"{who}: expected n_hidden to be an integer from 1, got {value!r}. Without a hidden "
            "layer the coarse view would have a weight for each pair of places; for a linear "
            "synthesizer use dni.ConvSynthesizer."
        )


def map_shape(value: Any, who: str) -> tuple[int, int, int]:
    sizes = tuple(value) if isinstance(value, (tuple, list)) else (value,)
    if len(sizes) != 3 or not all(is_integer_from(1, n) for n in sizes):
        raise ValueError(f"{who}: expected shape as (channels, height, width), got {value!r}.")
    return sizes


def layer_count(value: Any, who: str) -> None:
    if not is_integer_from(0, value):
        raise ValueError(f"{who}: expected num_layers to be a number from 0 on, got {value!r}.")


def activation(value: Any, who: str) -> None:
    if not callable(value) or isinstance(value, type):
        hint = f" Did you mean {value.__name__}()?" if isinstance(value, type) else ""
        raise TypeError(
            f"{who}: expected activation to be a function of one tensor, got {value!r}.{hint}"
        )


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
                "For maps (N, C, H, W) use what dni.synthesizer_for(maps) gives, or put the "
                "interface after the flattening"
            )
        raise ValueError(
            f"{who}: expected a trigger of {width} features in its last dimension, got shape "
            f"{shape(tensor)}. {hint}."
        )


def maps(tensor: Tensor, channels: int, who: str) -> None:
    if tensor.dim() != 4 or tensor.shape[1] != channels:
        hint = (
            f"Build it for {tensor.shape[1]} channels"
            if tensor.dim() == 4
            else "For plain features use what dni.synthesizer_for(features) gives"
        )
        raise ValueError(
            f"{who}: expected a trigger of shape (N, {channels}, H, W), got {shape(tensor)}. "
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
            f"{who}: expected a tensor as context, got {kind(context)}. Any object may be a "
            "context, but a synthesizer that reads it must be written for it."
        )


def context_ignored(who: str, remedy: str) -> None:
    warnings.warn(
        f"{who}: built without a context, so the one given is ignored; {remedy} to use it.",
        stacklevel=3,
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
    missing = len(leading) - len(places)  # sizes of 1 in front, as of an LSTM's state
    fits = (
        missing >= 0
        and all(size == 1 for size in leading[:missing])
        and all(have in (1, want) for have, want in zip(places, leading[missing:], strict=True))
    )
    if not fits or not (classes or got.shape[-1] == width):
        expected = tuple(leading) if classes else (*leading, width)
        labels = not classes and got.shape == leading
        raise ValueError(
            f"{who}: expected a context of shape {size(expected)}, one for each place of the "
            f"trigger (sizes of 1 are broadcast), got {shape(got)}."
            + " If these are class labels, make integers of them: .long()."
            * labels
        )


def rows_in(message: Tensor, over: tuple[int, ...], who: str) -> None:
    if over not in ((-2,), (0,)) and message.dim() != len(over) + 1:
        raise ValueError(
            f"{who}: rows lie in all dimensions but that of the features; expected a message of "
            f"{len(over) + 1} dimensions for over={over}, got shape {shape(message)}. Build it "
            "with another over."
        )


def known_layout(output: Any, who: str) -> None:
    if not isinstance(output, Tensor) or not output.is_floating_point():
        got = output.dtype if isinstance(output, Tensor) else kind(output)
        raise TypeError(f"{who}: expected a floating-point tensor to build for, got {got}.")
    if not 1 <= output.dim() <= 4:
        raise ValueError(
            f"{who}: expected an output of (features,), (batch, features), (batch, time, "
            f"features) or (batch, channels, height, width), got shape {shape(output)}. Pass a "
            "synthesizer of your own: any module with forward(trigger, context)."
        )


def class_count(value: Any, who: str) -> None:
    if not is_integer_from(1, value):
        raise ValueError(
            f"{who}: expected context_classes, the number of classes, as an integer from 1, got "
            f"{value!r}."
        )


def loss_scale(value: Any, who: str) -> float:
    number = as_number("scale", value, who)
    if not 0 < number < float("inf"):
        raise ValueError(
            f"{who}: scale is the network's loss in units of the mean cross-entropy; expected a "
            f"number above 0, or a function that returns one, got {value!r}."
        )
    return number


def local_head(head: Any, loss: Any, who: str) -> None:
    if not isinstance(head, nn.Module):
        raise TypeError(
            f"{who}: expected a torch.nn.Module over the trigger as head, got {kind(head)}."
        )
    if not callable(loss) or isinstance(loss, type):
        hint = f" Did you mean {loss.__name__}()?" if isinstance(loss, type) else ""
        raise TypeError(
            f"{who}: expected loss to be a function loss(head(trigger), context), got "
            f"{loss!r}.{hint}"
        )


def local_context(context: Any, who: str, cause: Exception) -> None:
    if context is None:
        raise ValueError(
            f"{who}: the local loss compares with a context, but there is none; expected the call "
            "inside `with dni.synthesizer_context(labels):`, got no context."
        ) from cause


def local_loss(loss: Any, who: str) -> None:
    if not isinstance(loss, Tensor) or loss.numel() != 1 or not loss.requires_grad:
        got = kind(loss) if not isinstance(loss, Tensor) else f"a tensor of shape {shape(loss)}"
        if isinstance(loss, Tensor) and not loss.requires_grad:
            got += " that does not require grad"
        raise ValueError(
            f"{who}: a local loss is one number with a graph; expected a scalar from "
            f"loss(head(trigger), context), got {got}. Reduce it, and detach nothing in it."
        )


def head_looks(message: Tensor | None, who: str) -> None:
    if message is None:
        raise ValueError(
            f"{who}: the message is the gradient of the local loss at the trigger; expected a head "
            "that looks at its trigger, got one whose loss does not depend on it."
        )
