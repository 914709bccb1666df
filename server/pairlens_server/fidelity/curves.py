"""Curves of scores over the share of a picture that is erased or put back."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

# Below this a curve's two ends are the same, and dividing by their difference shows noise.
_SAME_SCORE = 1e-6

Numbers = Sequence[float] | NDArray[np.floating]


def boundaries(
    count: int,
    *,
    steps: int | None = None,
    step_size: int | None = None,
    fractions: Sequence[float] = (),
) -> tuple[int, ...]:
    """How many units are erased at each point of a curve.

    Args:
        count: Units in all, at least 1.
        steps: Steps of (nearly) equal size: point i has i·count/steps, halves rounded up.
        step_size: Units a step; the last step may be smaller.
        fractions: Shares in [0, 1], rounded to units; the two ends are added.

    Returns:
        Strictly ascending from 0 to `count`.

    Raises:
        ValueError: Not exactly one of the three is given, or it is out of range.
    """
    if (steps is not None) + (step_size is not None) + (len(fractions) > 0) != 1:
        raise ValueError("exactly one of steps, step_size and fractions is needed")
    if steps is not None:
        if not 1 <= steps <= count:
            raise ValueError(f"{steps} steps for {count} units")
        return tuple((2 * i * count + steps) // (2 * steps) for i in range(steps + 1))
    if step_size is not None:
        if not 1 <= step_size <= count:
            raise ValueError(f"{step_size} units a step of {count}")
        return (*range(0, count, step_size), count)
    if not all(0 <= fraction <= 1 for fraction in fractions):
        raise ValueError("a share lies outside [0, 1]")
    inner = {math.floor(fraction * count + 0.5) for fraction in fractions}
    return tuple(sorted({0, count} | inner))


def area(fractions: Numbers, scores: Numbers) -> float:
    """Area under a curve by the trapezoid rule, in float64.

    Args:
        fractions: [points], ascending from 0 to 1.
        scores: [points], in any unit.

    Returns:
        The mean score, each weighted by the share that it stands for.

    Raises:
        ValueError: There are fewer than two points, or not as many of both.
    """
    shares, heights = _points(fractions), _points(scores)
    if len(shares) != len(heights):
        raise ValueError(f"{len(shares)} fractions, {len(heights)} scores")
    return float((np.diff(shares) * (heights[1:] + heights[:-1]) / 2).sum())


def reference_area(scores: Numbers) -> float:
    """Area under points taken as evenly spaced: (Σs − s₀/2 − sₙ/2) / n (RISE, `evaluation.py`).

    Raises:
        ValueError: There are fewer than two points.
    """
    heights = _points(scores)
    return float((heights.sum() - heights[0] / 2 - heights[-1] / 2) / (len(heights) - 1))


def normalized_area(area: float, full: float, empty: float) -> float | None:
    """Area under a curve scaled so that the clean picture has 1 and the filled one 0.

    The area under (s − empty) / (full − empty), by either of the rules above, whose weights
    sum to 1.

    Args:
        area: Under the scores s.
        full: Score of the clean picture.
        empty: Score of the filled picture.

    Returns:
        It may leave [0, 1]; None where the two ends differ by no more than 1e-6.
    """
    if abs(full - empty) <= _SAME_SCORE:
        return None
    return (area - empty) / (full - empty)


def _points(numbers: Numbers) -> NDArray[np.float64]:
    points = np.asarray(numbers, dtype=np.float64)
    if points.ndim != 1 or len(points) < 2:
        raise ValueError(f"a curve has at least two points, not shape {points.shape}")
    return points
