"""What a soak came to: a table, a verdict, a file."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path

from rich.console import Console
from rich.table import Table

from tests.soak.sampling import Growth, Sample

_BARS = "▁▂▃▄▅▆▇█"
_WIDTH = 14


@dataclass
class Outcome:
    """Of one run.

    Attributes:
        minutes: How long it took.
        calls: How many of each kind were made.
        expected: Errors that came as they should, by call and class.
        unexpected: Other errors, by call and message.
        disturbances: How many of each kind.
        gone: Processes that ended.
        growths: Of each process and quantity.
        samples: Of each process.
    """

    minutes: float
    calls: Counter[str]
    expected: Counter[str]
    unexpected: Counter[str]
    disturbances: dict[str, int]
    gone: list[str]
    growths: list[Growth]
    samples: dict[str, list[Sample]]

    @property
    def holds(self) -> bool:
        """Whether nothing failed that should not, nothing died and nothing grew too much."""
        grew = [growth for growth in self.growths if not growth.holds]
        return bool(self.calls) and not (self.unexpected or self.gone or grew)


def show(outcome: Outcome, console: Console) -> None:
    """Print tables and the verdict."""
    table = Table(title=f"{sum(outcome.calls.values())} calls in {outcome.minutes:g} minutes")
    for heading in ("call", "times", "expected errors", "unexpected errors"):
        table.add_column(heading)
    for name in sorted(outcome.calls):
        errors = [_told(counts, name) for counts in (outcome.expected, outcome.unexpected)]
        table.add_row(name, str(outcome.calls[name]), *errors)
    console.print(table)
    told = ", ".join(f"{name} {count}" for name, count in outcome.disturbances.items())
    console.print(f"Meanwhile: {told}")
    console.print(_growth_table(outcome.growths))
    for name in outcome.gone:
        console.print(f"{name} ended")
    console.print("holds" if outcome.holds else "DOES NOT HOLD")


def _told(counts: Counter[str], name: str) -> str:
    own = [(key.partition(": ")[2], n) for key, n in counts.items() if key.startswith(f"{name}: ")]
    return "\n".join(f"{text} ({n})" for text, n in own)


def _growth_table(growths: Sequence[Growth]) -> Table:
    table = Table(title="Medians of the third and of the last quarter")
    for heading in ("process", "quantity", "third", "last", "growth", "bound", "holds", "course"):
        table.add_column(heading)
    for growth in growths:
        table.add_row(
            growth.process,
            growth.quantity + (" MiB" if growth.quantity == "rss" else ""),
            *(f"{value:.0f}" for value in (growth.before, growth.after)),
            f"{growth.after - growth.before:+.1f}",
            f"{growth.bound:.1f}",
            "yes" if growth.holds else "NO",
            chart(growth.course),
        )
    return table


def chart(course: Sequence[float]) -> str:
    """The course as a line of bars from its smallest value to its largest."""
    step = -(-len(course) // _WIDTH)
    means = [
        sum(part) / len(part)
        for part in (course[start : start + step] for start in range(0, len(course), step))
    ]
    low, span = min(means), max(means) - min(means)
    return "".join(_BARS[int((mean - low) / (span or 1) * (len(_BARS) - 1))] for mean in means)


def write(outcome: Outcome, path: Path) -> None:
    """Write everything as JSON."""
    document = {
        "cores": os.cpu_count(),
        "versions": {name: version(name) for name in ("grpcio", "pairlens", "timm", "torch")},
        "minutes": outcome.minutes,
        "calls": outcome.calls,
        "expected": outcome.expected,
        "unexpected": outcome.unexpected,
        "disturbances": outcome.disturbances,
        "gone": outcome.gone,
        "growths": [
            {
                "process": growth.process,
                "quantity": growth.quantity,
                "before": growth.before,
                "after": growth.after,
                "bound": growth.bound,
                "holds": growth.holds,
            }
            for growth in outcome.growths
        ],
        "samples": {
            name: [asdict(sample) for sample in samples]
            for name, samples in outcome.samples.items()
        },
        "holds": outcome.holds,
    }
    path.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
