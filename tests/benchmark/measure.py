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
        ratio: What `aim` is about: ours / baseline; of times where higher is better,
            baseline / ours.
        aim: What the ratio must reach; None where nothing is promised.
        better: "lower" or "higher".
        note: What else the run showed, in a few words.
    """

    name: str
    ours: float
    baseline: float
    unit: str
    ratio: float
    aim: float | None
    better: str
    note: str = ""

    @property
    def holds(self) -> bool | None:
        """Whether the ratio reaches the aim; None without one."""
        if self.aim is None:
            return None
        return self.ratio <= self.aim if self.better == "lower" else self.ratio >= self.aim

    @property
    def shown_aim(self) -> str:
        """The aim for people; "" without one."""
        bound = "≤" if self.better == "lower" else "≥"
        return "" if self.aim is None else f"{bound} {self.aim:g}"

    def shown(self, value: float) -> str:
        """`ours` or `baseline` with its unit, for people."""
        return f"{value * 1000:.3g} ms" if self.unit == "s" else f"{value:.3g} {self.unit}".rstrip()

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
    name: str,
    ours: Action,
    baseline: Action,
    *,
    repeats: int,
    aim: float | None,
    better: str,
    works: tuple[int, int] = (1, 1),
) -> Row:
    """Measure a claim; the ratio is the median over turns of the turn's own ratio.

    Two neighbours in time share the machine's mood, so their ratio is steadier than the
    ratio of two medians.

    Args:
        name: As in the row.
        ours: The one way.
        baseline: The other.
        repeats: Turns.
        aim: As in the row.
        better: As in the row.
        works: How much of the same work a run of ours and of the baseline does; times are for
            one of it.
    """
    runs = interleave(ours, baseline, repeats)
    ours_s, baseline_s = ([t / work for t in run] for run, work in zip(runs, works, strict=True))
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


def compare_medians(
    name: str, ours: Action, baseline: Action, *, repeats: int, aim: float, note: str = ""
) -> Row:
    """Measure a claim about medians of many short runs, such as the p50 of calls."""
    ours_s, baseline_s = (statistics.median(run) for run in interleave(ours, baseline, repeats))
    return Row(name, ours_s, baseline_s, "s", ours_s / baseline_s, aim, "lower", note)
