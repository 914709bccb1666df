"""The one thing that the rest of the server tells what happens: metrics, logs and traces."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from prometheus_client import (
    CollectorRegistry,
    GCCollector,
    PlatformCollector,
    ProcessCollector,
)

from pairlens_server.cache.tiers import Cache
from pairlens_server.engine.engine import Engine
from pairlens_server.engine.entry import BatchReport
from pairlens_server.errors import ConfigurationError
from pairlens_server.models.registry import ModelRegistry
from pairlens_server.rpc.gate import Gate
from pairlens_server.telemetry import catalogue
from pairlens_server.telemetry.calls import LogCalls, count_call, log_call
from pairlens_server.telemetry.http import TelemetryServer
from pairlens_server.telemetry.instruments import Instruments
from pairlens_server.telemetry.record import CallRecord, seconds_of
from pairlens_server.telemetry.sampled import SampledMetrics
from pairlens_server.telemetry.snapshot import Snapshot, Watched, take
from pairlens_server.telemetry.state import ServerState

if TYPE_CHECKING:
    from pairlens_server.telemetry.traces import Traces

BEAT_S = 0.25
"""Seconds between two looks at the event loop and what it owns."""

_log = logging.getLogger(__name__)


class Telemetry:
    """Of one server; several may live in a process, each with metrics of its own.

    What is told of calls, batches and Redis is counted at once, on the event loop; what belongs to
    the loop is looked at by a task of its own, and scrapes are told what it saw last.

    Args:
        buckets_s: Upper bounds of the histograms of durations, in seconds, ascending.
        log_calls: Which calls get a line in the log.
        tracing: Whether traces are exported.

    Raises:
        ConfigurationError: Traces need packages that are not installed, or a variable of
            OpenTelemetry's says what cannot be.
    """

    def __init__(self, *, buckets_s: Sequence[float], log_calls: LogCalls, tracing: bool):
        self._log_calls: LogCalls = log_calls
        self._traces = _traces() if tracing else None
        self._state: ServerState | None = None
        self._snapshot: Snapshot | None = None
        self._not_after: Callable[[], float] | None = None
        self._sampling: asyncio.Task[None] | None = None
        self._server: TelemetryServer | None = None
        self.registry = CollectorRegistry()
        """All metrics."""
        self._instruments = Instruments(self.registry, buckets_s)
        self.registry.register(
            SampledMetrics(
                lambda: self._snapshot,
                lambda: self._state,
                lambda: self._not_after and self._not_after(),
            )
        )
        for kind in (ProcessCollector, PlatformCollector, GCCollector):
            kind(registry=self.registry)

    def call_ended(self, record: CallRecord, code: str, seconds: float) -> None:
        """Count, log and trace a call.

        Args:
            record: Of the call.
            code: Name of its status code.
            seconds: That it took.
        """
        now_s = record.started_s + seconds
        runs = record.runs(now_s)
        stages = seconds_of(runs)
        count_call(self._instruments, record, code, seconds, stages)
        trace_id = ""
        if self._traces is not None:
            trace_id = self._traces.call_ended(record, code, now_s, runs)
        log_call(self._log_calls, record, code, seconds, stages, trace_id)

    def batch_ended(self, report: BatchReport) -> None:
        """Count a batch that ran on the device."""
        count, observe = self._instruments.count, self._instruments.observe
        observe(catalogue.BATCH_SIZE, report.pictures, report.model)
        observe(catalogue.BATCH_COST, report.cost, report.model)
        observe(catalogue.BATCH_DURATION, report.seconds, report.model)
        count(catalogue.BATCH_FAILURES, report.model, by=report.failures)
        count(catalogue.DEVICE_BUSY, report.model, by=report.seconds)

    def redis_ended(self, operation: str, seconds: float, failed: bool) -> None:
        """Count a round trip to Redis.

        Args:
            operation: Of `labels.OPERATIONS`.
            seconds: That it took.
            failed: Whether no answer came; Redis' own counts tell of that.
        """
        self._instruments.observe(catalogue.REDIS_DURATION, seconds, operation)

    def model_changed(self, kind: str) -> None:
        """Count what became of a model: one of `labels.CHANGES`."""
        self._instruments.count(catalogue.MODEL_CHANGES, kind)

    def watch(
        self,
        *,
        engine: Engine,
        cache: Cache,
        registry: ModelRegistry,
        gate: Gate,
        state: ServerState,
    ) -> None:
        """Begin to look at these, on the running event loop, until `stop`.

        Args:
            engine: Its queue, its device, and whether it can run anything.
            cache: What it holds and has done.
            registry: The served models, whichever they are at the time.
            gate: The calls under way.
            state: Told that the loop runs.
        """
        watched = Watched(engine, cache, registry, gate)
        self._state = state
        self._look(watched, state)
        self._sampling = asyncio.get_running_loop().create_task(
            self._look_on(watched, state), name="telemetry"
        )

    def watch_certificate(self, not_after: Callable[[], float]) -> None:
        """Tell when the server's certificate expires, until `stop`.

        Args:
            not_after: Gives that in seconds since 1970; any thread may ask.
        """
        self._not_after = not_after

    def listen(self, listen: str, state: ServerState) -> str:
        """Serve /metrics, /livez and /readyz on threads of their own, until `stop`.

        Args:
            listen: HOST:PORT, an IPv6 address in brackets; port 0 takes a free one.
            state: What the probes say.

        Returns:
            HOST:PORT as bound.

        Raises:
            ConfigurationError: The address cannot be listened on; says why.
        """
        self._state = state
        self._server = TelemetryServer(listen, self.registry, state)
        return self._server.address

    async def stop(self) -> None:
        """Export the last traces, for about two seconds at most, and end all threads."""
        if self._sampling is not None:
            self._sampling.cancel()
            await asyncio.wait({self._sampling})
        if self._traces is not None:
            await self._traces.stop()
        if self._server is not None:
            await asyncio.to_thread(self._server.close)

    async def _look_on(self, watched: Watched, state: ServerState) -> None:
        while True:
            asleep_s = time.perf_counter()
            await asyncio.sleep(BEAT_S)
            lag_s = time.perf_counter() - asleep_s - BEAT_S
            self._instruments.observe(catalogue.EVENT_LOOP_LAG, max(0.0, lag_s))
            self._look(watched, state)

    def _look(self, watched: Watched, state: ServerState) -> None:
        running_s: float | None = None
        try:
            self._snapshot = take(watched)
            running_s = self._snapshot.queue.running_s
        except Exception:
            # The heart beats on: a bug in a metric must not make anybody restart the server.
            _log.exception("internal error: the server could not be looked at")
        state.beat(running_s=running_s, broken=watched.engine.broken.is_set())


def _traces() -> Traces:
    try:
        from pairlens_server.telemetry.traces import Traces

        return Traces()
    except ImportError as error:
        raise ConfigurationError(
            "tracing needs OpenTelemetry: pip install 'pairlens[otel]'"
        ) from error
    except ConfigurationError:
        raise
    # Of any class: each of OpenTelemetry's packages reads its own variables.
    except Exception as error:
        raise ConfigurationError(f"tracing: {error or type(error).__name__}") from error
