import asyncio
import subprocess
import sys

import pytest

from pairlens import AsyncClient, Client, _tracing
from tests.client.scripted import Running, Scripted, png

trace = pytest.importorskip("opentelemetry.trace", reason="pairlens[otel] is not installed")
sdk = pytest.importorskip("opentelemetry.sdk.trace", reason="pairlens[otel] is not installed")

PROGRAM = """
import sys
import pairlens
from pairlens import _tracing
assert _tracing.metadata() == ()
print(sorted(name for name in sys.modules if "opentelemetry" in name and sys.modules[name]))
"""
BLOCKED = """
import sys
sys.modules["opentelemetry"] = None
"""


@pytest.fixture
def tracer():
    return sdk.TracerProvider().get_tracer("tests")


def test_nothing_without_a_span():
    assert _tracing.metadata() == ()


def test_the_active_span_is_the_parent(tracer):
    with tracer.start_as_current_span("search") as span:
        sent = dict(_tracing.metadata())
    ids = span.get_span_context()
    parent = f"00-{ids.trace_id:032x}-{ids.span_id:016x}-{ids.trace_flags:02x}"
    assert sent == {"traceparent": parent}
    assert ids.trace_flags.sampled
    assert _tracing.metadata() == ()


def test_what_is_not_recorded_says_so():
    sampler = pytest.importorskip("opentelemetry.sdk.trace.sampling").ALWAYS_OFF
    unsampled = sdk.TracerProvider(sampler=sampler).get_tracer("tests")
    with unsampled.start_as_current_span("search"):
        flags = dict(_tracing.metadata())["traceparent"].rpartition("-")[2]
    assert int(flags, 16) & trace.TraceFlags.SAMPLED == 0


def test_state_of_the_trace_goes_along():
    parent = trace.SpanContext(
        trace_id=1,
        span_id=2,
        is_remote=True,
        trace_flags=trace.TraceFlags(1),
        trace_state=trace.TraceState([("vendor", "x")]),
    )
    with trace.use_span(trace.NonRecordingSpan(parent)):
        assert dict(_tracing.metadata())["tracestate"] == "vendor=x"


def test_calls_join_the_trace(client: Client, service: Scripted, tracer):
    with tracer.start_as_current_span("search") as span:
        client.list_models()
        list(client.explain_many([png()] * 4, concurrency=2))
    parents = {str(metadata["traceparent"]) for metadata in service.metadata}
    assert len(service.metadata) >= 5
    ids = span.get_span_context()
    assert [parent.split("-")[1:3] for parent in parents] == [
        [f"{ids.trace_id:032x}", f"{ids.span_id:016x}"]
    ]
    client.list_models()
    assert "traceparent" not in service.metadata[-1]


async def test_awaited_calls_join_the_trace(server: Running, tracer):
    async with AsyncClient(server.target, timeout=10) as client:
        with tracer.start_as_current_span("search") as span:
            await asyncio.gather(client.list_models(), client.explain(png()))
    traces = {str(metadata["traceparent"])[3:35] for metadata in server.service.metadata}
    assert traces == {f"{span.get_span_context().trace_id:032x}"}


@pytest.mark.parametrize("program", [PROGRAM, BLOCKED + PROGRAM], ids=["installed", "absent"])
def test_programs_that_do_not_trace_load_nothing(program: str):
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (0, "[]\n"), done.stderr
