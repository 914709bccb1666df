"""Which rows a measure tells apart: the best method, its peers, and what no control beats."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pairlens.evaluation.records import Measure
from pairlens.evaluation.results import Evaluation
from pairlens.evaluation.statistics import Interval, bootstrap_means

_UNEVEN = 0.05  # share of the cases that a row may lack beside another without a warning


@dataclass(frozen=True)
class Standing:
    """What a measure says of the methods against one another and against the controls.

    Attributes:
        best: The method with the best mean over the cases that all methods define. Methods
            that define less than half as many as another are not in the running.
        peers: Other methods whose paired difference to it has an interval with 0 inside.
        control: The control with the best mean in the same sense, or None without controls.
        unproven: Methods that are not shown to be better than that control: 0 is inside the
            interval of the paired difference, or the control is better.
    """

    best: str
    peers: frozenset[str]
    control: str | None
    unproven: frozenset[str]


def standing(evaluation: Evaluation, measure: Measure) -> Standing | None:
    """Compare all rows by one measure, over the cases that both rows of a pair define.

    Returns:
        None where neither end of the measure is better, or no method has a value.
    """
    if measure.higher_is_better is None:
        return None
    sign = 1.0 if measure.higher_is_better else -1.0
    known = defined_counts(evaluation, measure)
    methods = [row.name for row in evaluation.rows if row.name in known and not row.control]
    controls = [row.name for row in evaluation.rows if row.name in known and row.control]
    if not methods:
        return None
    best = _best(evaluation, measure, sign, methods)
    ahead = _leads(evaluation, measure, sign, best, methods)
    peers = frozenset(name for name, lead in ahead.items() if name != best and not _sure(lead))
    if not controls:
        return Standing(best, peers, None, frozenset())
    control = _best(evaluation, measure, sign, controls)
    behind = _leads(evaluation, measure, -sign, control, methods)
    unproven = frozenset(name for name, lead in behind.items() if not _sure(lead))
    return Standing(best, peers, control, unproven)


def defined_counts(evaluation: Evaluation, measure: Measure) -> dict[str, int]:
    """For how many cases each row defines the measure; rows without any are left out."""
    counts = {
        row.name: evaluation.interval(row.name, measure.name).count for row in evaluation.rows
    }
    return {name: count for name, count in counts.items() if count}


def uneven(evaluation: Evaluation, measure: Measure) -> bool:
    """Whether rows define the measure for so different numbers of cases that means mislead.

    A measure that is undefined where a map is bad favours the maps for which it often is.
    """
    counts = defined_counts(evaluation, measure).values()
    return bool(counts) and min(counts) < (1 - _UNEVEN) * max(counts)


def _best(evaluation: Evaluation, measure: Measure, sign: float, rows: list[str]) -> str:
    """The row with the best mean over common cases; over its own where there are none."""
    counts = defined_counts(evaluation, measure)
    rows = [name for name in rows if 2 * counts[name] >= max(counts[row] for row in rows)]
    found: dict[str, dict[str, float]] = {}
    for name in rows:
        values = evaluation.values(name, measure.name)
        pairs = zip(values.cases, values.values.tolist(), strict=True)
        found[name] = {case: value for case, value in pairs if np.isfinite(value)}
    common = sorted(set.intersection(*(set(values) for values in found.values())))
    if not common:
        return max(rows, key=lambda name: sign * float(np.mean(list(found[name].values()))))
    return max(rows, key=lambda name: sign * float(np.mean([found[name][case] for case in common])))


def _leads(
    evaluation: Evaluation, measure: Measure, sign: float, first: str, others: list[str]
) -> dict[str, Interval]:
    """Mean of (first - other) * sign for each other row, paired by case."""
    own = evaluation.values(first, measure.name)
    differences = []
    for other in others:
        values = evaluation.values(other, measure.name)
        of_case = dict(zip(values.cases, values.values.tolist(), strict=True))
        partner = [of_case.get(case, np.nan) for case in own.cases]
        differences.append(sign * (own.values - np.array(partner, np.float64)))
    intervals = bootstrap_means(np.stack(differences, axis=1), own.groups, evaluation.bootstrap)
    return dict(zip(others, intervals, strict=True))


def _sure(lead: Interval) -> bool:
    """Whether the whole interval is above 0."""
    return lead.low is not None and lead.low > 0
