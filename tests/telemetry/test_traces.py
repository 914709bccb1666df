"""Traces, as a collector receives them: a real one's interface, over gRPC."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent import futures

import grpc
import pytest

from pairlens.v1 import explanation_service_pb2, explanation_service_pb2_grpc
from pairlens_server.errors import ConfigurationError
from pairlens_server.telemetry.record import CallRecord, Interval, Stage
from pairlens_server.telemetry.telemetry import Telemetry
from tests.contract.support import image, png
from tests.server_process import server_process, write_models

pytest.importorskip("opentelemetry.sdk", reason="pairlens[otel] is not installed")
collector = pytest.importorskip("opentelemetry.proto.collector.trace.v1.trace_service_pb2")
collector_grpc = pytest.importorskip(
    "opentelemetry.proto.collector.trace.v1.trace_service_pb2_grpc"
)

LIMIT_S = 20
TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
CLIENT, SERVER_KIND, INTERNAL_KIND = 3, 2, 1


class Collector(collector_grpc.TraceServiceServicer):
    """Keeps what it is sent."""

    def __init__(self) -> None:
        self.spans: list = []
        self.resources: list[dict[str, str]] = []
        self._server = grpc.server(futures.ThreadPoolExecutor(2))
        collector_grpc.add_TraceServiceServicer_to_server(self, self._server)
        self.address = f"127.0.0.1:{self._server.add_insecure_port('127.0.0.1:0')}"
        self._server.start()

    def Export(self, request, context):  # noqa: N802
        for resource_spans in request.resource_spans:
            self.resources.append(values(resource_spans.resource.attributes))
            for scope in resource_spans.scope_spans:
                self.spans += scope.spans
        return collector.ExportTraceServiceResponse()

    def stop(self) -> None:
        self._server.stop(None)

    def named(self, name: str) -> list:
        return [span for span in self.spans if span.name == name]

    def until(self, count: int) -> None:
        end_s = time.monotonic() + LIMIT_S
        while len(self.spans) < count:
            assert time.monotonic() < end_s, self.spans
            time.sleep(0.05)


def values(attributes) -> dict[str, object]:
    return {a.key: getattr(a.value, a.value.WhichOneof("value")) for a in attributes}


@pytest.fixture
def received(monkeypatch) -> Iterator[Collector]:
    made = Collector()
    for name in [name for name in os.environ if name.startswith("OTEL_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://{made.address}")
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "100")
    yield made
    made.stop()


def traced(log_calls: str = "none") -> Telemetry:
    return Telemetry(buckets_s=(1.0,), log_calls=log_calls, tracing=True)


def a_call(**fields) -> CallRecord:
    now_s = time.perf_counter()
    call = CallRecord("/pairlens.v1.ExplanationService/Explain", "my-id", **fields)
    call.started_s = now_s - 1.0
    call.intervals = [
        Interval(Stage.DECODE, now_s - 0.9, now_s - 0.7),
        Interval(Stage.DECODE, now_s - 0.8, now_s - 0.6),
        Interval(Stage.QUEUE, now_s - 0.6, now_s - 0.5),
        Interval(Stage.COMPUTE, now_s - 0.5, now_s - 0.1),
    ]
    return call


def told(span) -> tuple[str, float, float]:
    return span.name, span.start_time_unix_nano / 1e9, span.end_time_unix_nano / 1e9


async def test_a_call_is_a_span_with_one_for_each_run_of_a_stage(received):
    telemetry, wall_s = traced(), time.time()
    call = a_call(peer="10.0.0.7", caller="me", model="m", method="rollout")
    telemetry.call_ended(call, "OK", 1.0)
    await telemetry.stop()
    (span,) = received.named("pairlens.v1.ExplanationService/Explain")
    assert span.kind == SERVER_KIND
    name, start_s, end_s = told(span)
    assert (start_s, end_s) == pytest.approx((wall_s - 1.0, wall_s), abs=0.5)
    assert end_s - start_s == pytest.approx(1.0, abs=1e-6)
    attributes = values(span.attributes)
    assert attributes == {
        "rpc.system.name": "grpc",
        "rpc.method": name,
        "rpc.response.status_code": "OK",
        "rpc.system": "grpc",
        "rpc.service": "pairlens.v1.ExplanationService",
        "client.address": "10.0.0.7",
        "pairlens.request_id": "my-id",
        "pairlens.client": "me",
        "pairlens.model": "m",
        "pairlens.method": "rollout",
    }
    assert span.status.code == 0
    stages = sorted((s for s in received.spans if s is not span), key=lambda s: told(s)[1])
    assert [s.name for s in stages] == ["decode", "queue", "compute"]
    for stage, (begin, end) in zip(stages, [(0.1, 0.4), (0.4, 0.5), (0.5, 0.9)], strict=True):
        assert stage.parent_span_id == span.span_id
        assert stage.trace_id == span.trace_id
        assert stage.kind == INTERNAL_KIND
        assert told(stage)[1:] == pytest.approx((start_s + begin, start_s + end), abs=1e-4)


async def test_the_span_joins_the_callers_trace(received):
    telemetry = traced()
    metadata = (
        *(("traceparent", f"00-{TRACE}-{PARENT}-01"), ("tracestate", "v=1")),
        ("some-bin", b"\xff"),
    )
    telemetry.call_ended(a_call(metadata=metadata), "OK", 1.0)
    await telemetry.stop()
    (span,) = received.named("pairlens.v1.ExplanationService/Explain")
    assert span.trace_id.hex() == TRACE
    assert span.parent_span_id.hex() == PARENT
    assert span.trace_state == "v=1"


async def test_what_the_caller_does_not_sample_is_not_sent(received, caplog):
    telemetry = traced("all")
    with caplog.at_level("INFO"):
        telemetry.call_ended(
            a_call(metadata=(("traceparent", f"00-{TRACE}-{PARENT}-00"),)), "OK", 1.0
        )
        telemetry.call_ended(
            a_call(metadata=(("traceparent", f"00-{TRACE}-{PARENT}-01"),)), "OK", 1.0
        )
    await telemetry.stop()
    assert len(received.named("pairlens.v1.ExplanationService/Explain")) == 1
    first, second = (r.fields() for r in caplog.records if r.name == "pairlens.calls")
    assert "trace_id" not in first
    assert second["trace_id"] == TRACE


@pytest.mark.parametrize(
    "traceparent", ["", "nonsense", f"00-{'0' * 32}-{PARENT}-01", "x" * 10_000]
)
async def test_a_parent_that_is_none_begins_a_trace(received, traceparent):
    telemetry = traced()
    telemetry.call_ended(a_call(metadata=(("traceparent", traceparent),)), "OK", 1.0)
    await telemetry.stop()
    (span,) = received.named("pairlens.v1.ExplanationService/Explain")
    assert span.parent_span_id == b""
    assert span.trace_id.hex() != TRACE


@pytest.mark.parametrize(
    ("code", "is_error"),
    [("INTERNAL", True), ("DEADLINE_EXCEEDED", True), ("UNAVAILABLE", True), ("NOT_FOUND", False)],
)
async def test_what_the_server_is_to_blame_for_is_an_error(received, code, is_error):
    telemetry = traced()
    telemetry.call_ended(a_call(reason="WHY"), code, 1.0)
    await telemetry.stop()
    (span,) = received.named("pairlens.v1.ExplanationService/Explain")
    attributes = values(span.attributes)
    assert attributes["rpc.response.status_code"] == code
    assert attributes["pairlens.reason"] == "WHY"
    assert (span.status.code == 2) is is_error
    assert ("error.type" in attributes) is is_error


async def test_spans_of_a_call_are_bounded(received):
    telemetry, call = traced(), a_call()
    now_s = time.perf_counter()
    call.started_s = now_s - 300
    call.intervals = [Interval(Stage.COMPUTE, now_s - n - 0.5, now_s - n - 0.1) for n in range(200)]
    telemetry.call_ended(call, "OK", 300.0)
    await telemetry.stop()
    assert len(received.named("compute")) == 64
    (span,) = received.named("pairlens.v1.ExplanationService/Explain")
    assert values(span.attributes)["pairlens.stages_left_out"] == 136


async def test_the_variables_are_heard(received, monkeypatch):
    monkeypatch.setenv("OTEL_RESOURCE_ATTRIBUTES", "deployment.environment=tests")
    telemetry = traced()
    telemetry.call_ended(a_call(), "OK", 1.0)
    await telemetry.stop()
    monkeypatch.setenv("OTEL_SERVICE_NAME", "other-name")
    telemetry = traced()
    telemetry.call_ended(a_call(), "OK", 1.0)
    await telemetry.stop()
    first, second = received.resources
    assert first["service.name"] == "pairlens-server"
    assert first["service.version"]
    assert first["deployment.environment"] == "tests"
    assert second["service.name"] == "other-name"
    monkeypatch.setenv("OTEL_TRACES_SAMPLER", "always_off")
    telemetry = traced()
    telemetry.call_ended(a_call(), "OK", 1.0)
    await telemetry.stop()
    assert len(received.resources) == 2


async def test_no_exporter_and_one_that_is_not_installed(received, monkeypatch):
    monkeypatch.setenv("OTEL_TRACES_EXPORTER", "none")
    telemetry = traced()
    telemetry.call_ended(a_call(), "OK", 1.0)
    await telemetry.stop()
    assert received.spans == []
    monkeypatch.setenv("OTEL_TRACES_EXPORTER", "carrier-pigeon")
    with pytest.raises(ConfigurationError, match="no exporter carrier-pigeon of OpenTelemetry"):
        traced()


@pytest.mark.parametrize(
    ("variable", "value", "words"),
    [
        ("OTEL_EXPORTER_OTLP_TIMEOUT", "soon", "could not convert string to float: 'soon'"),
        ("OTEL_EXPORTER_OTLP_COMPRESSION", "zip", 'Invalid value "zip"'),
        ("OTEL_BSP_MAX_QUEUE_SIZE", "10", "max_export_batch_size must be less than"),
    ],
)
def test_a_variable_that_cannot_be_is_told(received, monkeypatch, variable, value, words):
    monkeypatch.setenv(variable, value)
    with pytest.raises(ConfigurationError, match=f"^tracing: {words}"):
        traced()


def test_a_propagator_that_is_not_there_is_told():
    # In a process of its own: their names are read when they are imported.
    program = "from pairlens_server.app import main; raise SystemExit(main(['--tracing', 'true']))"
    ran = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "OTEL_PROPAGATORS": "carrier-pigeon"},
        capture_output=True,
        text=True,
    )
    assert ran.returncode == 2
    told = "pairlens-server: tracing: Propagator carrier-pigeon not found"
    assert ran.stderr.splitlines()[-1].startswith(told)


async def test_a_collector_that_is_away_costs_a_call_nothing(monkeypatch):
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:1")
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "10")
    monkeypatch.setenv("OTEL_BSP_MAX_QUEUE_SIZE", "512")
    telemetry = traced()
    began_s = time.perf_counter()
    for _ in range(1000):
        telemetry.call_ended(a_call(), "OK", 1.0)
    assert time.perf_counter() - began_s < 10
    began_s = time.perf_counter()
    await telemetry.stop()
    assert time.perf_counter() - began_s < 5


def test_without_the_extra_tracing_is_refused_and_nothing_else_is():
    """In a process in which no module of OpenTelemetry's SDK can be imported."""
    program = """
import sys
class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.startswith("opentelemetry.sdk"):
            raise ImportError(name)
sys.meta_path.insert(0, Blocked())
from pairlens_server.telemetry.telemetry import Telemetry
from pairlens_server.errors import ConfigurationError
Telemetry(buckets_s=[1.0], log_calls="none", tracing=False)
assert "pairlens_server.telemetry.traces" not in sys.modules
try:
    Telemetry(buckets_s=[1.0], log_calls="none", tracing=True)
except ConfigurationError as error:
    print(error)
"""
    ran = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert ran.stdout == "tracing needs OpenTelemetry: pip install 'pairlens[otel]'\n"


async def test_no_thread_is_left_once_it_has_stopped(received):
    telemetry = traced()
    telemetry.call_ended(a_call(), "OK", 1.0)
    await telemetry.stop()
    end_s = time.monotonic() + LIMIT_S
    while any("Otel" in thread.name for thread in threading.enumerate()):
        assert time.monotonic() < end_s
        await asyncio.sleep(0.05)


def test_a_real_server_continues_the_trace_of_a_call(received, tmp_path):
    models = write_models(tmp_path, ["tiny-vit"])
    flags = ("--tracing", "true", "--log-format", "json")
    with server_process(models, tmp_path / "log.txt", *flags) as server:
        with grpc.insecure_channel(server.listening()) as channel:
            server.serving()
            request = explanation_service_pb2.ExplainRequest(model="tiny-vit", image=image(png(1)))
            request.method.rollout.SetInParent()
            explanation_service_pb2_grpc.ExplanationServiceStub(channel).Explain(
                request, timeout=60, metadata=(("traceparent", f"00-{TRACE}-{PARENT}-01"),)
            )
        received.until(2)
        assert server.stop() == 0
        log = server.read_log()
    (span,) = received.named("pairlens.v1.ExplanationService/Explain")
    assert (span.trace_id.hex(), span.parent_span_id.hex()) == (TRACE, PARENT)
    assert values(span.attributes)["pairlens.method"] == "rollout"
    stages = [s for s in received.spans if s.parent_span_id == span.span_id]
    assert {s.name for s in stages} == {
        *("cache_get", "decode", "queue", "compute", "cache_put", "method", "encode")
    }
    for stage in stages:
        assert span.start_time_unix_nano <= stage.start_time_unix_nano
        assert stage.end_time_unix_nano <= span.end_time_unix_nano
    assert TRACE in log
