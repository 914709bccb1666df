"""Tensors of the contract as numpy arrays, and back."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from pairlens.errors import MalformedResponseError
from pairlens.rendering import FloatArray
from pairlens.v1 import common_pb2

_FLOAT32 = np.dtype("<f4")
_WIRE: dict[str, tuple[common_pb2.DataType.ValueType, np.dtype[Any]]] = {
    "float32": (common_pb2.DATA_TYPE_FLOAT32, _FLOAT32),
    "float16": (common_pb2.DATA_TYPE_FLOAT16, np.dtype("<f2")),
    "uint8": (common_pb2.DATA_TYPE_UINT8, np.dtype("|u1")),
    "int64": (common_pb2.DATA_TYPE_INT64, np.dtype("<i8")),
    "bool": (common_pb2.DATA_TYPE_BOOL, np.dtype("|u1")),
}


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
    array: FloatArray = _view(tensor, "float32", dimensions, what).astype(np.float32, copy=False)
    array.setflags(write=False)
    return array


def to_int64(tensor: common_pb2.Tensor, dimensions: int, what: str) -> npt.NDArray[np.int64]:
    """The same for int64."""
    array = _view(tensor, "int64", dimensions, what).astype(np.int64, copy=False)
    array.setflags(write=False)
    return array


def to_bool(tensor: common_pb2.Tensor, dimensions: int, what: str) -> npt.NDArray[np.bool_]:
    """The same for bool; any byte but 0 and 1 is malformed, too."""
    levels = _view(tensor, "bool", dimensions, what)
    if levels.max() > 1:
        raise MalformedResponseError(f"{what} holds a byte {levels.max()} that is no bool")
    array = levels.astype(np.bool_)
    array.setflags(write=False)
    return array


def from_array(array: npt.NDArray[np.generic]) -> common_pb2.Tensor:
    """An array of one of the contract's dtypes as a tensor.

    Args:
        array: float32, float16, uint8, int64 or bool, in any byte order.
    """
    number, wire = _WIRE[array.dtype.name]
    return common_pb2.Tensor(
        dtype=number, shape=array.shape, data=np.ascontiguousarray(array, wire).tobytes()
    )


def _view(tensor: common_pb2.Tensor, name: str, dimensions: int, what: str) -> npt.NDArray[Any]:
    number, wire = _WIRE[name]
    if tensor.dtype != number:
        raise MalformedResponseError(f"{what} has dtype {tensor.dtype} and not {name}")
    shape = tuple(tensor.shape)
    if len(shape) != dimensions or any(side < 1 for side in shape):
        raise MalformedResponseError(f"{what} has shape {shape} and not {dimensions} sides")
    # Python's integers: a product that overflows int64 must not pass for a small one.
    expected = math.prod(shape) * wire.itemsize
    if len(tensor.data) != expected:
        raise MalformedResponseError(
            f"{what} of shape {shape} has {len(tensor.data)} bytes and not {expected}"
        )
    return np.frombuffer(tensor.data, wire).reshape(shape)
