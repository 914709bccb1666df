"""Tensors of the contract as numpy arrays."""

from __future__ import annotations

import math

import numpy as np

from pairlens.errors import MalformedResponseError
from pairlens.rendering import FloatArray
from pairlens.v1 import common_pb2

_WIRE_FLOAT32 = np.dtype("<f4")


def to_float32(tensor: common_pb2.Tensor, dimensions: int, what: str) -> FloatArray:
    """Check a tensor and view it as an array.

    Args:
        tensor: Of dtype float32.
        dimensions: How many it must have.
        what: What the tensor is, for the message.

    Returns:
        A read-only array over the tensor's own bytes (a copy on big-endian machines).

    Raises:
        MalformedResponseError: Another dtype or number of dimensions, a side below 1,
            or not exactly the bytes that the shape asks for.
    """
    if tensor.dtype != common_pb2.DATA_TYPE_FLOAT32:
        raise MalformedResponseError(f"{what} has dtype {tensor.dtype} and not float32")
    shape = tuple(tensor.shape)
    if len(shape) != dimensions or any(side < 1 for side in shape):
        raise MalformedResponseError(f"{what} has shape {shape} and not {dimensions} sides")
    # Python's integers: a product that overflows int64 must not pass for a small one.
    expected = math.prod(shape) * _WIRE_FLOAT32.itemsize
    if len(tensor.data) != expected:
        raise MalformedResponseError(
            f"{what} of shape {shape} has {len(tensor.data)} bytes and not {expected}"
        )
    array = np.frombuffer(tensor.data, _WIRE_FLOAT32).reshape(shape).astype(np.float32, copy=False)
    array.setflags(write=False)
    return array
