"""Metrics that are looked up when they are scraped.

Of what belongs to the event loop the last snapshot is told; the rest (memory of the device,
threads, lines of the log, the server's state, its certificate) may be read by any thread, and is.
"""

from __future__ import annotations

import platform
import threading
from collections.abc import Callable, Iterable, Iterator
from importlib import metadata
from pathlib import Path

import torch
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric as Family
from prometheus_client.registry import Collector

from pairlens_server import __version__
from pairlens_server.cache.stats import CacheKind, CacheStats, KindStats, RedisState, RedisStats
from pairlens_server.telemetry import catalogue
from pairlens_server.telemetry.logs import dropped_lines
from pairlens_server.telemetry.metric import Kind, Metric
from pairlens_server.telemetry.snapshot import Snapshot
from pairlens_server.telemetry.state import Phase, ServerState

Rows = Iterable[tuple[tuple[str, ...], float]]
"""Values of labels, and what is told of them."""

_TASKS = Path("/proc/self/task")


class SampledMetrics(Collector):
    """Tells what can be told at a scrape; any thread may ask.

    Args:
        snapshot: Gives the last one, or None before the first.
        state: Gives the server's state, or None before it has one.
        not_after: Gives when the server's certificate expires, or None where it has none.
    """

    def __init__(
        self,
        snapshot: Callable[[], Snapshot | None],
        state: Callable[[], ServerState | None],
        not_after: Callable[[], float | None],
    ):
        self._snapshot = snapshot
        self._state = state
        self._not_after = not_after
        self._build = _build()

    def describe(self) -> Iterable[Family]:
        """Nothing that a registry could know beforehand."""
        return ()

    def collect(self) -> Iterator[Family]:
        """See `Collector`."""
        yield _family(catalogue.BUILD_INFO, [(self._build, 1)])
        yield _family(catalogue.THREADS, [((), _threads())])
        yield _family(catalogue.LOG_LINES_DROPPED, [((), dropped_lines())])
        state = self._state()
        if state is not None:
            yield _family(catalogue.READY, [((), not state.ready())])
            yield _family(catalogue.DRAINING, [((), state.phase is Phase.DRAINING)])
        not_after_s = self._not_after()
        ends = [] if not_after_s is None else [((), not_after_s)]
        yield _family(catalogue.CERTIFICATE_NOT_AFTER, ends)
        snapshot = self._snapshot()
        if snapshot is not None:
            yield from _of_server(snapshot)
            yield from _of_cache(snapshot.cache)


def _of_server(snapshot: Snapshot) -> Iterator[Family]:
    depth = {model.name: 0.0 for model in snapshot.models} | dict(snapshot.queue.cost)
    models = [
        ((m.name, m.architecture, m.family, m.fingerprint, m.dtype, m.device), 1)
        for m in snapshot.models
    ]
    yield _family(catalogue.MODEL_INFO, models)
    yield _family(catalogue.RPCS_IN_FLIGHT, [((), snapshot.calls)])
    yield _family(catalogue.REQUEST_BYTES, [((), snapshot.request_bytes)])
    yield _family(catalogue.REQUEST_BYTES_LIMIT, [((), snapshot.request_bytes_limit)])
    yield _family(catalogue.QUEUE_DEPTH, [((name,), cost) for name, cost in depth.items()])
    yield _family(catalogue.QUEUE_LIMIT, [((), snapshot.queue_limit)])
    yield _family(catalogue.QUEUE_OLDEST, [((), snapshot.queue.oldest_s)])
    devices = sorted({model.device for model in snapshot.models})
    yield _family(catalogue.DEVICE_MEMORY, _memory(devices))


def _memory(devices: Iterable[str]) -> Iterator[tuple[tuple[str, ...], float]]:
    for name in devices:
        device = torch.device(name)
        # Whoever asks first would initialise CUDA, which is the device thread's to do.
        if device.type != "cuda" or not torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
            continue
        yield (name, "allocated"), torch.cuda.memory_allocated(device)
        yield (name, "reserved"), torch.cuda.memory_reserved(device)
        yield (name, "total"), torch.cuda.get_device_properties(device).total_memory


def _of_cache(stats: CacheStats) -> Iterator[Family]:
    tiers: dict[str, dict[CacheKind, KindStats]] = {
        "memory": dict(stats.memory),
        "redis": dict(stats.redis.kinds),
    }
    kinds = [(tier, kind.value, s) for tier, all_ in tiers.items() for kind, s in all_.items()]
    requests: list[tuple[tuple[str, ...], float]] = []
    for tier, kind, s in kinds:
        requests += [
            ((tier, kind, "hit"), s.hits),
            ((tier, kind, "miss"), s.misses - s.corrupt),
            ((tier, kind, "corrupt"), s.corrupt),
        ]
    memory = [(kind.value, s) for kind, s in stats.memory.items()]
    yield _family(catalogue.CACHE_REQUESTS, requests)
    yield _family(catalogue.CACHE_STORED, [((tier, kind), s.stored) for tier, kind, s in kinds])
    yield _family(catalogue.CACHE_DROPPED, [((tier, kind), s.dropped) for tier, kind, s in kinds])
    yield _family(catalogue.CACHE_EVICTED, [((kind,), s.evicted) for kind, s in memory])
    yield _family(catalogue.CACHE_ENTRIES, [((kind,), s.entries) for kind, s in memory])
    yield _family(catalogue.CACHE_BYTES, [((kind,), s.bytes) for kind, s in memory])
    yield _family(catalogue.CACHE_BYTES_LIMIT, [((kind,), s.max_bytes) for kind, s in memory])
    if stats.redis.state is not RedisState.OFF:
        yield from _of_redis(stats.redis)


def _of_redis(stats: RedisStats) -> Iterator[Family]:
    yield _family(catalogue.REDIS_UP, [((), stats.state is RedisState.UP)])
    errors = {"error": stats.errors - stats.timeouts, "timeout": stats.timeouts}
    yield _family(catalogue.REDIS_ERRORS, [((kind,), count) for kind, count in errors.items()])
    yield _family(catalogue.REDIS_QUEUED, [((), stats.queued_bytes)])
    yield _family(catalogue.REDIS_QUEUED_LIMIT, [((), stats.max_queued_bytes)])


def _family(metric: Metric, rows: Rows) -> Family:
    make = CounterMetricFamily if metric.kind is Kind.COUNTER else GaugeMetricFamily
    family = make(metric.name, metric.help, labels=metric.label_names)
    for labels, value in rows:
        family.add_metric(labels, float(value))
    return family


def _build() -> tuple[str, ...]:
    installed = (metadata.version(name) for name in ("torch", "timm", "grpcio"))
    return (__version__, platform.python_version(), *installed)


def _threads() -> int:
    """All threads, those of native libraries included where the system tells of them."""
    try:
        return len(list(_TASKS.iterdir()))
    except OSError:
        return threading.active_count()
