"""What is sent to another process, and what comes from one."""

from __future__ import annotations

import json
from collections.abc import Container
from typing import Any

import torch
from torch import Tensor

from dni._checks.words import kind as kind_of


class WireError(RuntimeError):
    """What came over the wire is not what a peer of this model and version sends."""


WHO = "dni.distributed"


def sendable_header(kind: Any, step: Any, model: Any) -> None:
    if not (isinstance(kind, int) and 0 <= kind < 256):
        raise ValueError(f"{WHO}: expected kind to be a number from 0 to 255, got {kind!r}.")
    if not (isinstance(step, int) and -(2**63) <= step < 2**63):
        raise ValueError(f"{WHO}: expected step to be a number of 64 bits, got {step!r}.")
    if not (isinstance(model, bytes) and len(model) == 16):
        raise ValueError(f"{WHO}: expected model to be 16 bytes, got {model!r}.")


def sendable_tensor(tensor: Tensor, dtypes: Container[str]) -> None:
    if str(tensor.dtype).removeprefix("torch.") not in dtypes or tensor.layout != torch.strided:
        raise TypeError(
            f"{WHO}: expected a dense tensor of numbers, got {tensor.dtype}, {tensor.layout}; "
            "send .to_dense() or another dtype."
        )


def sendable_keys(content: dict[Any, Any]) -> None:
    for key in content:
        if not isinstance(key, str):
            raise TypeError(f"{WHO}: expected strings as keys of a dict, got {key!r}.")


def sendable_value(value: Any) -> None:
    if not (value is None or type(value) in (bool, int, float, str)):
        raise TypeError(
            f"{WHO}: nothing is pickled; expected tensors, numbers, strings, None, or tuples, "
            f"lists and dicts of them, got {kind_of(value)}."
        )


def not_too_deep(depth: int) -> None:
    if depth < 0:
        raise WireError(f"{WHO}: containers are nested too deeply; expected a flatter content.")


def within_limits(body: int, words: int, limit: int, most_words: int) -> None:
    if body > limit or words > min(body, most_words):
        raise WireError(
            f"{WHO}: expected a message of at most {limit} bytes, {most_words} of them JSON; got "
            f"{body} and {words}. Send smaller batches."
        )


def header_size(got: int, expected: int) -> None:
    if got != expected:
        raise WireError(f"{WHO}: expected a header of {expected} bytes, got {got}.")


def header_is_ours(magic: bytes, ours: bytes, version: int, our_version: int) -> None:
    if magic != ours:
        raise WireError(f"{WHO}: expected a header that starts with {ours!r}, got {magic!r}.")
    if version != our_version:
        raise WireError(
            f"{WHO}: expected version {our_version} of the wire, got {version}. Install the same "
            "dni for all stages."
        )


def same_model(got: bytes, expected: bytes | None) -> None:
    if expected is not None and got != expected:
        raise WireError(
            f"{WHO}: expected a message of the model {expected.hex()}, got one of {got.hex()}. "
            "Start all stages from the same model."
        )


def body_size(got: int, expected: int) -> None:
    if got != expected:
        raise WireError(f"{WHO}: expected a body of {expected} bytes, got {got}: half a message.")


def words_arrived(got: int, expected: int) -> None:
    if got != expected:
        raise WireError(
            f"{WHO}: expected JSON with the checksum {expected:08x}, got {got:08x}: damaged."
        )


def parsed(words: bytes) -> Any:
    try:
        return json.loads(words)
    except (ValueError, RecursionError) as error:
        raise WireError(f"{WHO}: expected JSON, got {words[:40]!r}.") from error


def is_shape(shape: list[Any]) -> bool:
    return len(shape) <= 64 and all(
        isinstance(n, int) and not isinstance(n, bool) and 0 <= n < 2**48 for n in shape
    )


def unknown_structure(node: Any) -> WireError:
    return WireError(
        f"{WHO}: expected the description of a tensor, a value or a container, got "
        f"{str(node)[:80]!r}."
    )


def bytes_left(needed: int, left: int) -> None:
    if needed > left:
        raise WireError(f"{WHO}: expected {needed} more bytes for a tensor, got {max(left, 0)}.")


def all_read(place: int, size: int) -> None:
    if place != size:
        raise WireError(f"{WHO}: expected a body of {place} bytes, got {size}.")
