"""Means with confidence intervals over the cases of an evaluation.

Intervals are percentile bootstraps, stratified by class: each draw takes from every class
as many of its cases as there are, with replacement (Efron and Tibshirani, An Introduction to
the Bootstrap, 1993, chapters 8 and 13). A class with one case would never vary; all such
classes are drawn from together.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

_DRAWN_AT_ONCE = 2**22
"""Weights that one block of draws holds: 32 MiB."""


@dataclass(frozen=True)
class Bootstrap:
    """How confidence intervals are made.

    Attributes:
        samples: Draws; at least 1.
        level: Share of them between the ends of an interval, in (0, 1).
        seed: Of the draws. Rows over the same cases are drawn alike.
    """

    samples: int = 2000
    level: float = 0.95
    seed: int = 0


@dataclass(frozen=True)
class Interval:
    """A mean, and the ends of its confidence interval; None where no value is defined.

    Attributes:
        mean, low, high: In the values' unit.
        count: Values that are defined.
    """

    mean: float | None
    low: float | None
    high: float | None
    count: int


@dataclass(frozen=True, eq=False)
class Values:
    """One measure of one row.

    Attributes:
        cases: Keys.
        groups: Class of each.
        values: float64 [cases], NaN where undefined.
    """

    cases: tuple[str, ...]
    groups: tuple[str, ...]
    values: Floats


@dataclass(frozen=True, eq=False)
class MeanCurve:
    """Mean of a curve over cases, with a pointwise confidence band.

    Attributes:
        fractions, mean, low, high: float64 [points].
        count: Cases.
    """

    fractions: Floats
    mean: Floats
    low: Floats
    high: Floats
    count: int


def bootstrap_mean(
    values: npt.ArrayLike,
    groups: Sequence[str],
    *,
    samples: int = 2000,
    seed: int = 0,
    level: float = 0.95,
) -> Interval:
    """Mean of the defined values, and its interval.

    Args:
        values: [cases], NaN (or infinite) where undefined; those are left out.
        groups: Class of each case.
        samples: Draws.
        seed: Of the draws.
        level: Share of the draws' means between the ends.
    """
    array = np.asarray(values, np.float64)
    (interval,) = bootstrap_means(array[:, None], groups, Bootstrap(samples, level, seed))
    return interval


def bootstrap_means(
    values: Floats, groups: Sequence[str], bootstrap: Bootstrap
) -> tuple[Interval, ...]:
    """As `bootstrap_mean` of each column; columns defined for the same cases share draws.

    Args:
        values: [cases, columns]
        groups: Class of each case.
        bootstrap: How intervals are made.
    """
    defined = np.isfinite(values)
    columns: defaultdict[bytes, list[int]] = defaultdict(list)
    for column in range(values.shape[1]):
        columns[defined[:, column].tobytes()].append(column)
    intervals: dict[int, Interval] = {}
    for alike in columns.values():
        cases = np.flatnonzero(defined[:, alike[0]]).tolist()
        kept = values[cases][:, alike]
        low, high = bands(kept, [groups[case] for case in cases], bootstrap)
        for place, column in enumerate(alike):
            intervals[column] = (
                Interval(
                    float(kept[:, place].mean()), float(low[place]), float(high[place]), len(cases)
                )
                if len(cases)
                else Interval(None, None, None, 0)
            )
    return tuple(intervals[column] for column in range(values.shape[1]))


def bands(values: Floats, groups: Sequence[str], bootstrap: Bootstrap) -> tuple[Floats, Floats]:
    """Ends of the pointwise interval of the mean over cases.

    Args:
        values: [cases, columns], finite.
        groups: Class of each case.
        bootstrap: How intervals are made.

    Returns:
        Low and high [columns] each; NaN without cases.
    """
    count, columns = values.shape
    if not count:
        return np.full(columns, np.nan), np.full(columns, np.nan)
    strata = _strata(groups)
    generator = np.random.default_rng(bootstrap.seed)
    block = max(1, _DRAWN_AT_ONCE // count)
    means = [
        _weights(strata, count, min(block, bootstrap.samples - start), generator) @ values
        for start in range(0, bootstrap.samples, block)
    ]
    tail = (1 - bootstrap.level) / 2
    low, high = np.quantile(np.concatenate(means) / count, (tail, 1 - tail), axis=0)
    return low, high


def paired_difference(
    first: tuple[Sequence[str], npt.ArrayLike],
    second: tuple[Sequence[str], npt.ArrayLike],
    groups: Sequence[str],
    bootstrap: Bootstrap,
) -> Interval:
    """Mean of first less second over the cases for which both are defined.

    Args:
        first: Keys of cases, and their values.
        second: The same.
        groups: Class of each case of `first`.
        bootstrap: How the interval is made.
    """
    others = dict(zip(second[0], np.asarray(second[1], np.float64).tolist(), strict=True))
    own = np.asarray(first[1], np.float64)
    partner = np.array([others.get(case, np.nan) for case in first[0]], np.float64)
    (interval,) = bootstrap_means((own - partner)[:, None], groups, bootstrap)
    return interval


def _strata(groups: Sequence[str]) -> list[npt.NDArray[np.intp]]:
    """Indices of the cases that are drawn from together."""
    members: defaultdict[str, list[int]] = defaultdict(list)
    for index, group in enumerate(groups):
        members[group].append(index)
    lone = [own[0] for own in members.values() if len(own) == 1]
    strata = [np.array(own, np.intp) for own in members.values() if len(own) > 1]
    return [*strata, np.array(lone, np.intp)] if lone else strata


def _weights(
    strata: Sequence[npt.NDArray[np.intp]],
    count: int,
    draws: int,
    generator: np.random.Generator,
) -> Floats:
    """How often each draw holds each case: [draws, cases]."""
    weights = np.zeros((draws, count))
    offsets = np.arange(draws)[:, None]
    for cases in strata:
        picked = generator.integers(len(cases), size=(draws, len(cases))) + offsets * len(cases)
        counts = np.bincount(picked.ravel(), minlength=draws * len(cases))
        weights[:, cases] = counts.reshape(draws, len(cases))
    return weights
