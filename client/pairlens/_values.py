"""Values of callers as the contract's number types take them."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Iterable
from typing import TypeVar

import numpy as np

from pairlens.rendering import Box

_Number = TypeVar("_Number", int, float)

MAX_UINT32 = 2**32 - 1
_MAX_FLOAT32 = float(np.finfo(np.float32).max)


def index(value: object) -> int | None:
    """The value as a uint32; None when it is none (a bool is none either)."""
    if isinstance(value, bool):
        return None
    try:
        number = operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        return None
    return number if 0 <= number <= MAX_UINT32 else None


def indices(value: object) -> list[int] | None:
    """The values of a list as uint32; None when there is none or one of them is none."""
    return _all(value, index)


def reals(value: object) -> list[float] | None:
    """The values of a list as finite float32; None when there is none or one of them is none."""
    return _all(value, real)


def real(value: object) -> float | None:
    """The value as a finite float32; None when it is none (texts and bools are none)."""
    if isinstance(value, (bool, np.bool_, str, bytes)):
        return None
    try:
        number = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError):
        return None
    return number if math.isfinite(number) and abs(number) <= _MAX_FLOAT32 else None


def box(value: object) -> Box | None:
    """The value as a rectangle with an inside; None when it is none."""
    if isinstance(value, Box):
        value = (value.left, value.top, value.right, value.bottom)
    if isinstance(value, (str, bytes)) or not isinstance(value, Iterable):
        return None
    edges = [real(edge) for edge in value]
    known = [edge for edge in edges if edge is not None]
    if len(known) != 4 or len(edges) != 4:
        return None
    made = Box(*known)
    return made if made.left < made.right and made.top < made.bottom else None


def _all(value: object, read: Callable[[object], _Number | None]) -> list[_Number] | None:
    if isinstance(value, (str, bytes)) or not isinstance(value, Iterable):
        return None
    numbers = [read(item) for item in value]
    known = [number for number in numbers if number is not None]
    return known if known and len(known) == len(numbers) else None
