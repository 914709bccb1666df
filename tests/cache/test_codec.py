import struct
import zlib

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pairlens_server.cache.codec import OVERHEAD, CorruptValueError, decode, encode
from pairlens_server.cache.packing import Packed, Precision, Value, pack

KEY = "2:a:ff:0"

VALUES: dict[str, Value] = {
    "half": pack(
        torch.randn(3, 60, 40, generator=torch.Generator().manual_seed(0)), Precision.HALF
    ),
    "float": Packed(torch.tensor([[1.5, -2.0], [3e38, 1e-44]])),
    "integers": Packed(torch.tensor([2**62, -1, 0])),
    "scalar": Packed(torch.tensor(3.25)),
    "nothing": Packed(torch.empty(0, 5)),
    "file": b"\xff\xd8 a file \x00",
    "empty file": b"",
}


def same(one: Value, other: Value) -> bool:
    if isinstance(one, bytes) or isinstance(other, bytes):
        return one == other
    return (
        one.data.dtype is other.data.dtype
        and one.data.shape == other.data.shape
        and one.exponent == other.exponent
        and torch.equal(one.data, other.data)
    )


@pytest.mark.parametrize("value", VALUES.values(), ids=VALUES)
def test_a_value_comes_back_bit_for_bit(value: Value):
    data = encode(KEY, value)
    found = decode(KEY, data)
    assert same(found, value)
    assert len(data) <= (len(value) if isinstance(value, bytes) else value.nbytes) + OVERHEAD
    if isinstance(found, Packed):
        found.data.add_(1)  # it is writable memory of its own
        assert same(decode(KEY, data), value)


def test_the_layout_is_the_documented_one():
    data = encode("k", Packed(torch.tensor([[1.0, 2.0]]), 0))
    head = struct.pack("<4sHBBhHQ", b"PLV\xa7", 1, 2, 2, 0, 0, 8)
    shape, payload = struct.pack("<2I", 1, 2), struct.pack("<2f", 1.0, 2.0)
    checksum = zlib.crc32(b"k" + head + shape + payload)
    assert data == head + struct.pack("<I", checksum) + shape + payload


def test_a_value_of_another_key_is_none_of_this():
    with pytest.raises(CorruptValueError, match="of another key"):
        decode("2:a:ff:1", encode(KEY, VALUES["float"]))


@pytest.mark.parametrize("value", VALUES.values(), ids=VALUES)
def test_no_truncated_or_longer_value_is_taken(value: Value):
    data = encode(KEY, value)
    for length in {*range(min(len(data), 64)), len(data) - 1, len(data) // 2} - {len(data)}:
        with pytest.raises(CorruptValueError):
            decode(KEY, data[:length])
    for more in (b"\0", b"\n", data):
        with pytest.raises(CorruptValueError):
            decode(KEY, data + more)


@pytest.mark.parametrize("name", ["float", "integers", "scalar", "nothing", "file"])
def test_no_flipped_bit_is_overlooked(name: str):
    data = encode(KEY, VALUES[name])
    for position in range(8 * len(data)):
        damaged = bytearray(data)
        damaged[position // 8] ^= 1 << position % 8
        with pytest.raises(CorruptValueError):
            decode(KEY, bytes(damaged))


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=200))
def test_foreign_bytes_are_corrupt_and_nothing_else(data: bytes):
    with pytest.raises(CorruptValueError):
        decode(KEY, data)


def framed(
    code: int,
    shape: tuple[int, ...],
    payload: bytes,
    *,
    magic: bytes = b"PLV\xa7",
    schema: int = 1,
    dimensions: int | None = None,
    exponent: int = 0,
    unused: int = 0,
    length: int | None = None,
) -> bytes:
    """Bytes with a right checksum, whatever they say."""
    count = len(shape) if dimensions is None else dimensions
    size = len(payload) if length is None else length
    head = struct.pack("<4sHBBhHQ", magic, schema, code, count, exponent, unused, size)
    rest = struct.pack(f"<{len(shape)}I", *shape) + payload
    return head + struct.pack("<I", zlib.crc32(rest, zlib.crc32(KEY.encode() + head))) + rest


HALVES = np.ones(4, "<f2").tobytes()

FORGED = {
    "another program": framed(1, (4,), HALVES, magic=b"PLVQ"),
    "another version": framed(1, (4,), HALVES, schema=2),
    "an unknown dtype": framed(9, (4,), HALVES),
    "too few values": framed(1, (5,), HALVES),
    "too many values": framed(1, (3,), HALVES),
    "far too many values": framed(1, (2**32 - 1, 2**32 - 1), HALVES),
    "a shape that wraps around": framed(3, (2**31, 2**31, 4), b""),
    "any shape beside a zero": framed(1, (0, *[2**32 - 1] * 7), b""),
    "too many dimensions": framed(1, (1,) * 8 + (4,), HALVES),
    "dimensions beyond the end": framed(1, (), b"", dimensions=8),
    "a length beyond the end": framed(1, (4,), HALVES, length=2**63),
    "a scaled float32": framed(2, (1,), struct.pack("<f", 1.0), exponent=1),
    "a scale beyond float32": framed(1, (4,), HALVES, exponent=113),
    "a scale under float32": framed(1, (4,), HALVES, exponent=-164),
    "something unused": framed(1, (4,), HALVES, unused=1),
    "infinity": framed(1, (2,), np.array([1.0, np.inf], "<f2").tobytes()),
    "minus infinity": framed(2, (2,), np.array([1.0, -np.inf], "<f4").tobytes()),
    "not a number": framed(2, (2,), np.array([np.nan, 1.0], "<f4").tobytes()),
    "half of a value": framed(1, (1,), b"\0"),
    "a file with a shape": framed(0, (4,), b"file"),
    "a file with a scale": framed(0, (), b"file", exponent=1),
}


@pytest.mark.parametrize("data", FORGED.values(), ids=FORGED)
def test_a_right_checksum_is_no_proof(data: bytes):
    with pytest.raises(CorruptValueError):
        decode(KEY, data)


@settings(max_examples=500, deadline=None)
@given(
    code=st.integers(0, 4),
    shape=st.lists(st.integers(0, 2**32 - 1) | st.integers(0, 4), max_size=9),
    payload=st.binary(max_size=64),
    dimensions=st.none() | st.integers(0, 255),
    exponent=st.integers(-200, 200) | st.just(0),
    length=st.none() | st.integers(0, 2**64 - 1),
)
def test_headers_that_say_anything_give_a_value_or_one_error(
    code, shape, payload, dimensions, exponent, length
):
    data = framed(
        code, tuple(shape), payload, dimensions=dimensions, exponent=exponent, length=length
    )
    try:
        value = decode(KEY, data)
    except CorruptValueError:
        return
    assert encode(KEY, value) == data
    if isinstance(value, Packed):
        assert bool(torch.isfinite(value.unpack()).all())


@pytest.mark.parametrize("bad", [float("inf"), float("-inf"), float("nan")])
def test_what_would_be_refused_is_not_written(bad: float):
    with pytest.raises(ValueError, match="not storable"):
        encode(KEY, Packed(torch.tensor([1.0, bad])))
    with pytest.raises(ValueError, match="not storable"):
        encode(KEY, Packed(torch.ones((1,) * 9)))
