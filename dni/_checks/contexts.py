"""Contexts and deferred gradients."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from dni._checks.words import kind, shape


def not_deferring(deferring: bool) -> None:
    if deferring:
        raise RuntimeError(
            "dni.defer_backward: blocks do not nest; expected no open block in this thread, "
            "got a second one. Gradients are already collected: leave the inner block out."
        )


def backward_arguments(tensor: Any, gradient: Any) -> None:
    who = "dni.backward"
    if not isinstance(tensor, Tensor):
        raise TypeError(f"{who}: expected a tensor to backpropagate from, got {kind(tensor)}.")
    if not tensor.requires_grad:
        raise RuntimeError(
            f"{who}: a gradient needs a graph to flow through; expected a tensor that requires "
            f"grad, got one of shape {shape(tensor)} that does not. Was it detached, or made "
            "under torch.no_grad()?"
        )
    if gradient is None:
        if tensor.numel() != 1:
            raise RuntimeError(
                f"{who}: without a gradient, expected a scalar loss, got a tensor of shape "
                f"{shape(tensor)}. Pass dni.backward(tensor, gradient), or reduce the loss."
            )
    elif not isinstance(gradient, Tensor):
        raise TypeError(f"{who}: expected a tensor as gradient, got {kind(gradient)}.")
    elif gradient.shape != tensor.shape:
        raise ValueError(
            f"{who}: a gradient has the shape of its tensor; expected {shape(tensor)}, got "
            f"{shape(gradient)}."
        )
