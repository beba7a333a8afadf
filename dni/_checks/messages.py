"""Messages, triggers and what synthesizers answer."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

import torch
from torch import Tensor, nn

from dni._checks.words import kind, output_dim_hint, shape, size


def not_a_message(message: Any, who: str) -> NoReturn:
    empty = isinstance(message, (tuple, list, dict))
    got = f"an empty {type(message).__name__}" if empty else kind(message)
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
                f"expected one dtype and equal leading sizes {size(first.shape[:-1])}, got "
                f"{shape(first)} {first.dtype} beside {shape(leaf)} {leaf.dtype}. Use one "
                "interface for each group of tensors that fit."
            )


def trigger(leaves: Sequence[Tensor], who: str) -> None:
    for leaf in leaves:
        if not leaf.requires_grad:
            raise RuntimeError(
                f"{who}: a synthetic gradient is sent back from the trigger into the graph that "
                f"made it; expected a trigger that requires grad, got one of shape "
                f"{shape(leaf)} that does not. Is the part below frozen, detached or an input? "
                "Then there is nothing to decouple: leave the interface out, or call .eval() on it."
            )


def floating(leaves: Sequence[Tensor], who: str) -> None:
    for leaf in leaves:
        if not leaf.is_floating_point():
            raise TypeError(
                f"{who}: only floating-point tensors have gradients; expected one, got "
                f"{leaf.dtype} of shape {shape(leaf)}."
            )


def is_tensor(output: Any, synthesizer: nn.Module, who: str) -> None:
    if not isinstance(output, Tensor):
        raise TypeError(
            f"{who}: a synthesizer returns one tensor, the synthetic message; got {kind(output)} "
            f"from {type(synthesizer).__name__}. Does its forward(trigger, context) end in "
            "`return message`?"
        )


def misplaced(synthesizer: nn.Module, trigger: Tensor, who: str, cause: Exception) -> None:
    """Explain an error inside a synthesizer that was built for other tensors."""
    fits_anything = torch.is_autocast_enabled(trigger.device.type)
    if type(cause) is not RuntimeError or fits_anything or not trigger.is_floating_point():
        return
    for parameter in synthesizer.parameters():
        for what, have, want in (
            ("device", parameter.device, trigger.device),
            ("dtype", parameter.dtype, trigger.dtype),
        ):
            if have != want:
                argument = repr(str(want)) if what == "device" else str(want)
                raise TypeError(
                    f"{who}: a synthesizer's parameters and its trigger must fit; expected {what} "
                    f"{want}, got {have}. Convert the synthesizer: interface.to({argument}). "
                    "(If the trigger was made under autocast, call this under it too.)"
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
            f"{who}: the synthesizer returned {shape(output)} for a message of {shape(like)}; "
            f"both must agree.{output_dim_hint(output, like)}"
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
            f"{shape(message)}, but {what}. The synthesizer has not learnt from it. Look for the "
            "cause above this cut, or pass nonfinite='skip' to pass over such messages (with a "
            "GradScaler, overflows are normal)."
        )


def scale_is_another(times: float, who: str) -> None:
    warnings.warn(
        f"{who}: its synthesizer has a scale of its own (own_scale); expected messages of that "
        f"scale, but for a hundred of them the real ones were some {times:.0f} times as large as "
        "the synthetic ones. Is the loss a sum, or multiplied by a GradScaler? Tell the "
        "synthesizer: scale= of dni.LossSynthesizer, the loss of dni.LocalLossSynthesizer. If it "
        "is not, the synthesizer is slow: give it a larger rate.",
        stacklevel=2,
    )


def no_transform(who: str, cause: Exception) -> None:
    """Explain that a running scale cannot change in a function without side effects."""
    if "transform" in str(cause) or "vmap" in str(cause):
        raise RuntimeError(
            f"{who}: a running scale changes with each message, which a transform of torch.func "
            "does not allow; expected normalize=False in torch.func.grad and vmap."
        ) from cause


def fits_checkpoint(module: nn.Module, state: Mapping[str, Any], prefix: str, *_: Any) -> None:
    """A hook before ``load_state_dict``: all that is loaded fits, or nothing is loaded."""
    for name, mine in module.state_dict(prefix=prefix).items():
        saved = state.get(name)
        if isinstance(saved, Tensor) and isinstance(mine, Tensor) and saved.shape != mine.shape:
            raise ValueError(
                f"{type(module).__name__}: a checkpoint has the size of the model; expected "
                f"{shape(mine)} for {name}, got {shape(saved)}. Nothing was loaded into it: build "
                "it with the sizes that the checkpoint was saved with."
            )
