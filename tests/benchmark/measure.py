"""Interleaved timing of two ways to do a thing, and the row that reports it."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass

Action = Callable[[], object]


@dataclass(frozen=True)
class Row:
    """One claim.

    Attributes:
        name: What is compared with what.
        ours, baseline: Median seconds, or whatever `unit` says.
        unit: Of `ours` and `baseline`.
        ratio: ours / baseline where lower is better, baseline / ours where higher is.
        aim: What the ratio must reach.
        better: "lower" or "higher".
    """

    name: str
    ours: float
    baseline: float
    unit: str
    ratio: float
    aim: float
    better: str

    @property
    def holds(self) -> bool:
        """Whether the ratio reaches the aim."""
        return self.ratio <= self.aim if self.better == "lower" else self.ratio >= self.aim

    def as_dict(self) -> dict[str, object]:
        """For bench-results.json."""
        return {**asdict(self), "holds": self.holds}


def interleave(ours: Action, baseline: Action, repeats: int) -> tuple[list[float], list[float]]:
    """Time both in turns, A B B A, so that slow drifts of the machine meet both alike.

    Returns:
        Seconds of each run of ours and of the baseline, `repeats` each.
    """
    for _ in range(2):
        ours()
        baseline()
    times: dict[Action, list[float]] = {ours: [], baseline: []}
    for turn in range(repeats):
        for action in (ours, baseline) if turn % 2 else (baseline, ours):
            started = time.perf_counter()
            action()
            times[action].append(time.perf_counter() - started)
    return times[ours], times[baseline]


def compare(
    name: str, ours: Action, baseline: Action, *, repeats: int, aim: float, better: str
) -> Row:
    """Measure a claim; the ratio is the median over turns of the turn's own ratio.

    Two neighbours in time share the machine's mood, so their ratio is steadier than the
    ratio of two medians.
    """
    ours_s, baseline_s = interleave(ours, baseline, repeats)
    ratios = [
        o / b if better == "lower" else b / o for o, b in zip(ours_s, baseline_s, strict=True)
    ]
    return Row(
        name=name,
        ours=statistics.median(ours_s),
        baseline=statistics.median(baseline_s),
        unit="s",
        ratio=statistics.median(ratios),
        aim=aim,
        better=better,
    )
