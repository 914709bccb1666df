"""Activations as they are kept: in half precision, scaled so that nothing is lost to range.

float16 has 11 bits of significand but a range of 2^-24 to 2^16 only, and activations of some
networks leave it at either end. A power of two for the whole tensor costs nothing and rounds
nothing, so each tensor is moved to where its largest value is just under 2^15.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import Enum

import torch
from torch import Tensor

SMALL = 4096
"""Tensors of no more values stay float32: embeddings, scores and biases, which cost nothing."""

_TOP = 15  # scaled values stay under 2^15, which no rounding brings to float16's infinity
_FLOAT32_EXPONENT = 126  # powers of two from -126 to 126 are normal numbers of float32
_HUGE = 2.0**127  # a value from here on could round to float32's infinity

EXPONENTS = range(-148 - _TOP, 127 - _TOP + 1)
"""Exponents that `pack` gives: of float32's smallest subnormal to what is just under 2^127."""


class Precision(str, Enum):
    """What large activations are kept in."""

    HALF = "half"
    FLOAT32 = "float32"


@dataclass(frozen=True, eq=False, slots=True)
class Packed:
    """A kept tensor; nobody changes it.

    Attributes:
        data: float16, float32 or int64, contiguous, on the CPU, with memory of its own.
        exponent: The value is data · 2^exponent; 0 unless data is float16.
    """

    data: Tensor
    exponent: int = 0

    @property
    def nbytes(self) -> int:
        """Bytes of the data."""
        return self.data.nbytes

    def unpack(self) -> Tensor:
        """The tensor: float32, or int64; it may be the kept one, so it must not be changed."""
        if self.data.dtype is not torch.float16:
            return self.data
        return _scaled(self.data.float(), self.exponent)


Value = Packed | bytes
"""What a cache holds: a tensor, or a file."""


def pack(tensor: Tensor, precision: Precision, *, exact: bool = False) -> Packed:
    """Bring a tensor into the form that is kept.

    With x' = `pack(x, HALF).unpack()`, |x - x'| <= 2^-11 |x| + 2^-39 max|x| + 2^-150: half a unit
    in float16's last place, half of its smallest subnormal on the tensor's scale, and half of
    float32's smallest subnormal.

    Args:
        tensor: float32 or int64, any shape, any device.
        precision: HALF: float16, if it has more than `SMALL` values, all of them under 2^127.
        exact: Keep float32 whatever the precision.

    Raises:
        TypeError: Another dtype.
    """
    tensor = tensor.detach()
    if tensor.dtype is torch.int64:
        return Packed(_own(tensor))
    if tensor.dtype is not torch.float32:
        raise TypeError(f"float32 or int64 is kept, not {tensor.dtype}")
    if exact or precision is Precision.FLOAT32 or tensor.numel() <= SMALL:
        return Packed(_own(tensor))
    lowest, highest = (float(bound) for bound in tensor.aminmax())
    # Written so that it holds for no NaN either.
    if not (lowest > -_HUGE and highest < _HUGE):
        return Packed(_own(tensor))
    largest = max(-lowest, highest)
    exponent = math.frexp(largest)[1] - _TOP if largest else 0
    return Packed(_own(_scaled(tensor, -exponent).half()), exponent)


def _own(tensor: Tensor) -> Tensor:
    # A picture's slice would keep the whole batch alive, and would be counted as the slice.
    tensor = tensor.cpu().contiguous()
    return tensor.clone() if tensor.untyped_storage().nbytes() > tensor.nbytes else tensor


def _scaled(tensor: Tensor, exponent: int) -> Tensor:
    if abs(exponent) <= _FLOAT32_EXPONENT:
        return tensor.mul(2.0**exponent)
    # The power alone may be outside of float32 where the product is inside.
    first = exponent // 2
    return tensor.mul(2.0**first).mul_(2.0 ** (exponent - first))
