"""Instruments of what is counted as it happens; the rest is looked up at a scrape."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Histogram, disable_created_metrics

from pairlens_server.telemetry import catalogue
from pairlens_server.telemetry.labels import CHANGES, CODES, REASONS, RPCS
from pairlens_server.telemetry.metric import BOUNDS, Buckets, Kind, Metric

COUNTED = (
    catalogue.RPC_HANDLED,
    catalogue.RPC_DURATION,
    catalogue.STAGE_DURATION,
    catalogue.REJECTED,
    catalogue.BATCH_SIZE,
    catalogue.BATCH_COST,
    catalogue.BATCH_DURATION,
    catalogue.BATCH_FAILURES,
    catalogue.DEVICE_BUSY,
    catalogue.REDIS_DURATION,
    catalogue.MODEL_CHANGES,
    catalogue.EVENT_LOOP_LAG,
)
"""Metrics that have an instrument; any thread may use one."""


class Instruments:
    """Counters and histograms of the catalogue, in a registry of their own.

    What is known to occur is there from the start with 0, so that the first occurrence is seen as
    an increase.

    Args:
        registry: Where they are found at a scrape.
        buckets_s: Upper bounds of the histograms of durations, in seconds, ascending.
    """

    def __init__(self, registry: CollectorRegistry, buckets_s: Sequence[float]):
        # When a series began would be a series more for each, and Prometheus needs it not.
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self._counters: dict[str, Counter] = {}
        self._histograms: dict[str, Histogram] = {}
        # By name and labels, since to find one takes longer than to count.
        self._children: dict[tuple[str, ...], Any] = {}
        for metric in COUNTED:
            if metric.kind is Kind.COUNTER:
                self._counters[metric.name] = _counter(metric, registry)
            else:
                self._histograms[metric.name] = _histogram(metric, registry, buckets_s)
        for rpc in RPCS:
            for code in CODES:
                self.count(catalogue.RPC_HANDLED, rpc, code, by=0)
        for metric, values in (
            (catalogue.REJECTED, REASONS),
            (catalogue.MODEL_CHANGES, CHANGES),
        ):
            for value in values:
                self.count(metric, value, by=0)

    def count(self, metric: Metric, *labels: str, by: float = 1) -> None:
        """Add to a counter.

        Args:
            metric: Which, of `COUNTED`.
            *labels: Its values, in the order of the catalogue.
            by: At least 0.
        """
        key = (metric.name, *labels)
        child = self._children.get(key)
        if child is None:
            child = self._children[key] = _child(self._counters[metric.name], labels)
        child.inc(by)

    def observe(self, metric: Metric, value: float, *labels: str) -> None:
        """Add a value to a histogram; see `count`."""
        key = (metric.name, *labels)
        child = self._children.get(key)
        if child is None:
            child = self._children[key] = _child(self._histograms[metric.name], labels)
        child.observe(value)


def _child(whole: Any, labels: Sequence[str]) -> Any:
    return whole.labels(*labels) if labels else whole


def _counter(metric: Metric, registry: CollectorRegistry) -> Counter:
    return Counter(metric.name, metric.help, metric.label_names, registry=registry)


def _histogram(
    metric: Metric, registry: CollectorRegistry, buckets_s: Sequence[float]
) -> Histogram:
    assert metric.buckets is not None
    bounds = buckets_s if metric.buckets is Buckets.LATENCY else BOUNDS[metric.buckets]
    return Histogram(
        metric.name, metric.help, metric.label_names, buckets=tuple(bounds), registry=registry
    )
