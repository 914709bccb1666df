"""OpenTelemetry traces: a span for each call, and one below it for each of its stages.

Imported only where tracing is on, since the packages come with an extra (`pairlens[otel]`). The
spans are made when the call has ended, of what its record says, so that nothing of this is in the
way of a call; a bounded queue and a thread of OpenTelemetry's take them to the collector, and drop
them where there is none. The OTEL_* variables say where that is, what is sampled, and how parents
are named; by default W3C Trace Context, to localhost:4317, everything.
"""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from importlib.metadata import entry_points

from opentelemetry import propagate
from opentelemetry.context import Context
from opentelemetry.sdk.resources import SERVICE_NAME, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter
from opentelemetry.trace import Span, SpanKind, Status, StatusCode, set_span_in_context

from pairlens_server import __version__
from pairlens_server.errors import ConfigurationError
from pairlens_server.telemetry.record import CallRecord, Run

_NAME = "pairlens-server"
_GROUP = "opentelemetry_traces_exporter"
_MOST_STAGES = 64  # spans of a call; one of many pictures or copies has thousands of stages
_LAST_SPANS_S = 2.0

# Of the semantic conventions for gRPC: what a server is to blame for.
_SERVER_ERRORS = frozenset(
    {"UNKNOWN", "DEADLINE_EXCEEDED", "UNIMPLEMENTED", "INTERNAL", "UNAVAILABLE", "DATA_LOSS"}
)


class Traces:
    """Exports the traces of calls.

    Raises:
        ConfigurationError: The variables name an exporter that is not installed.
    """

    def __init__(self) -> None:
        self._provider = TracerProvider(
            resource=_resource(),
            # Waits for half a minute where no collector answers; `stop` does not.
            shutdown_on_exit=False,
        )
        exporter = _exporter()
        if exporter is not None:
            self._provider.add_span_processor(BatchSpanProcessor(exporter))
        self._tracer = self._provider.get_tracer("pairlens_server", __version__)

    def call_ended(self, record: CallRecord, code: str, now_s: float, runs: Sequence[Run]) -> str:
        """Make the spans of a call.

        Args:
            record: Of the call.
            code: Name of its status code.
            now_s: When it ended, on the clock of `time.perf_counter`.
            runs: Its stages.

        Returns:
            Hex id of its trace; "" where it is not exported.
        """
        epoch_ns = time.time_ns() - round(time.perf_counter() * 1e9)
        carrier = {key: value for key, value in record.metadata if isinstance(value, str)}
        span = self._tracer.start_span(
            record.rpc.lstrip("/"),
            # Of this call alone, whatever span is around.
            propagate.get_global_textmap().extract(carrier, Context()),
            SpanKind.SERVER,
            _attributes(record, code),
            start_time=epoch_ns + round(record.started_s * 1e9),
        )
        if not span.is_recording():
            return ""
        if code in _SERVER_ERRORS:
            span.set_attribute("error.type", code)
            span.set_status(Status(StatusCode.ERROR))
        self._add_stages(span, runs, epoch_ns)
        span.end(epoch_ns + round(now_s * 1e9))
        return f"{span.get_span_context().trace_id:032x}"

    def _add_stages(self, span: Span, runs: Sequence[Run], epoch_ns: int) -> None:
        parent = set_span_in_context(span, Context())
        for run in runs[:_MOST_STAGES]:
            start_ns = epoch_ns + round(run.start_s * 1e9)
            stage = self._tracer.start_span(run.stage.value, parent, start_time=start_ns)
            stage.end(epoch_ns + round(run.end_s * 1e9))
        if len(runs) > _MOST_STAGES:
            span.set_attribute("pairlens.stages_left_out", len(runs) - _MOST_STAGES)

    async def stop(self) -> None:
        """Export what is left, for about two seconds at most."""
        loop, done = asyncio.get_running_loop(), asyncio.Event()

        def shut_down() -> None:
            self._provider.shutdown()
            with suppress(RuntimeError):  # nobody waits any more
                loop.call_soon_threadsafe(done.set)

        # A daemon, since one that waits for a collector must not keep the process.
        threading.Thread(target=shut_down, name="traces", daemon=True).start()
        with suppress(asyncio.TimeoutError):
            await asyncio.wait_for(done.wait(), _LAST_SPANS_S)


def _attributes(record: CallRecord, code: str) -> dict[str, str]:
    service, _, _ = record.rpc.lstrip("/").partition("/")
    attributes = {
        "rpc.system.name": "grpc",
        "rpc.method": record.rpc.lstrip("/"),
        "rpc.response.status_code": code,
        # What these were called before, which most tools still look for.
        "rpc.system": "grpc",
        "rpc.service": service,
        "client.address": record.peer,
        "pairlens.request_id": record.request_id,
        "pairlens.client": record.caller,
        "pairlens.model": record.model,
        "pairlens.method": record.method,
        "pairlens.reason": record.reason,
    }
    return {name: value for name, value in attributes.items() if value}


def _resource() -> Resource:
    found = Resource.create({"service.version": __version__})
    if not str(found.attributes.get(SERVICE_NAME, "")).startswith("unknown_service"):
        return found
    return found.merge(Resource({SERVICE_NAME: _NAME}))


def _exporter() -> SpanExporter | None:
    """What OTEL_TRACES_EXPORTER names, OTLP by default; None where that is "none"."""
    name = os.environ.get("OTEL_TRACES_EXPORTER", "").strip() or "otlp"
    if name == "none":
        return None
    if name == "otlp":
        protocol = (
            os.environ.get("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL")
            or os.environ.get("OTEL_EXPORTER_OTLP_PROTOCOL")
            or "grpc"
        )
        name = f"otlp_proto_{protocol.strip().partition('/')[0]}"
    for entry in entry_points(group=_GROUP, name=name):
        exporter: SpanExporter = entry.load()()
        return exporter
    installed = ", ".join(sorted(entry.name for entry in entry_points(group=_GROUP)))
    raise ConfigurationError(
        f"tracing: no exporter {name} of OpenTelemetry is installed (there is: {installed})"
    )
