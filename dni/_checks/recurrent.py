"""Recurrent networks: windows, and existing loops."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NoReturn

import torch
from torch import Tensor

from dni._checks.words import alike, is_integer_from, kind, shape, structure


def sequences(tensors: Sequence[Any], time: int, who: str) -> None:
    if not tensors:
        raise ValueError(f"{who}: expected at least one sequence to cut into windows, got none.")
    for tensor in tensors:
        if not isinstance(tensor, Tensor) or tensor.dim() <= time:
            got = shape(tensor) if isinstance(tensor, Tensor) else kind(tensor)
            layout = "(batch, time, ...)" if time else "(time, batch, ...)"
            raise TypeError(f"{who}: expected a tensor of shape {layout} as sequence, got {got}.")
    steps = [tensor.shape[time] for tensor in tensors]
    if len(set(steps)) > 1 or not steps[0]:
        raise ValueError(
            f"{who}: all sequences are cut at the same steps; expected equal lengths of at least 1 "
            f"in dimension {time}, got {', '.join(map(str, steps))}. Is batch_first right?"
        )


def window_size(size: Any, who: str) -> None:
    if not is_integer_from(1, size):
        raise ValueError(f"{who}: a window has at least one step; expected size>=1, got {size!r}.")


def helpers(interface: Any, its: type, auxiliary: Any, task: type, who: str) -> None:
    """Check the interface and the auxiliary task."""
    for name, value, wanted in (("interface", interface, its), ("auxiliary", auxiliary, task)):
        if value is not None and not isinstance(value, wanted):
            raise TypeError(
                f"{who}: expected a dni.{wanted.__name__} as {name}, got {kind(value)}. Wrap a "
                f"synthesizer: dni.{wanted.__name__}(synthesizer)."
            )
    if auxiliary is not None and interface is None:
        raise ValueError(
            f"{who}: the auxiliary task foresees synthetic gradients; expected an interface that "
            "makes them beside it, got none. Pass interface=dni.BackwardInterface(synthesizer)."
        )


def lengths(given: Any, sequence: Tensor, time: int, who: str) -> int:
    """Check ``lengths``; return the longest."""
    steps, rows = sequence.shape[time], sequence.shape[1 - time] if sequence.dim() > 1 else 0
    counts = isinstance(given, Tensor) and given.dtype in (torch.int32, torch.int64)
    fits = counts and given.shape == (rows,)
    if not fits or not bool(((given >= 1) & (given <= steps)).all()):
        got = f"{given.dtype} {given.tolist()}" if isinstance(given, Tensor) else kind(given)
        raise ValueError(
            f"{who}: lengths says how many steps each row has; expected {rows} integers from 1 to "
            f"{steps}, got {got}."
        )
    return int(given.max())


def layout(leaves: Sequence[Tensor], part: Tensor, time: int, who: str) -> None:
    """Warn if a state's batch is not in the last dimension but one, as in PyTorch's states."""
    if part.dim() < 2:
        return
    steps, batch = part.shape[time], part.shape[1 - time]
    if steps != batch and all(leaf.dim() > 1 and leaf.shape[-2] == steps for leaf in leaves):
        layout = "(batch, time, ...)" if time else "(time, batch, ...)"
        warnings.warn(
            f"{who}: expected a state of {batch} rows, the batch of sequences that are {layout}; "
            f"got one of {steps}, the length of the window. Is batch_first={not time} meant?",
            stacklevel=5,
        )


def batch_of_state(leaves: Sequence[Tensor], rows: int, who: str) -> None:
    for leaf in leaves:
        if leaf.dim() < 2 or leaf.shape[-2] != rows:
            raise ValueError(
                f"{who}: with lengths, the rows of a state are told apart in its last dimension "
                f"but one; expected {rows} there, got a state of shape {shape(leaf)}. Transpose "
                "it, or leave lengths out and mask the loss alone."
            )


def loop_is_new(new: bool, who: str) -> None:
    if not new:
        raise RuntimeError(
            f"{who}: a loop runs through its sequence once; expected a new one, got one that has "
            "reached the end. Call dni.windows(...) again for the next pass."
        )


def window_finished(finished: bool, who: str) -> None:
    if not finished:
        raise RuntimeError(
            f"{who}: a window hands its state on when it is backpropagated; expected "
            "window.backward(loss, state) before the next window, got none. Where a window has no "
            "loss, call window.backward(None, state). (After an error start a new loop.)"
        )


def window_open(is_open: bool, who: str) -> None:
    if not is_open:
        raise RuntimeError(
            f"{who}: expected one window.backward(loss, state) for each window, while it is the "
            "current one; got a second one, or one for a window that is over."
        )


def same_structure(before: Any, after: Any, who: str) -> None:
    if not alike(before, after):
        raise ValueError(
            f"{who}: the state after a window has the structure of the state before it; expected "
            f"{structure(before)}, got {structure(after)}. Hand over what the core returned; where "
            "a new sequence starts or the batch changes, start a new loop with a new state."
        )


def state_has_graph(leaves: Sequence[Tensor], who: str) -> None:
    for leaf in leaves:
        if not leaf.requires_grad:
            raise RuntimeError(
                f"{who}: a synthetic gradient goes from the last state back into the window that "
                f"made it; expected the state as the core returned it, got one of shape "
                f"{shape(leaf)} that requires no grad. Was it detached, or made under no_grad? "
                "Leave the detaching to the loop."
            )


def lstm_state(hidden: Any, is_lstm: bool, who: str) -> None:
    pair = isinstance(hidden, (tuple, list)) and len(hidden) == 2
    if is_lstm and not pair:
        raise TypeError(
            f"{who}: built with is_lstm=True; expected the pair (h, c), got {structure(hidden)}. "
            "Pass the whole state of the LSTM, or build it with is_lstm=False."
        )


def state_to_cut(leaves: Sequence[Tensor], before: Sequence[Tensor] | None, who: str) -> None:
    for leaf in leaves:
        if not leaf.requires_grad or leaf.grad_fn is None:
            raise RuntimeError(
                f"{who}: backward_synthetic sends a gradient into the window that made the state; "
                f"expected the state as the network returned it, got one of shape {shape(leaf)} "
                "without a graph. Remove the line that detaches it: what backward_synthetic "
                "returns is detached already. (Or was the window run under no_grad?)"
            )
    if before is not None and structure(list(leaves)) != structure(list(before)):
        raise ValueError(
            f"{who}: within a sequence all states have the same sizes; expected "
            f"{structure(list(before))}, got {structure(list(leaves))}. Call step() where a "
            "sequence ends; the next may have another batch size."
        )


@contextmanager
def misplaced_line(who: str) -> Iterator[None]:
    """Say which line of a training loop to move."""
    try:
        yield
    except RuntimeError as error:
        if "a second time" in str(error):
            raise RuntimeError(
                f"{who}: backward_synthetic goes through the graph of the window, which is gone; "
                "expected loss.backward(retain_graph=True) before it, got a loss.backward() that "
                "freed the graph. Add retain_graph=True there, or move the line "
                "`hidden = synth.backward_synthetic(hidden)` above it. (The window must start from "
                "the state that the last backward_synthetic returned.)"
            ) from error
        if "modified by an inplace operation" in str(error):
            raise RuntimeError(
                f"{who}: backward_synthetic needs the weights that the window was run with; "
                "expected it before optimizer.step(), got it afterwards. Move the line "
                "`hidden = synth.backward_synthetic(hidden)` above optimizer.step()."
            ) from error
        raise


def classes(who: str, **given: Any) -> None:
    for name, value in given.items():
        if not isinstance(value, type):
            example = {"activation": "torch.nn.GELU", "optimizer": "torch.optim.AdamW"}[name]
            raise TypeError(
                f"{who}: expected {name} to be a class, such as {example}, got {value!r}."
            )


def same_optimizer(mine: dict[str, Any], saved: dict[str, Any], who: str) -> None:
    """Check the optimiser's state before anything is loaded."""
    (own,), (other,) = mine["param_groups"], saved["param_groups"]
    if own.keys() != other.keys() or len(own["params"]) != len(other["params"]):
        raise ValueError(
            f"{who}: a checkpoint holds the state of its optimiser; expected one of "
            f"{len(own['params'])} parameters with the settings {sorted(own)}, got "
            f"{len(other['params'])} with {sorted(other)}. Build it with the optimizer, "
            "hidden_layers and aux that the checkpoint was saved with."
        )


def late_gradient(who: str) -> NoReturn:
    raise RuntimeError(
        f"{who}: step() has learnt the gradient of a state already; expected no other one at it, "
        "got a backward pass that reaches it now. Move synth.step() below loss.backward()."
    )


def idle_steps(count: int, who: str) -> None:
    if count == 20:
        warnings.warn(
            f"{who}: in the last {count} steps no gradient has reached any state that "
            "backward_synthetic returned, so it has learnt nothing but zeros. Does the loop detach "
            "the state afterwards, or start from another one? (Sequences of one window have no "
            "future to learn: then leave the synthesizer out.)",
            stacklevel=3,
        )


def stepped_after_a_window(ready: bool, who: str) -> None:
    if not ready:
        raise RuntimeError(
            f"{who}: step() learns from windows; expected a backward_synthetic(hidden) since the "
            "last step(), got none. Move step() to the end of the sequence, after the loop over "
            "its windows."
        )


def state_was_used(reached: bool, who: str) -> None:
    if not reached:
        raise RuntimeError(
            f"{who}: a state learns its gradient from the window after it; expected one at each "
            "state that backward_synthetic returned, got a state that no gradient has reached. "
            "Start the next window from what backward_synthetic returns, do not detach it, and "
            "call loss.backward() in every window before step()."
        )


def finite_gradients(gradients: Sequence[Tensor], who: str) -> None:
    for gradient in gradients:
        if not bool(torch.isfinite(gradient).all()):
            raise FloatingPointError(
                f"{who}: a real gradient must be finite; expected numbers at every state, got NaN "
                "or Inf. Nothing was learnt from these windows. Look for the cause in the loss; "
                "skip step() and start a new sequence to go on."
            )
