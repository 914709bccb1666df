"""Values as bytes, for a Redis that others write to as well.

A header, the payload, and nothing that is run when it is read. The checksum covers the key too: a
value under another key than its own is as foreign as one of another program, so that a reply that
belongs to somebody else's question can never be taken for an answer.

Layout, little-endian: magic (4 bytes), schema (u16), dtype (u8), dimensions (u8), exponent (i16),
unused (u16), payload length (u64), CRC-32 (u32), each dimension (u32), payload. The CRC is of the
key in UTF-8, then of all else.
"""

from __future__ import annotations

import math
import struct
import zlib
from collections.abc import Mapping
from contextlib import suppress

import numpy as np
import torch
from torch import Tensor

from pairlens_server.cache.packing import EXPONENTS, Packed, Value

SCHEMA = 1
"""Changes whenever the layout does; what values mean is the keys' schema."""

_MAGIC = b"PLV\xa7"
_FIELDS = struct.Struct("<4sHBBhHQ")
_CRC = struct.Struct("<I")
_HEADER = _FIELDS.size + _CRC.size
_MAX_DIMENSIONS = 8
_MAX_ELEMENTS = 2**40

OVERHEAD = _HEADER + 4 * _MAX_DIMENSIONS
"""Most bytes that encoding adds."""

_FILE = 0
_DTYPES = {1: torch.float16, 2: torch.float32, 3: torch.int64}
_NUMPY = {1: "<f2", 2: "<f4", 3: "<i8"}
_CODES = {dtype: code for code, dtype in _DTYPES.items()}


class CorruptValueError(Exception):
    """These bytes are no value of this key."""


def encode(key: str, value: Value) -> bytes:
    """A value as bytes.

    Raises:
        ValueError: A tensor that is not finite or has over 8 dimensions, which would be refused
            when it is read.
    """
    if isinstance(value, bytes):
        return _framed(key, _FILE, (), 0, value)
    data = value.data
    if data.ndim > _MAX_DIMENSIONS or not _finite(data):
        raise ValueError(f"not storable: {data.dtype} {list(data.shape)}")
    code = _CODES[data.dtype]
    payload = data.numpy().astype(_NUMPY[code], copy=False).tobytes()
    return _framed(key, code, tuple(data.shape), value.exponent, payload)


def decode(key: str, data: bytes) -> Value:
    """A value from bytes, or an error, whatever the bytes; nothing is allocated on their word.

    Raises:
        CorruptValueError: They are truncated, too long, damaged, another program's, of another
            version or key, or hold what `encode` writes for nothing.
    """
    if len(data) < _HEADER:
        raise CorruptValueError("shorter than a header")
    magic, schema, code, dimensions, exponent, unused, length = _FIELDS.unpack_from(data)
    start = _HEADER + 4 * dimensions
    if magic != _MAGIC or schema != SCHEMA:
        raise CorruptValueError("no value of this version")
    if dimensions > _MAX_DIMENSIONS or len(data) - start != length or unused:
        raise CorruptValueError("truncated or too long")
    if _CRC.unpack_from(data, _FIELDS.size)[0] != _checksum(key, data):
        raise CorruptValueError("damaged, or of another key")
    payload = memoryview(data)[start:]
    if code == _FILE:
        if dimensions or exponent:
            raise CorruptValueError("a file with a shape")
        return bytes(payload)
    return _tensor(code, struct.unpack_from(f"<{dimensions}I", data, _HEADER), exponent, payload)


def _tensor(code: int, shape: tuple[int, ...], exponent: int, payload: memoryview) -> Packed:
    dtype = _DTYPES.get(code)
    if dtype is None:
        raise CorruptValueError("an unknown dtype")
    if exponent and (dtype is not torch.float16 or exponent not in EXPONENTS):
        raise CorruptValueError("an impossible exponent")
    # Beside a 0, the other dimensions could be anything, and overflow a stride.
    elements = math.prod(shape)
    if (
        elements * dtype.itemsize != len(payload)
        or math.prod(s or 1 for s in shape) > _MAX_ELEMENTS
    ):
        raise CorruptValueError("an impossible shape")
    if elements == 0:
        return Packed(torch.empty(shape, dtype=dtype), exponent)
    # A copy: tensors are writable, bytes are not, and the header would stay in memory.
    data = torch.from_numpy(np.frombuffer(bytearray(payload), dtype=_NUMPY[code])).reshape(shape)
    if not _finite(data):
        raise CorruptValueError("not finite")
    return Packed(data, exponent)


def _framed(key: str, code: int, shape: tuple[int, ...], exponent: int, payload: bytes) -> bytes:
    fields = _FIELDS.pack(_MAGIC, SCHEMA, code, len(shape), exponent, 0, len(payload))
    dimensions = struct.pack(f"<{len(shape)}I", *shape)
    checksum = zlib.crc32(
        payload, zlib.crc32(dimensions, zlib.crc32(fields, zlib.crc32(key.encode())))
    )
    return b"".join((fields, _CRC.pack(checksum), dimensions, payload))


def _checksum(key: str, data: bytes) -> int:
    view = memoryview(data)
    checksum = zlib.crc32(view[: _FIELDS.size], zlib.crc32(key.encode()))
    return zlib.crc32(view[_HEADER:], checksum)


def _finite(data: Tensor) -> bool:
    if data.dtype is torch.int64 or data.numel() == 0:
        return True
    # Takes a tenth of the time of `isfinite`; NaN comes through and compares false.
    lowest, highest = data.aminmax()
    return bool(lowest > -math.inf) and bool(highest < math.inf)


def decode_all(data: Mapping[str, bytes], limit: int) -> dict[str, Value]:
    """Those of some values that are sound, and no longer than `limit` bytes, by their keys."""
    values: dict[str, Value] = {}
    for key, encoded in data.items():
        if len(encoded) <= limit:
            with suppress(CorruptValueError):
                values[key] = decode(key, encoded)
    return values


def encode_all(values: Mapping[str, Value]) -> dict[str, bytes]:
    """Those of some values that have a form, by their keys."""
    encoded = {}
    for key, value in values.items():
        with suppress(ValueError):
            encoded[key] = encode(key, value)
    return encoded
