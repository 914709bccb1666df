"""What a server's parts are seen to do: a real engine, cache, registry and gate."""

import asyncio
import gc
import http.client
import logging
import threading
import time
import weakref
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
import torch
from prometheus_client import generate_latest

from pairlens_server.cache.memory import MemoryTier
from pairlens_server.cache.tiers import Cache
from pairlens_server.engine.engine import Engine, EngineSettings
from pairlens_server.engine.entry import BatchReport
from pairlens_server.models.registry import ModelRegistry
from pairlens_server.recording.primitives import Embedding
from pairlens_server.rpc.gate import Gate
from pairlens_server.telemetry.catalogue import CATALOGUE
from pairlens_server.telemetry.metric import Kind
from pairlens_server.telemetry.record import CallRecord, Stage
from pairlens_server.telemetry.state import Phase, ServerState
from pairlens_server.telemetry.telemetry import Telemetry
from tests.engine.conftest import Gate as Door
from tests.engine.conftest import started
from tests.server_process import Metrics
from tests.support import pixels, vit

LIMIT_S = 10
BUCKETS_S = (0.001, 0.1, 10.0)


def made(**options) -> Telemetry:
    return Telemetry(**{"buckets_s": BUCKETS_S, "log_calls": "none", "tracing": False, **options})


def metrics(telemetry: Telemetry) -> Metrics:
    return Metrics(generate_latest(telemetry.registry).decode())


async def until(telemetry: Telemetry, holds: Callable[[Metrics], bool]) -> Metrics:
    end_s = time.monotonic() + LIMIT_S
    while not holds(found := metrics(telemetry)):
        assert time.monotonic() < end_s
        await asyncio.sleep(0.02)
    return found


def a_call(rpc: str = "Explain", **fields) -> CallRecord:
    return CallRecord(f"/pairlens.v1.ExplanationService/{rpc}", "id", **fields)


def test_a_call_is_counted_once_under_bounded_labels():
    telemetry = made()
    call = a_call(model="m", method="rollout")
    for stage in (Stage.DECODE, Stage.DECODE, Stage.COMPUTE):
        call.begin(stage).end()
    telemetry.call_ended(call, "OK", 0.05)
    telemetry.call_ended(a_call(model="unknown", reason="MODEL_NOT_FOUND"), "NOT_FOUND", 0.0005)
    telemetry.call_ended(a_call("ListModels"), "CANCELLED", 0.2)
    found = metrics(telemetry)
    handled = "pairlens_rpc_handled_total"
    assert found.value(handled, rpc="Explain", code="OK") == 1
    assert found.value(handled, rpc="Explain", code="NOT_FOUND") == 1
    assert found.value(handled, rpc="ListModels", code="CANCELLED") == 1
    assert found.value(handled) == 3
    count, total = "pairlens_rpc_duration_seconds_count", "pairlens_rpc_duration_seconds_sum"
    assert found.value(count, rpc="Explain", model="m") == 1
    assert found.value(count, rpc="Explain", model="unknown") == 1
    assert found.value(count, rpc="ListModels", model="none") == 1
    assert found.value(total) == pytest.approx(0.2505)
    stages = found.series("pairlens_stage_duration_seconds_count")
    assert stages == {
        (("method", "rollout"), ("model", "m"), ("stage", "decode")): 1,
        (("method", "rollout"), ("model", "m"), ("stage", "compute")): 1,
    }
    assert found.value("pairlens_rejected_total", reason="MODEL_NOT_FOUND") == 1
    assert found.value("pairlens_rejected_total") == 1


@pytest.mark.parametrize(
    ("which", "codes"), [("all", ["OK", "NOT_FOUND"]), ("failed", ["NOT_FOUND"]), ("none", [])]
)
def test_which_calls_are_logged(which, codes, caplog):
    telemetry = made(log_calls=which)
    with caplog.at_level(logging.INFO):
        for code in ("OK", "NOT_FOUND"):
            telemetry.call_ended(a_call(), code, 0.1)
    assert [record.args[1] for record in caplog.records] == codes


def test_the_line_of_a_call(caplog):
    telemetry = made(log_calls="all")
    call = a_call(caller="me", peer="10.0.0.7", model="m", reason="QUEUE_FULL")
    call.begin(Stage.QUEUE).end()
    with caplog.at_level(logging.INFO):
        telemetry.call_ended(call, "RESOURCE_EXHAUSTED", 0.1234567)
    (record,) = caplog.records
    assert record.name == "pairlens.calls"
    assert record.getMessage() == "Explain RESOURCE_EXHAUSTED"
    told = record.fields()
    stages = told.pop("stages")
    assert told == {
        "rpc": "Explain",
        "code": "RESOURCE_EXHAUSTED",
        "reason": "QUEUE_FULL",
        "seconds": 0.123457,
        "client": "me",
        "peer": "10.0.0.7",
        "model": "m",
    }
    assert list(stages) == ["queue"]
    assert 0 <= stages["queue"] < LIMIT_S


def test_a_bug_is_a_warning(caplog):
    with caplog.at_level(logging.INFO):
        made(log_calls="all").call_ended(a_call(reason="INTERNAL"), "INTERNAL", 0.1)
    assert [record.levelname for record in caplog.records] == ["WARNING"]


def test_batches():
    telemetry = made()
    telemetry.batch_ended(BatchReport("m", 3, 4.5, 0.25, 1))
    telemetry.batch_ended(BatchReport("m", 16, 16.0, 0.5, 0))
    found = metrics(telemetry)
    assert found.value("pairlens_batch_size_sum", model="m") == 19
    assert found.value("pairlens_batch_size_bucket", model="m", le="4.0") == 1
    assert found.value("pairlens_batch_cost_units_sum", model="m") == 20.5
    assert found.value("pairlens_batch_duration_seconds_count", model="m") == 2
    assert found.value("pairlens_batch_failures_total", model="m") == 1
    assert found.value("pairlens_device_busy_seconds_total", model="m") == 0.75


def test_redis_and_models():
    telemetry = made()
    telemetry.redis_ended("get", 0.05, False)
    telemetry.redis_ended("put", 0.05, True)
    telemetry.model_changed("failed")
    found = metrics(telemetry)
    assert found.value("pairlens_redis_operation_seconds_count", operation="get") == 1
    assert found.value("pairlens_redis_operation_seconds_count") == 2
    assert found.value("pairlens_model_changes_total", change="failed") == 1
    assert found.value("pairlens_model_changes_total") == 1


def test_two_servers_in_a_process_count_apart():
    first, second = made(), made()
    first.call_ended(a_call(), "OK", 0.1)
    assert metrics(second).value("pairlens_rpc_handled_total") == 0


class Server:
    """The parts that are watched."""

    def __init__(
        self, telemetry: Telemetry, engine: Engine, registry: ModelRegistry, stall_s: float = 300
    ):
        self.engine = engine
        self.registry = registry
        self.cache = Cache(MemoryTier(50_000), MemoryTier(0))
        self.gate = Gate(1000)
        self.gate.open()
        self.state = ServerState(stall_s)
        telemetry.watch(
            engine=engine, cache=self.cache, registry=registry, gate=self.gate, state=self.state
        )


async def test_what_waits_and_runs_is_seen_while_it_does():
    telemetry, model = made(), vit()
    door = Door(model)
    engine = await started(model, max_batch=1)
    server = Server(telemetry, engine, ModelRegistry([model]))
    door.open.clear()
    calls = [
        asyncio.ensure_future(engine.record(model, picture, [Embedding()]))
        for picture in pixels(model, 4)
    ]
    found = await until(telemetry, lambda m: m.value("pairlens_queue_oldest_age_seconds") > 0.3)
    # One runs, and one is prepared behind it.
    assert found.value("pairlens_queue_depth", model=model.name) == 2
    assert found.value("pairlens_queue_limit") == engine.max_queued
    door.open.set()
    await asyncio.gather(*calls)
    found = await until(telemetry, lambda m: m.value("pairlens_queue_depth") == 0)
    assert found.value("pairlens_queue_oldest_age_seconds") == 0
    assert found.series("pairlens_queue_depth") == {(("model", model.name),): 0}
    await telemetry.stop()
    await engine.stop()
    assert server.state.live() == []


async def test_the_device_is_not_busy_while_the_event_loop_is():
    telemetry, model = made(), vit()
    door = Door(model)
    engine = Engine(EngineSettings(), observe=telemetry.batch_ended)
    await engine.start(lambda: [model])
    door.reset()
    door.open.clear()
    call = asyncio.ensure_future(engine.record(model, pixels(model, 1)[0], [Embedding()]))
    assert await asyncio.to_thread(door.entered.wait, LIMIT_S)
    await asyncio.sleep(0.2)
    door.open.set()
    time.sleep(2.0)  # the loop stands still, and the batch is long done
    await call
    found = metrics(telemetry)
    assert 0.2 <= found.value("pairlens_device_busy_seconds_total", model=model.name) < 1.5
    assert 0.2 <= found.value("pairlens_batch_duration_seconds_sum", model=model.name) < 1.5
    await engine.stop()


async def test_a_batch_that_hangs_is_known_to_livez():
    telemetry, model = made(), vit()
    door = Door(model)
    engine = await started(model)
    server = Server(telemetry, engine, ModelRegistry([model]), stall_s=0.5)
    door.open.clear()
    call = asyncio.ensure_future(engine.record(model, pixels(model, 1)[0], [Embedding()]))
    end_s = time.monotonic() + LIMIT_S
    while not (problems := server.state.live()):
        assert time.monotonic() < end_s
        await asyncio.sleep(0.02)
    assert problems[0].startswith("a batch has been on the device for ")
    door.open.set()
    await call
    while server.state.live():
        assert time.monotonic() < end_s
        await asyncio.sleep(0.02)
    await telemetry.stop()
    await engine.stop()


async def test_probes_tell_of_an_event_loop_that_hangs(monkeypatch):
    monkeypatch.setattr("pairlens_server.telemetry.state.SILENT_S", 0.5)
    telemetry, model = made(), vit()
    engine = await started(model)
    server = Server(telemetry, engine, ModelRegistry([model]))
    server.state.phase = Phase.SERVING
    address = telemetry.listen("127.0.0.1:0", server.state)

    def ask(path: str) -> tuple[int, str]:
        connection = http.client.HTTPConnection(address, timeout=LIMIT_S)
        connection.request("GET", path)
        answer = connection.getresponse()
        return answer.status, answer.read().decode()

    with ThreadPoolExecutor(1) as pool:
        for path in ("/livez", "/readyz"):
            assert await asyncio.wrap_future(pool.submit(ask, path)) == (200, "ok\n")
        time.sleep(1.0)  # the loop stands still
        for path in ("/livez", "/readyz"):
            status, text = pool.submit(ask, path).result(LIMIT_S)
            assert status == 503
            assert text.startswith("the event loop has been silent for ")
        assert metrics(telemetry).value("pairlens_ready") == 0
    await until(telemetry, lambda m: m.value("pairlens_ready") == 1)
    await telemetry.stop()
    await engine.stop()


async def test_gate_cache_models_and_state():
    telemetry, model = made(), vit()
    engine = await started(model)
    registry = ModelRegistry([model])
    server = Server(telemetry, engine, registry)
    with server.gate.admitted(300), server.gate.admitted(200):
        found = await until(telemetry, lambda m: m.value("pairlens_rpcs_in_flight") == 2)
        assert found.value("pairlens_request_bytes_in_flight") == 500
    assert found.value("pairlens_request_bytes_limit") == 1000
    assert found.value("pairlens_cache_bytes_limit", kind="activation") == 50_000
    (labels,) = found.series("pairlens_model_info")
    assert dict(labels) == {
        "model": model.name,
        "architecture": model.architecture,
        "family": "vit",
        "fingerprint": model.fingerprint,
        "dtype": "float32",
        "device": "cpu",
    }
    assert not found.series("pairlens_redis_up")
    assert not found.series("pairlens_device_memory_bytes")
    assert (found.value("pairlens_ready"), found.value("pairlens_draining")) == (0, 0)
    server.state.phase = Phase.SERVING
    assert metrics(telemetry).value("pairlens_ready") == 1
    server.state.phase = Phase.DRAINING
    found = metrics(telemetry)
    assert (found.value("pairlens_ready"), found.value("pairlens_draining")) == (0, 1)
    registry.serve([])
    await until(telemetry, lambda m: not m.series("pairlens_model_info"))
    await telemetry.stop()
    await engine.stop()


async def test_a_snapshot_keeps_no_model_alive():
    telemetry, model = made(), vit()
    engine = await started(vit())
    registry = ModelRegistry([model])
    Server(telemetry, engine, registry)
    gone = threading.Event()
    weakref.finalize(model, gone.set)
    registry.serve([])
    await until(telemetry, lambda m: not m.series("pairlens_model_info"))
    del model
    gc.collect()
    assert gone.is_set()
    await telemetry.stop()
    await engine.stop()


async def test_the_lag_of_the_event_loop_is_seen():
    telemetry, model = made(), vit()
    engine = await started(model)
    Server(telemetry, engine, ModelRegistry([model]))
    await until(telemetry, lambda m: m.value("pairlens_event_loop_lag_seconds_count") > 0)
    time.sleep(0.8)  # the loop stands still
    name = "pairlens_event_loop_lag_seconds_sum"
    await until(telemetry, lambda m: m.value(name) > 0.4)
    await telemetry.stop()
    await engine.stop()


async def test_a_look_that_fails_does_not_stop_the_heart(caplog):
    telemetry, model = made(), vit()
    engine = await started(model)
    server = Server(telemetry, engine, ModelRegistry([model]))

    def broken() -> None:
        raise ValueError("no queue")

    engine.queue = broken
    end_s = time.monotonic() + LIMIT_S
    while "no queue" not in caplog.text:
        assert time.monotonic() < end_s
        await asyncio.sleep(0.02)
    beat_s = server.state._beat_s
    while server.state._beat_s == beat_s:
        assert time.monotonic() < end_s
        await asyncio.sleep(0.02)
    await telemetry.stop()
    await engine.stop()


async def test_every_metric_of_the_catalogue_is_exported():
    telemetry, model = made(), vit()
    engine = await started(model)
    Server(telemetry, engine, ModelRegistry([model]))
    exported = {
        family.name + ("_total" if family.type == "counter" else ""): family
        for family in metrics(telemetry).families.values()
    }
    # Absent where there is no Redis.
    here = [m for m in CATALOGUE if not m.name.startswith("pairlens_redis_") or m.buckets]
    for metric in here:
        family = exported[metric.name]
        assert family.type == metric.kind.value
        assert family.documentation == metric.help
    own = {name for name in exported if name.startswith("pairlens_")}
    assert own == {metric.name for metric in here}
    assert {"process_resident_memory_bytes", "python_info"} <= set(exported)
    assert all(metric.kind is not Kind.COUNTER or metric.name in exported for metric in here)
    await telemetry.stop()
    await engine.stop()


async def test_it_ends_with_its_threads():
    before = set(threading.enumerate())
    telemetry = made()
    address = telemetry.listen("127.0.0.1:0", ServerState(300))
    assert not address.endswith(":0")
    assert {thread.name for thread in set(threading.enumerate()) - before} == {"metrics"}
    await telemetry.stop()
    assert "metrics" not in {thread.name for thread in set(threading.enumerate()) - before}


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")
async def test_memory_of_the_gpu():
    telemetry = made()
    model = replace(vit(projection=None), device=torch.device("cuda:0"))
    model.network.cuda()
    engine = await started(model)
    Server(telemetry, engine, ModelRegistry([model]))
    found = metrics(telemetry)
    name = "pairlens_device_memory_bytes"
    kinds = [found.value(name, device="cuda:0", kind=k) for k in ("allocated", "reserved", "total")]
    assert 0 < kinds[0] <= kinds[1] < kinds[2]
    assert kinds[2] == torch.cuda.get_device_properties(0).total_memory
    await telemetry.stop()
    await engine.stop()
