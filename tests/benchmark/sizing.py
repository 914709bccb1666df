"""What a picture takes in Redis and on the CPU, by model: the numbers behind deploy/README.md.

Run as `python -m tests.benchmark.sizing`; prints a Markdown table. A picture's file and its size
are left out of the bytes: they are the same for every model.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import redis as redis_client
from rich.console import Console
from rich.progress import track

from pairlens.v1 import explanation_service_pb2 as contract
from pairlens.v1 import methods_pb2
from pairlens.v1.explanation_service_pb2_grpc import ExplanationServiceStub
from pairlens.v1.model_service_pb2 import GetModelRequest
from pairlens.v1.model_service_pb2_grpc import ModelServiceStub
from tests.benchmark.photographs import inline, photograph
from tests.benchmark.served import Served, serving, vit_entry
from tests.redis_server import redis_server

MODELS: tuple[dict[str, Any], ...] = (
    vit_entry("ViT-S/16 at 224", "vit_small_patch16_224", pooling="avg"),
    vit_entry("ViT-B/16 at 224", "vit_base_patch16_224", pooling="avg"),
    vit_entry("ViT-L/16 at 224", "vit_large_patch16_224", pooling="avg"),
    vit_entry("ResNet-50 at 224", "resnet50"),
)
_WRITTEN_S = 30.0
_TIMEOUT_S = 600.0


@dataclass(frozen=True)
class Size:
    """Of one model; bytes and seconds are of one picture.

    Attributes:
        model: Name.
        pair_bytes: In Redis, what PairSimilarity needs with the model's default method.
        explain_bytes: In Redis, what Explain's default method needs besides.
        seconds: From file to cache, in calls of many pictures.
        resident_bytes: Memory of the server, its model included, with caches of 0 bytes.
    """

    model: str
    pair_bytes: float
    explain_bytes: float
    seconds: float
    resident_bytes: int


def measure(model: Mapping[str, Any], pictures: int) -> Size:
    """Warm a Redis for some pictures, and look at what it holds."""
    entry = {**model, "name": "measured"}
    with TemporaryDirectory() as folder, redis_server(Path(folder)) as redis:
        flags = ("--cache-bytes", "0", "--image-cache-bytes", "0", "--redis-url", redis.url)
        with serving(entry, *flags) as server, redis.client() as client:
            _warm(server, [photograph(1_000_000)])  # first use is slower
            files = [photograph(number) for number in range(pictures)]
            client.flushall()
            started_s = time.perf_counter()
            _warm(server, files)
            seconds = (time.perf_counter() - started_s) / pictures
            pair = _settled(client)
            described = ModelServiceStub(server.channel).GetModel(GetModelRequest(model="measured"))
            _warm(server, files, methods=[described.model.default_explanation_method])
            both = _settled(client)
            resident = server.resident_bytes()
    name = str(model["name"])
    return Size(name, pair / pictures, (both - pair) / pictures, seconds, resident)


def _warm(
    server: Served, files: Sequence[bytes], methods: Sequence[methods_pb2.ExplanationMethod] = ()
) -> None:
    stub = ExplanationServiceStub(server.channel)
    request = contract.WarmRequest(
        model="measured", images=[inline(data) for data in files], methods=methods
    )
    answer = stub.Warm(request, timeout=_TIMEOUT_S)
    assert all(result.HasField("warmed") for result in answer.results), answer


def _settled(client: redis_client.Redis) -> int:
    """Bytes of all activations, once no more are written."""
    until_s = time.monotonic() + _WRITTEN_S
    before = -1
    while time.monotonic() < until_s:
        keys = list(client.scan_iter(match="*:a:*"))
        held = sum(int(client.memory_usage(key, samples=0) or 0) for key in keys)
        if held == before > 0:
            return held
        before = held
        time.sleep(0.3)
    raise TimeoutError("Redis is still being written to")


def table(sizes: Sequence[Size]) -> str:
    """The sizes as Markdown."""
    lines = [
        "| model | Redis: pairs | Redis: Explain besides | pictures a second | server, no caches |",
        "|---|---|---|---|---|",
    ]
    lines += [
        f"| {s.model} | {s.pair_bytes / 1000:,.0f} KB | {s.explain_bytes / 1000:,.1f} KB "
        f"| {1 / s.seconds:.1f} | {s.resident_bytes / 1e9:.2f} GB |"
        for s in sizes
    ]
    return "\n".join(lines)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmark.sizing", description=__doc__)
    parser.add_argument("--pictures", type=int, default=32, help="of each model [32]")
    pictures = parser.parse_args().pictures
    console = Console(stderr=True)
    sizes = [measure(m, pictures) for m in track(MODELS, "models", console=console)]
    print(table(sizes))  # noqa: T201


if __name__ == "__main__":
    main()
