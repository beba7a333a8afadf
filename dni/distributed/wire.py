r"""What goes from one process to another: a header of a fixed size, and bytes.

PyTorch's own way to send an object is a pickle, and whoever unpickles runs what the sender
wrote. So nothing is pickled here: tensors travel as their bytes, the structure around them as
JSON, and both ends agree beforehand on 48 bytes that say how much follows::

    header  magic 4 | version 2 | kind 1 | 0 1 | step 8 | model 16 | body 8 | JSON 4 | CRC 4
    body    JSON | padding | tensor | padding | tensor ...

A receiver trusts nothing: every length is checked against a limit before memory is allocated,
every size against the bytes that are there. What does not fit raises a :class:`.WireError`, which
says what was expected and what came.
"""

from __future__ import annotations

import json
import struct
import zlib
from collections import OrderedDict
from typing import Any, NamedTuple

import torch
from torch import Tensor

from dni import _checks
from dni._checks.wire import WireError

__all__ = ["Frame", "Header", "WireError", "pack", "unpack", "unpack_header"]

MAGIC, VERSION = b"DNI\n", 1
LAYOUT = struct.Struct("<4sHBBq16sQII")
ALIGNED = 16  # bytes: to view bytes as numbers, they must be aligned
LIMIT = 1 << 32  # of a body; 4 GiB
WORDS = 1 << 20  # of its JSON; 1 MiB
DEPTH = 32  # of nested containers
DTYPES = {
    str(dtype).removeprefix("torch."): dtype
    for dtype in (
        torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.int32,
        torch.int16, torch.int8, torch.uint8, torch.bool, torch.complex64, torch.complex128,
    )
}  # fmt: skip


class Header(NamedTuple):
    """What a header says of the message that follows."""

    kind: int
    """What the message is for; a number from 0 to 255."""
    step: int
    """The training step that it belongs to."""
    model: bytes
    """16 bytes that both ends derive from the model; peers of another model are refused."""
    body: int
    """Bytes to come."""
    words: int
    """Those of them that are JSON."""
    check: int
    """CRC-32 of the JSON."""


class Frame(NamedTuple):
    """A message on the wire: two tensors of bytes, the first always of the same size."""

    header: Tensor
    body: Tensor


def pack(kind: int, step: int, content: Any, model: bytes = bytes(16)) -> Frame:
    """Pack ``content`` into bytes.

    Args:
        kind, step, model: see :class:`Header`.
        content: a tensor, ``None``, a number, a string, or tuples, lists and dicts (with strings
            for keys) of them. Tensors travel from the CPU, dense and without their graph.

    Example:
        >>> frame = dni.distributed.pack(kind=1, step=7, content={"h": torch.ones(2, 3)})
        >>> dni.distributed.unpack_header(frame.header).step
        7
        >>> dni.distributed.unpack(frame.header, frame.body)["h"].shape
        torch.Size([2, 3])
    """
    _checks.sendable_header(kind, step, model)
    tensors: list[Tensor] = []
    words = json.dumps(_described(content, tensors, DEPTH), separators=(",", ":")).encode()
    pieces = [torch.frombuffer(bytearray(_padded(words)), dtype=torch.uint8)]
    for tensor in tensors:
        raw = tensor.reshape(-1).view(torch.uint8)
        pieces += [raw, raw.new_zeros(-len(raw) % ALIGNED)]
    body = torch.cat(pieces)
    _checks.within_limits(len(body), len(words), LIMIT, WORDS)
    sizes = (len(body), len(words), zlib.crc32(words))
    header = LAYOUT.pack(MAGIC, VERSION, kind, 0, step, model, *sizes)
    return Frame(torch.frombuffer(bytearray(header), dtype=torch.uint8), body)


def unpack_header(header: Tensor, model: bytes | None = None) -> Header:
    """What a header says, after all checks; with ``model``, it must be of that model."""
    raw = bytes(header.tolist())
    _checks.header_size(len(raw), LAYOUT.size)
    magic, version, kind, _, step, whose, body, words, check = LAYOUT.unpack(raw)
    _checks.header_is_ours(magic, MAGIC, version, VERSION)
    _checks.within_limits(body, words, LIMIT, WORDS)
    _checks.same_model(whose, model)
    return Header(kind, step, whose, body, words, check)


def unpack(header: Tensor, body: Tensor, model: bytes | None = None) -> Any:
    """The content of a frame. Its tensors share memory with ``body``."""
    said = unpack_header(header, model)
    _checks.body_size(len(body), said.body)
    words = bytes(body[: said.words].tolist())
    _checks.words_arrived(zlib.crc32(words), said.check)
    reader = _Reader(body, said.words + -said.words % ALIGNED)
    content = reader.read(_checks.parsed(words), DEPTH)
    _checks.all_read(reader.place, len(body))
    return content


def _padded(raw: bytes) -> bytes:
    return raw + bytes(-len(raw) % ALIGNED)


def _described(content: Any, tensors: list[Tensor], depth: int) -> Any:
    """The structure of ``content`` for JSON; its tensors are added to ``tensors``."""
    _checks.not_too_deep(depth)
    if isinstance(content, Tensor):
        _checks.sendable_tensor(content, DTYPES)
        tensors.append(content.detach().cpu().resolve_conj().resolve_neg().contiguous())
        return ["tensor", str(content.dtype).removeprefix("torch."), list(content.shape)]
    if type(content) in (tuple, list):
        items = [_described(item, tensors, depth - 1) for item in content]
        return ["tuple" if isinstance(content, tuple) else "list", items]
    if type(content) in (dict, OrderedDict):
        _checks.sendable_keys(content)
        return ["dict", {k: _described(item, tensors, depth - 1) for k, item in content.items()}]
    _checks.sendable_value(content)
    return ["value", content]


class _Reader:
    """Reads tensors from ``body``, in the order in which they were written."""

    def __init__(self, body: Tensor, place: int) -> None:
        self.body = body
        self.place = place

    def read(self, node: Any, depth: int) -> Any:
        """What ``node`` describes."""
        _checks.not_too_deep(depth)
        match node:
            case ["tensor", str(dtype), list(shape)] if dtype in DTYPES and _checks.is_shape(shape):
                return self.tensor(DTYPES[dtype], shape)
            case ["tuple", list(items)]:
                return tuple(self.read(item, depth - 1) for item in items)
            case ["list", list(items)]:
                return [self.read(item, depth - 1) for item in items]
            case ["dict", dict(items)]:
                return {key: self.read(item, depth - 1) for key, item in items.items()}
            case ["value", (None | bool() | int() | float() | str()) as value]:
                return value
        raise _checks.unknown_structure(node)

    def tensor(self, dtype: torch.dtype, shape: list[int]) -> Tensor:
        """The next tensor."""
        size = dtype.itemsize
        for length in shape:
            size *= length
        _checks.bytes_left(size, len(self.body) - self.place)
        raw = self.body[self.place : self.place + size]
        self.place += size + -size % ALIGNED
        return raw.view(dtype).view(shape)
