"""What a server gives over gRPC, against plain forward passes and against calls that do nothing.

Server, clients and baseline are never at work at the same time, and the server's torch has as
many threads as the baseline's.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import grpc

from pairlens.v1 import explanation_service_pb2 as contract
from pairlens.v1.explanation_service_pb2_grpc import ExplanationServiceStub
from tests.benchmark import caller
from tests.benchmark.empty_server import METHOD
from tests.benchmark.measure import Action, Row, compare, compare_medians
from tests.benchmark.photographs import DIFFERENT, by_digest, photograph
from tests.benchmark.served import (
    Served,
    calling,
    decoded,
    plain_forwards,
    plain_model,
    python_process,
    serving,
    vit_entry,
)

CANDIDATES = 64
# Mean pooled, so that PooledDecomposition, the default of pairs, takes it.
VIT_BASE = vit_entry("vit-base", "vit_base_patch16_224", 256, pooling="avg")
VIT_BASE_ON_GPU = {**VIT_BASE, "device": "cuda", "dtype": "bfloat16"}
VIT_SMALL = vit_entry("vit-small", "vit_small_patch16_224")
VIT_BASE_224_ON_GPU = vit_entry("vit-base", "vit_base_patch16_224", device="cuda", dtype="bfloat16")

_WRITTEN_TIMEOUT_S = 60.0
_POLL_S = 0.2
_PLAIN_PAIRS_ON_GPU = 8  # in a run: one takes too little time to measure
_GPU_CLIENTS = 64
_CALL_TIMEOUT_S = 120.0


def warm_pair_rows(quick: bool) -> list[Row]:
    """Pairs whose pictures are in the server's own memory."""
    return [_warm_pairs(VIT_BASE, "local tier", 300.0, quick)]


def warm_pair_redis_rows(quick: bool) -> list[Row]:
    """Pairs whose pictures are in Redis alone."""
    with only_redis() as flags:
        return [_warm_pairs(VIT_BASE, "Redis as the only tier", 100.0, quick, *flags)]


def warm_pair_gpu_rows(quick: bool) -> list[Row]:
    """The same where the plain forward passes have a GPU."""
    return [_warm_pairs(VIT_BASE_ON_GPU, "local tier", None, quick)]


def warm_pair_redis_gpu_rows(quick: bool) -> list[Row]:
    """The same with Redis alone."""
    with only_redis() as flags:
        return [_warm_pairs(VIT_BASE_ON_GPU, "Redis as the only tier", None, quick, *flags)]


@contextmanager
def only_redis() -> Iterator[tuple[str, ...]]:
    """A Redis, and flags of a server that keeps nothing elsewhere."""
    # Here, since it needs packages that a machine with a GPU may lack.
    from tests.redis_server import redis_server

    with TemporaryDirectory() as folder, redis_server(Path(folder)) as redis:
        yield ("--cache-bytes", "0", "--image-cache-bytes", "0", "--redis-url", redis.url)


def _device(model: Mapping[str, Any]) -> str:
    return f"{model['dtype']} on a GPU" if "dtype" in model else "CPU"


def _warm_pairs(
    model: Mapping[str, Any], tier: str, aim: float | None, quick: bool, *flags: str
) -> Row:
    files = [photograph(number) for number in range(CANDIDATES + 1)]
    request = contract.PairSimilarityRequest(
        model=model["name"],
        query=by_digest(files[0]),
        candidates=[by_digest(data) for data in files[1:]],
    )
    plain = plain_model(model)
    pairs = _PLAIN_PAIRS_ON_GPU if plain.device.type == "cuda" else 1
    baseline = plain_forwards(plain, decoded(plain, files[:2]), 1, 2 * pairs)
    with serving(model, *flags) as server:
        server.upload(files)
        call = _pairs_by_digest(server, request)
        _wait_until_warm(call)
        missed: list[int] = []

        def ours() -> None:
            answer = call()
            missed.append(answer.timing.images - answer.timing.cached_images)

        row = compare(
            f"pairs with both pictures cached, {tier}, 1 query and {CANDIDATES} candidates a call "
            f"over gRPC, ViT-B/16 at 256, {_device(model)} vs two plain timm forwards a pair",
            ours,
            baseline,
            repeats=7 if quick else 31,
            aim=aim,
            better="higher",
            works=(CANDIDATES, pairs),
        )
    assert not any(missed), f"pictures that were not cached, by call: {missed}"
    return row


def _pairs_by_digest(
    server: Served, request: contract.PairSimilarityRequest
) -> Callable[[], contract.PairSimilarityResponse]:
    stub = ExplanationServiceStub(server.channel)

    def call() -> contract.PairSimilarityResponse:
        answer: contract.PairSimilarityResponse = stub.PairSimilarity(
            request, timeout=_CALL_TIMEOUT_S
        )
        assert all(result.HasField("match") for result in answer.results)
        return answer

    return call


def _wait_until_warm(call: Callable[[], contract.PairSimilarityResponse]) -> None:
    """Values reach Redis some time after the answer that they were computed for."""
    end = time.monotonic() + _WRITTEN_TIMEOUT_S
    while (timing := call().timing).cached_images < timing.images:
        assert time.monotonic() < end, f"still not cached: {timing}"
        time.sleep(_POLL_S)


@dataclass(frozen=True)
class _Load:
    """A way to ask for cold explanations.

    Attributes:
        model: Entry of the models file.
        title: Of the model, in the row's name.
        clients: That call at the same time.
        batches: Sizes of batches that the baseline is tried with.
        count: Pictures of a run, the quick one and the full one.
        flags: Of the server.
    """

    model: Mapping[str, Any]
    title: str
    clients: int
    batches: tuple[int, ...]
    count: tuple[int, int]
    flags: tuple[str, ...] = ()


def throughput_rows(quick: bool) -> list[Row]:
    """Cold explanations of eight clients."""
    load = _Load(VIT_SMALL, "ViT-S/16, CPU", 8, (8, 16), (48, 128))
    return [_throughput(load, 0.80, quick)]


def throughput_gpu_rows(quick: bool) -> list[Row]:
    """The same on a GPU, and with as many clients as fill it."""
    title = f"ViT-B/16, {_device(VIT_BASE_224_ON_GPU)}"
    eight = _Load(VIT_BASE_224_ON_GPU, title, 8, (8, 16), (1024, 2048))
    many = _Load(
        VIT_BASE_224_ON_GPU,
        title,
        _GPU_CLIENTS,
        (16, _GPU_CLIENTS),
        (2048, 4096),
        ("--max-batch", str(_GPU_CLIENTS), "--image-threads", "8"),
    )
    return [_throughput(load, None, quick) for load in (eight, many)]


def _throughput(load: _Load, aim: float | None, quick: bool) -> Row:
    count = load.count[0 if quick else 1]
    plain = plain_model(load.model)
    pictures = range(max(DIFFERENT, *load.batches))
    pixels = decoded(plain, [photograph(number) for number in pictures])
    batch = min(
        load.batches, key=lambda size: _median_s(plain_forwards(plain, pixels, size, count))
    )
    with (
        serving(load.model, *load.flags) as server,
        calling(server.target, load.clients) as clients,
    ):
        shares: list[float] = []

        def ours() -> None:
            found = clients.do(
                "explain", model=load.model["name"], first=len(shares) * count, count=count
            )
            shares.append(found["cpu"])

        row = compare(
            f"cold Explain(rollout) over gRPC, {load.clients} clients at once, {load.title} "
            "vs a loop of plain batched timm forwards of decoded pictures",
            ours,
            plain_forwards(plain, pixels, batch, count),
            repeats=5 if quick else 15,
            aim=aim,
            better="higher",
            works=(count, count),
        )
    share = 100 * statistics.median(shares)
    note = f"baseline in batches of {batch}; the clients' process used {share:.0f} % of a core"
    return replace(row, note=note)


def _median_s(action: Action) -> float:
    action()
    times = []
    for _ in range(3):
        started = time.perf_counter()
        action()
        times.append(time.perf_counter() - started)
    return statistics.median(times)


def cached_explain_rows(quick: bool) -> list[Row]:
    """A cached explanation against a call that does nothing with as many bytes."""
    data = photograph(0)
    rows = []
    with serving(VIT_SMALL) as server:
        stub = ExplanationServiceStub(server.channel)
        server.upload([data])
        for title, digest in (("by digest", True), ("sent along", False)):
            sent = caller.explain(VIT_SMALL["name"], data, digest=digest)
            request = contract.ExplainRequest.FromString(sent)
            stub.Explain(request, timeout=_CALL_TIMEOUT_S)
            answer = stub.Explain(request, timeout=_CALL_TIMEOUT_S)
            assert answer.timing.cached_images == 1
            with _empty_calls(sent, answer.ByteSize()) as empty:
                row = compare_medians(
                    f"p50 of a cached Explain(rollout) over gRPC, picture {title} "
                    "vs an empty unary call with as many bytes",
                    partial(stub.Explain, request, timeout=_CALL_TIMEOUT_S),
                    empty,
                    repeats=300 if quick else 3000,
                    aim=3.0,
                    note=f"{len(sent):,} bytes there, {answer.ByteSize():,} back",
                )
            rows.append(row)
    return rows


@contextmanager
def _empty_calls(request: bytes, answer_bytes: int) -> Iterator[Action]:
    """Calls of a server in a process of its own that answers so many bytes."""
    with python_process("tests.benchmark.empty_server", str(answer_bytes)) as process:
        assert process.stdout is not None
        with grpc.insecure_channel(process.stdout.readline().strip()) as channel:
            yield partial(channel.unary_unary(METHOD), request, timeout=_CALL_TIMEOUT_S)
