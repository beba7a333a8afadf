"""What is sent arrives; what is not ours is refused, whatever it is."""

from __future__ import annotations

import random
import zlib

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dni.distributed import Frame, WireError, pack, unpack, unpack_header
from dni.distributed.wire import ALIGNED, DTYPES, LAYOUT, MAGIC, VERSION

MODEL = bytes(range(16))


def same(one, other):
    if isinstance(one, torch.Tensor):
        assert one.dtype == other.dtype
        assert torch.equal(one, other)
        return
    assert type(one) is type(other)
    if isinstance(one, (tuple, list)):
        assert len(one) == len(other)
        for a, b in zip(one, other, strict=True):
            same(a, b)
    elif isinstance(one, dict):
        assert list(one) == list(other)
        for key in one:
            same(one[key], other[key])
    else:
        assert one == other


tensors = st.builds(
    lambda dtype, shape: (torch.randn(shape) * 5).to(dtype),
    st.sampled_from(list(DTYPES.values())),
    st.lists(st.integers(0, 3), max_size=4),
)
values = st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats(allow_nan=False)
contents = st.recursive(
    tensors | values | st.text(),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.lists(inner, max_size=3).map(tuple)
        | st.dictionaries(st.text(), inner, max_size=3)
    ),
    max_leaves=6,
)


@settings(deadline=None)
@given(contents, st.integers(0, 255), st.integers(-5, 2**40))
def test_what_is_packed_is_unpacked(content, kind, step):
    frame = pack(kind, step, content, MODEL)
    said = unpack_header(frame.header, MODEL)
    assert (said.kind, said.step, said.model) == (kind, step, MODEL)
    assert said.body == len(frame.body)
    same(unpack(frame.header, frame.body, MODEL), content)


def test_history_strides_and_negative_zero():
    h = torch.randn(4, 6, requires_grad=True).t()[::2] * 1
    frame = pack(0, 0, (h, torch.tensor(-0.0), torch.tensor(float("nan"))))
    got, zero, nan = unpack(*frame)
    assert torch.equal(got, h.detach())
    assert not got.requires_grad
    assert torch.copysign(torch.ones(()), zero) == -1
    assert nan.isnan()


@settings(deadline=None, max_examples=300)
@given(st.randoms(use_true_random=False))
def test_a_damaged_frame_is_refused_or_read_in_the_shape_it_says(generator: random.Random):
    frame = pack(1, 2, {"h": torch.randn(3, 4), "y": [torch.arange(3), None]}, MODEL)
    header, body = (part.clone() for part in frame)
    for _ in range(generator.randint(1, 4)):
        part = generator.choice((header, body))
        part[generator.randrange(len(part))] = generator.randrange(256)
    cut = generator.choice((0, 0, 0, 1, 16))
    try:
        content = unpack(header, body[: len(body) - cut], MODEL)
    except WireError:
        return
    assert content["h"].shape == (3, 4)  # what has no checksum are the numbers themselves
    assert content["y"][0].shape == (3,)


@settings(deadline=None)
@given(st.binary(max_size=80), st.binary(max_size=80))
def test_garbage_is_refused(header, body):
    as_tensor = [torch.tensor(list(raw), dtype=torch.uint8) for raw in (header, body)]
    with pytest.raises(WireError):
        unpack(*as_tensor)


def forged(words: bytes, tail: int = 0) -> Frame:
    """A frame with a right header around any JSON."""
    body = torch.tensor(list(words) + [0] * (-len(words) % ALIGNED + tail), dtype=torch.uint8)
    sizes = (len(body), len(words), zlib.crc32(words))
    header = LAYOUT.pack(MAGIC, VERSION, 0, 0, 0, MODEL, *sizes)
    return Frame(torch.tensor(list(header), dtype=torch.uint8), body)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (b'["tensor","float32",[4]]', "expected 16 more bytes for a tensor, got 0"),
        (b'["tensor","float32",[999999,999999,999999]]', "more bytes for a tensor"),
        (b'["tensor","float32",[-1]]', "expected the description of a tensor"),
        (b'["tensor","float32",[true]]', "expected the description of a tensor"),
        (b'["tensor","object",[1]]', "expected the description of a tensor"),
        (b'["value",[1]]', "expected the description of a tensor"),
        (b'{"__reduce__":1}', "expected the description of a tensor"),
        (b"[" * 60 + b"]" * 60, "expected the description of a tensor"),
        (b'["list",[' * 40 + b"]]" * 40, "nested too deeply"),
        (b"[" * 100000, "expected JSON"),
        (b"nonsense", "expected JSON, got b'nonsense'"),
    ],
)
def test_forged_structures_are_refused(words, message):
    with pytest.raises(WireError, match=message):
        unpack(*forged(words), MODEL)


def test_peers_of_another_kind_are_refused():
    header, body = pack(1, 2, torch.ones(3), MODEL)
    with pytest.raises(WireError, match=f"the model {bytes(16).hex()}, got one of {MODEL.hex()}"):
        unpack_header(header, bytes(16))
    with pytest.raises(WireError, match="expected a body of .*: half a message"):
        unpack(header, body[:-1])
    other = header.clone()
    other[4] = 9
    with pytest.raises(WireError, match="version 1 of the wire, got 9. Install the same dni"):
        unpack_header(other)
    other = header.clone()
    other[0] = 80
    with pytest.raises(WireError, match="starts with b'DNI.*', got b'PNI"):
        unpack_header(other)
    huge = header.clone()
    huge[32:40] = 255
    with pytest.raises(WireError, match="at most 4294967296 bytes"):
        unpack_header(huge)
    with pytest.raises(WireError, match="a body of 48 bytes, got 64"):
        unpack(*forged(b'["tensor","float32",[4]]', tail=32), MODEL)


class Thing:
    """Anything that only a pickle could carry."""


@pytest.mark.parametrize(
    ("content", "error", "message"),
    [
        (Thing(), TypeError, "nothing is pickled; .* got a Thing"),
        ({1: torch.ones(1)}, TypeError, "strings as keys of a dict, got 1"),
        (torch.eye(2).to_sparse(), TypeError, "dense tensor .*to_dense"),
    ],
)
def test_what_cannot_be_sent(content, error, message):
    with pytest.raises(error, match=message):
        pack(0, 0, content)


@pytest.mark.parametrize(
    ("kind", "step", "model"), [(256, 0, MODEL), (0, 2**63, MODEL), (0, 0, b"")]
)
def test_headers_that_do_not_fit(kind, step, model):
    with pytest.raises(ValueError, match="dni.distributed: expected (kind|step|model) to be"):
        pack(kind, step, None, model)
