"""What a real server says of itself, after calls that are known."""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import grpc
import pytest

from pairlens.v1 import (
    admin_service_pb2,
    admin_service_pb2_grpc,
    common_pb2,
    explanation_service_pb2,
    explanation_service_pb2_grpc,
    image_service_pb2,
    image_service_pb2_grpc,
    model_service_pb2,
    model_service_pb2_grpc,
)
from pairlens_server.telemetry.catalogue import CATALOGUE
from pairlens_server.telemetry.labels import CHANGES
from tests.contract.support import image, png
from tests.contract.uploads import digest_of
from tests.redis_server import redis_server
from tests.server_process import Metrics, ServerProcess, server_process, write_models

VIT, CLS = "tiny-vit", "tiny-vit-cls"
TIMEOUT_S = 60
TOKEN = "Bearer a-token-that-nobody-may-see"
CACHE_BYTES = 50_000_000


class Calls:
    """Stubs of all services; answers the codes that calls end with."""

    def __init__(self, target: str):
        self.channel = grpc.insecure_channel(target, options=[("grpc.enable_retries", 0)])
        self.explanations = explanation_service_pb2_grpc.ExplanationServiceStub(self.channel)
        self.models = model_service_pb2_grpc.ModelServiceStub(self.channel)
        self.images = image_service_pb2_grpc.ImageServiceStub(self.channel)
        self.admin = admin_service_pb2_grpc.AdminServiceStub(self.channel)

    def explain(self, model: str, data: bytes, *, times: int = 1, **fields) -> str:
        request = explanation_service_pb2.ExplainRequest(model=model, image=image(data))
        request.method.rollout.SetInParent()
        for _ in range(times):
            code = self.code(self.explanations.Explain, request, **fields)
        return code

    def pair(self, query: bytes, *candidates: bytes, overlay: bool = False, **fields):
        request = explanation_service_pb2.PairSimilarityRequest(
            model=VIT,
            query=image(query),
            candidates=[image(candidate) for candidate in candidates],
            method={"pooled_decomposition": {}},
            rendering={"overlay": overlay},
        )
        return self.explanations.PairSimilarity.future(request, **{"timeout": TIMEOUT_S, **fields})

    @staticmethod
    def code(call: Callable, request, **fields) -> str:
        try:
            call(request, **{"timeout": TIMEOUT_S, **fields})
        except grpc.RpcError as error:
            return error.code().name
        return "OK"


@dataclass
class Seen:
    """A server whose calls are known.

    Attributes:
        server: The server, which is still there.
        before, after: What it said before and after the calls.
    """

    server: ServerProcess
    before: Metrics
    after: Metrics

    def grown(self, name: str, **labels: str) -> float:
        return self.after.value(name, **labels) - self.before.value(name, **labels)


@pytest.fixture(scope="module")
def server(tmp_path_factory) -> Iterator[ServerProcess]:
    folder = tmp_path_factory.mktemp("observed")
    (folder / "redis").mkdir()
    with redis_server(folder / "redis") as redis:
        flags = (
            *("--metrics-listen", "127.0.0.1:0", "--log-format", "json"),
            *("--redis-url", f"redis://127.0.0.1:{redis.port}/0"),
            *("--cache-bytes", str(CACHE_BYTES), "--latency-buckets-s", "0.001,0.5,60"),
        )
        models = write_models(folder, [VIT, CLS])
        with server_process(models, folder / "log.txt", *flags) as server:
            server.listening()
            server.metrics_address()
            server.serving()
            yield server
            assert server.stop() == 0, server.read_log()


@pytest.fixture(scope="module")
def calls(server) -> Iterator[Calls]:
    made = Calls(server.target)
    yield made
    made.channel.close()


def until(server: ServerProcess, holds: Callable[[Metrics], bool]) -> Metrics:
    end_s = time.monotonic() + 20
    while not holds(found := server.scrape()):
        assert time.monotonic() < end_s, found.families
        time.sleep(0.05)
    return found


@pytest.fixture(scope="module")
def seen(server, calls) -> Seen:
    before = server.scrape()
    first, second, uploaded = png(1), png(2), png(3)
    assert calls.explain(VIT, first, times=3) == "OK"
    assert calls.pair(first, second).result()
    assert calls.explain(CLS, first) == "OK"
    assert calls.explain("no-such-model", first) == "NOT_FOUND"
    assert calls.explain("x" * 500, first) == "NOT_FOUND"
    assert calls.explain(VIT, b"no picture") == "INVALID_ARGUMENT"
    embed = explanation_service_pb2.EmbedRequest(model=VIT, images=[image(second)])
    assert calls.code(calls.explanations.Embed, embed) == "OK"
    warm = explanation_service_pb2.WarmRequest(model=VIT, images=[image(png(4))])
    assert calls.code(calls.explanations.Warm, warm) == "OK"
    models = model_service_pb2
    assert calls.code(calls.models.ListModels, models.ListModelsRequest()) == "OK"
    assert calls.code(calls.models.GetModel, models.GetModelRequest(model=VIT)) == "OK"
    upload = image_service_pb2.UploadImagesRequest(images=[{"data": uploaded}])
    assert calls.code(calls.images.UploadImages, upload) == "OK"
    find = image_service_pb2.FindMissingImagesRequest(digests=[digest_of(uploaded)])
    assert calls.code(calls.images.FindMissingImages, find) == "OK"
    admin = admin_service_pb2
    assert calls.code(calls.admin.GetCacheStats, admin.GetCacheStatsRequest()) == "OK"
    assert calls.code(calls.admin.ReloadModels, admin.ReloadModelsRequest()) == "OK"
    # What is written to Redis in the background, and what is looked at now and then.
    after = until(
        server,
        lambda m: (
            m.value("pairlens_redis_queued_bytes") == 0
            and m.value("pairlens_cache_stored_total", tier="redis")
            == m.value("pairlens_cache_stored_total", tier="memory")
            # The upload was the last call to store anything.
            and m.value("pairlens_cache_entries", kind="image") > 0
            and m.value("pairlens_rpcs_in_flight") == 0
        ),
    )
    return Seen(server, before, after)


HANDLED = {
    ("Explain", "OK"): 4,
    ("Explain", "NOT_FOUND"): 2,
    ("Explain", "INVALID_ARGUMENT"): 1,
    ("PairSimilarity", "OK"): 1,
    ("Embed", "OK"): 1,
    ("Warm", "OK"): 1,
    ("ListModels", "OK"): 1,
    ("GetModel", "OK"): 1,
    ("UploadImages", "OK"): 1,
    ("FindMissingImages", "OK"): 1,
    ("GetCacheStats", "OK"): 1,
    ("ReloadModels", "OK"): 1,
}

# Metric, labels, and what has come to it; a pair is a range.
ROWS: list[tuple[str, dict[str, str], float | tuple[float, float]]] = [
    *(("rpc_handled_total", {"rpc": r, "code": c}, n) for (r, c), n in HANDLED.items()),
    ("rpc_handled_total", {}, sum(HANDLED.values())),
    ("rpc_duration_seconds_count", {"rpc": "Explain", "model": VIT}, 4),
    ("rpc_duration_seconds_count", {"rpc": "Explain", "model": CLS}, 1),
    ("rpc_duration_seconds_count", {"rpc": "Explain", "model": "unknown"}, 2),
    ("rpc_duration_seconds_count", {"rpc": "GetModel", "model": VIT}, 1),
    ("rpc_duration_seconds_count", {"rpc": "ListModels", "model": "none"}, 1),
    ("rpc_duration_seconds_count", {}, sum(HANDLED.values())),
    ("rpc_duration_seconds_bucket", {"le": "60.0"}, sum(HANDLED.values())),
    ("rpc_duration_seconds_sum", {}, (0.001, 60)),
    # One observation for each call and stage that occurred in it: the picture that is none was
    # looked at, and the second and the third call found all in memory.
    ("stage_duration_seconds_count", {"stage": "decode", "method": "rollout", "model": VIT}, 2),
    ("stage_duration_seconds_count", {"stage": "queue", "method": "rollout", "model": VIT}, 1),
    ("stage_duration_seconds_count", {"stage": "compute", "method": "rollout", "model": VIT}, 1),
    ("stage_duration_seconds_count", {"stage": "method", "method": "rollout", "model": VIT}, 3),
    ("stage_duration_seconds_count", {"stage": "encode", "method": "rollout", "model": VIT}, 3),
    ("stage_duration_seconds_count", {"stage": "cache_get", "method": "rollout", "model": VIT}, 4),
    ("stage_duration_seconds_count", {"stage": "cache_put", "method": "rollout", "model": VIT}, 1),
    ("stage_duration_seconds_count", {"method": "rollout", "model": CLS, "stage": "compute"}, 1),
    ("stage_duration_seconds_count", {"method": "pooled_decomposition", "stage": "compute"}, 1),
    ("stage_duration_seconds_count", {"method": "none", "stage": "compute"}, 1),
    ("stage_duration_seconds_count", {"model": "none", "stage": "decode"}, 1),
    ("stage_duration_seconds_count", {"model": "none", "stage": "cache_put"}, 1),
    ("stage_duration_seconds_count", {"model": "unknown"}, 0),
    ("rejected_total", {"reason": "MODEL_NOT_FOUND"}, 2),
    ("rejected_total", {"reason": "IMAGE_UNDECODABLE"}, 1),
    ("rejected_total", {}, 3),
    # Explain of one picture; the pair's two, whose activations are others; one to embed from the
    # pair's, one to warm; and that of the other model.
    ("batch_size_sum", {"model": VIT}, 4),
    ("batch_size_sum", {"model": CLS}, 1),
    ("batch_size_count", {"model": CLS}, 1),
    ("batch_cost_units_count", {"model": CLS}, 1),
    ("batch_cost_units_sum", {"model": CLS}, (1, 3)),
    ("batch_duration_seconds_count", {"model": CLS}, 1),
    ("batch_duration_seconds_bucket", {"model": CLS, "le": "60.0"}, 1),
    ("batch_failures_total", {}, 0),
    ("device_busy_seconds_total", {"model": CLS}, (1e-6, 60)),
    ("cache_requests_total", {"tier": "memory", "kind": "image"}, 0),
    ("cache_requests_total", {"result": "corrupt"}, 0),
    ("cache_stored_total", {"tier": "memory", "kind": "image"}, 1),
    ("cache_dropped_total", {}, 0),
    ("cache_evicted_total", {}, 0),
    ("redis_errors_total", {}, 0),
    ("redis_operation_seconds_count", {"operation": "present"}, 1),
    ("redis_operation_seconds_count", {"operation": "get"}, (4, 20)),
    ("redis_operation_seconds_count", {"operation": "put"}, (4, 20)),
    ("redis_operation_seconds_count", {"operation": "clear"}, 0),
    ("model_changes_total", {}, 0),
    ("event_loop_lag_seconds_count", {}, (0, 10_000)),
    ("log_lines_dropped_total", {}, 0),
]

# What is there at the end, and not what has come to it.
STANDING: list[tuple[str, dict[str, str], float | tuple[float, float]]] = [
    ("rpcs_in_flight", {}, 0),
    ("request_bytes_in_flight", {}, 0),
    ("request_bytes_limit", {}, 2**30),
    ("queue_depth", {"model": VIT}, 0),
    ("queue_depth", {"model": CLS}, 0),
    ("queue_limit", {}, 512),
    ("queue_oldest_age_seconds", {}, 0),
    ("cache_entries", {"kind": "image"}, 1),
    ("cache_bytes", {"kind": "image"}, (len(png(3)), len(png(3)) + 2048)),
    ("cache_bytes", {"kind": "activation"}, (1, CACHE_BYTES)),
    ("cache_bytes_limit", {"kind": "activation"}, CACHE_BYTES),
    ("cache_bytes_limit", {"kind": "image"}, 2**28),
    ("redis_up", {}, 1),
    ("redis_queued_bytes", {}, 0),
    ("redis_queued_bytes_limit", {}, (2**20, 2**40)),
    ("model_info", {"model": VIT, "dtype": "float32", "device": "cpu", "family": "vit"}, 1),
    ("model_info", {}, 2),
    ("build_info", {}, 1),
    ("device_memory_bytes", {}, 0),  # none on the CPU
    ("ready", {}, 1),
    ("draining", {}, 0),
    ("threads", {}, (5, 500)),
    ("tls_certificate_not_after_seconds", {}, 0),  # none without TLS
]


def check(found: float, expected: float | tuple[float, float]) -> None:
    if isinstance(expected, tuple):
        assert expected[0] <= found <= expected[1]
    else:
        assert found == expected


def title(row) -> str:
    return f"{row[0]}{row[1]}"


@pytest.mark.parametrize("row", ROWS, ids=title)
def test_what_is_counted(seen, row):
    name, labels, expected = row
    check(seen.grown(f"pairlens_{name}", **labels), expected)


@pytest.mark.parametrize("row", STANDING, ids=title)
def test_what_is_there(seen, row):
    name, labels, expected = row
    check(seen.after.value(f"pairlens_{name}", **labels), expected)


def test_no_metric_is_without_a_row():
    tested = {re.sub(r"_(count|sum|bucket)$", "", f"pairlens_{row[0]}") for row in ROWS + STANDING}
    assert tested == {metric.name for metric in CATALOGUE}


def test_every_metric_is_there_under_its_name(seen):
    exported = {
        family.name + ("_total" if family.type == "counter" else "")
        for family in seen.after.families.values()
    }
    assert {metric.name for metric in CATALOGUE} <= exported


def test_a_hit_is_what_memory_or_redis_had(seen, calls, server):
    """A second call finds all that it looks up, in memory; another server would in Redis."""

    def requests(metrics: Metrics) -> dict[tuple[str, str], float]:
        name = "pairlens_cache_requests_total"
        return {
            (tier, result): metrics.value(name, tier=tier, result=result)
            for tier in ("memory", "redis")
            for result in ("hit", "miss")
        }

    def settled() -> dict[tuple[str, str], float]:
        end_s, found = time.monotonic() + 20, requests(server.scrape())
        while True:
            time.sleep(0.6)
            last, found = found, requests(server.scrape())
            if found == last:
                return found
            assert time.monotonic() < end_s

    before = settled()
    assert calls.explain(VIT, png(50)) == "OK"
    cold = settled()
    assert calls.explain(VIT, png(50)) == "OK"
    warm = settled()
    missed = cold["memory", "miss"] - before["memory", "miss"]
    assert missed > 0
    # Redis was asked for what memory had not, and had it neither.
    assert cold["redis", "miss"] - before["redis", "miss"] == missed
    assert warm["memory", "hit"] - cold["memory", "hit"] >= missed
    assert warm["memory", "miss"] == cold["memory", "miss"]
    assert {k: v for k, v in warm.items() if k[0] == "redis"} == {
        k: v for k, v in cold.items() if k[0] == "redis"
    }


def test_labels_are_those_of_the_catalogue(seen):
    labels = {metric.name: metric.labels for metric in CATALOGUE}
    checked = 0
    for family in seen.after.families.values():
        for sample in family.samples:
            known = labels.get(re.sub(r"_(count|sum|bucket)$", "", sample.name))
            known = labels.get(sample.name, known)
            if known is None:
                continue
            assert set(sample.labels) - {"le"} == {label.name for label in known}
            for label in known:
                if not isinstance(label.values, str):
                    assert sample.labels[label.name] in label.values
                    checked += 1
    assert checked > 200


def test_stages_add_up_to_no_more_than_the_calls(seen):
    stages = seen.grown("pairlens_stage_duration_seconds_sum", model=CLS)
    assert 0 < stages <= seen.grown("pairlens_rpc_duration_seconds_sum", model=CLS)


def test_buckets_are_those_that_were_set(seen):
    name = "pairlens_rpc_duration_seconds_bucket"
    bounds = {dict(labels)["le"] for labels in seen.after.series(name)}
    assert bounds == {"0.001", "0.5", "60.0", "+Inf"}


def test_a_call_that_is_given_up_is_told_as_what_it_is(seen, calls, server):

    def handled(metrics: Metrics, code: str) -> float:
        return metrics.value("pairlens_rpc_handled_total", rpc="PairSimilarity", code=code)

    many = [png(seed, 700, 700) for seed in range(199, 230)]
    for code, timeout in (("CANCELLED", TIMEOUT_S), ("DEADLINE_EXCEEDED", 0.5)):
        before = handled(server.scrape(), code)
        call = calls.pair(*many, overlay=True, timeout=timeout)
        if code == "CANCELLED":
            until(server, lambda m: m.value("pairlens_rpcs_in_flight") == 1)
            call.cancel()
        until(server, lambda m, c=code, b=before: handled(m, c) == b + 1)
        until(server, lambda m: m.value("pairlens_rpcs_in_flight") == 0)
    # What it had done by then is counted, too.
    name = "pairlens_stage_duration_seconds_count"
    assert server.scrape().value(name, stage="decode", method="pooled_decomposition") >= 2


def test_what_waits_is_seen_while_it_does(seen, calls, server):
    many = [png(seed) for seed in range(1000, 1060)]
    with ThreadPoolExecutor(8) as pool:
        jobs = [pool.submit(lambda: calls.pair(*many).result()) for _ in range(1)]
        jobs += [
            pool.submit(lambda n: calls.pair(*(png(s) for s in range(n, n + 60))).result(), number)
            for number in range(2000, 2700, 100)
        ]
        until(
            server,
            lambda m: (
                m.value("pairlens_queue_depth", model=VIT) > 0
                and m.value("pairlens_queue_oldest_age_seconds") > 0
                and m.value("pairlens_request_bytes_in_flight") > 0
            ),
        )
        for job in jobs:
            assert len(job.result().results) >= 59
    until(server, lambda m: m.value("pairlens_queue_depth") == 0)


def log_lines(server: ServerProcess) -> list[dict]:
    return [json.loads(line) for line in server.read_log().splitlines()]


def line_of(server: ServerProcess, request_id: str) -> dict:
    end_s = time.monotonic() + 10
    while True:
        found = [line for line in log_lines(server) if line.get("request_id") == request_id]
        if found:
            (line,) = found
            return line
        assert time.monotonic() < end_s
        time.sleep(0.05)


def test_the_log_has_a_line_for_each_call_and_nothing_of_what_was_in_it(seen, calls, server):
    data = png(777)
    metadata = (
        *(("x-request-id", "my-call-1"), ("authorization", TOKEN)),
        *(("pairlens-client", "the-tests"), ("cookie", "secret-cookie")),
    )
    request = explanation_service_pb2.ExplainRequest(model=VIT, image=image(data))
    request.target.label = "a-label-in-the-request"
    assert calls.code(calls.explanations.Explain, request, metadata=metadata) != "OK"
    line = line_of(server, "my-call-1")
    assert line["logger"] == "pairlens.calls"
    assert (line["rpc"], line["client"], line["peer"]) == ("Explain", "the-tests", "127.0.0.1")
    assert line["code"] == "INVALID_ARGUMENT"
    assert line["reason"] == "INVALID_PARAMETER"
    assert line["model"] == VIT
    assert 0 < line["seconds"] < TIMEOUT_S
    assert calls.explain(VIT, data, metadata=(("x-request-id", "my-call-2"),)) == "OK"
    assert set(line_of(server, "my-call-2")["stages"]) == {
        *("cache_get", "decode", "queue", "compute", "cache_put", "method", "encode")
    }
    log = server.read_log()
    for secret in (TOKEN[7:], "secret-cookie", "a-label-in-the-request", "PNG", "IHDR", "x" * 100):
        assert secret not in log
    assert data.hex()[:40] not in log


def test_request_ids_come_back(seen, calls, server):
    request = model_service_pb2.GetModelRequest(model=VIT)
    hostile = ["", "x" * 65, '{"a": "b"}', "id] ERROR root: all is lost [x"]
    for sent in hostile:
        _, call = calls.models.GetModel.with_call(
            request, timeout=TIMEOUT_S, metadata=(("x-request-id", sent),)
        )
        returned = dict(call.trailing_metadata())["x-request-id"]
        kept = 1 <= len(sent) <= 64
        assert returned == sent if kept else re.fullmatch("[0-9a-f]{16}", returned)
        assert line_of(server, returned)["rpc"] == "GetModel"


def test_the_answer_holds_its_request_id(seen, calls):
    sent = (("x-request-id", "timed"),)
    stub = calls.explanations
    first = image(png(1))
    answers = [
        stub.Explain(
            explanation_service_pb2.ExplainRequest(model=VIT, image=first),
            metadata=sent,
            timeout=60,
        ),
        stub.PairSimilarity(
            explanation_service_pb2.PairSimilarityRequest(
                model=VIT, query=first, candidates=[first, common_pb2.Image(inline=b"none")]
            ),
            metadata=sent,
            timeout=60,
        ),
        stub.Embed(
            explanation_service_pb2.EmbedRequest(model=VIT, images=[first]),
            metadata=sent,
            timeout=60,
        ),
        stub.Warm(
            explanation_service_pb2.WarmRequest(model=VIT, images=[first]),
            metadata=sent,
            timeout=60,
        ),
    ]
    assert [answer.timing.request_id for answer in answers] == ["timed"] * 4


def test_the_probes(seen, server):
    assert server.get("/livez") == (200, "ok\n")
    assert server.get("/readyz") == (200, "ok\n")
    assert server.get("/elsewhere")[0] == 404


@pytest.fixture
def unread(tmp_path) -> Iterator[Path]:
    """A pipe that is open, and never read."""
    path = tmp_path / "pipe"
    os.mkfifo(path)
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    yield path
    os.close(reader)


def test_a_log_that_nobody_reads_holds_up_no_call(tmp_path, unread):
    models = write_models(tmp_path, [VIT])
    flags = ("--metrics-listen", "127.0.0.1:0", "--log-format", "json")
    with server_process(models, unread, *flags) as server:
        calls = Calls(server.listening())
        server.metrics_address()
        server.serving()
        request = model_service_pb2.GetModelRequest(model="none-of-that-name")
        with ThreadPoolExecutor(4) as pool:
            # More than the pipe and the queue before it hold.
            codes = set(pool.map(lambda _: calls.code(calls.models.GetModel, request), range(2600)))
        assert codes == {"NOT_FOUND"}
        assert calls.explain(VIT, png(1)) == "OK"
        found = until(server, lambda m: m.value("pairlens_log_lines_dropped_total") > 0)
        assert found.value("pairlens_rpc_handled_total", rpc="GetModel") == 2600
        assert server.get("/livez") == (200, "ok\n")
        assert server.stop() == 0
        calls.channel.close()


def test_model_changes_are_counted_and_a_full_disk_under_the_log_fails_no_call(tmp_path):
    if not Path("/dev/full").exists():
        pytest.skip("/dev/full is not there")
    models = write_models(tmp_path, [VIT])
    flags = ("--metrics-listen", "127.0.0.1:0")
    with server_process(models, Path("/dev/full"), *flags) as server:
        calls = Calls(server.listening())
        server.metrics_address()
        server.serving()
        assert calls.explain(VIT, png(1), times=5) == "OK"
        reload, info = admin_service_pb2.ReloadModelsRequest(), "pairlens_model_info"
        for served in ([VIT, CLS], [CLS]):
            write_models(tmp_path, served)
            assert calls.code(calls.admin.ReloadModels, reload) == "OK"
        found = until(server, lambda m: m.value(info, model=CLS) == 1 == m.value(info))
        assert found.series("pairlens_queue_depth") == {(("model", CLS),): 0}
        name = "pairlens_model_changes_total"
        changes = {c: found.value(name, change=c) for c in CHANGES}
        assert changes == {"added": 1, "removed": 1, "replaced": 0, "failed": 0}
        until(server, lambda m: m.value("pairlens_log_lines_dropped_total") >= 8)
        assert server.stop() == 0
        calls.channel.close()
