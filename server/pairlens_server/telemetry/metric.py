"""What a metric is: its name, its type and its labels, as data."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

PREFIX = "pairlens_"


class Kind(str, Enum):
    """Types of metrics, as Prometheus has them."""

    COUNTER = "counter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"


class Buckets(str, Enum):
    """What bounds the buckets of a histogram."""

    LATENCY = "latency"  # the setting latency_buckets_s
    BATCH = "batch"  # powers of two up to 256
    COST = "cost"  # powers of two up to 1024
    SHORT = "short"  # from 0.5 ms to 10 s


BOUNDS: dict[Buckets, tuple[float, ...]] = {
    Buckets.BATCH: tuple(2.0**power for power in range(9)),
    Buckets.COST: tuple(2.0**power for power in range(-1, 11)),
    Buckets.SHORT: (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10),
}
"""Upper bounds of the buckets that no setting changes."""


@dataclass(frozen=True)
class Label:
    """A label of a metric.

    Attributes:
        name: As exported.
        values: All that it can be; or what they are, in words.
    """

    name: str
    values: tuple[str, ...] | str


@dataclass(frozen=True)
class Metric:
    """One metric.

    Attributes:
        name: As exported, with prefix; of a counter with `_total`.
        kind: Its type.
        help: What it tells, one sentence.
        labels: In the order in which values are given.
        buckets: Of a histogram.
        query: An example in PromQL, or "".
    """

    name: str
    kind: Kind
    help: str
    labels: tuple[Label, ...] = ()
    buckets: Buckets | None = None
    query: str = ""

    @property
    def label_names(self) -> tuple[str, ...]:
        """Names of the labels."""
        return tuple(label.name for label in self.labels)


def counter(name: str, text: str, *labels: Label, query: str = "") -> Metric:
    """A counter; `name` without prefix."""
    return Metric(f"{PREFIX}{name}", Kind.COUNTER, text, labels, query=query)


def gauge(name: str, text: str, *labels: Label, query: str = "") -> Metric:
    """A gauge; `name` without prefix."""
    return Metric(f"{PREFIX}{name}", Kind.GAUGE, text, labels, query=query)


def histogram(
    name: str, text: str, *labels: Label, buckets: Buckets = Buckets.LATENCY, query: str = ""
) -> Metric:
    """A histogram; `name` without prefix."""
    return Metric(f"{PREFIX}{name}", Kind.HISTOGRAM, text, labels, buckets, query)
