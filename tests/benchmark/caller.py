"""Clients of a server under load, all in one process of their own with one event loop.

`python -m tests.benchmark.caller TARGET CLIENTS` reads a JSON object a line, `{"do": NAME, ...}`
with the arguments of a method of `Clients`, and answers one. Every client has a connection and a
name of its own. It imports no torch, and what it sends is built before the clock starts.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import compress
from typing import Any

import grpc
import numpy as np

from pairlens.v1 import explanation_service_pb2 as contract
from pairlens.v1 import image_service_pb2, methods_pb2
from tests.benchmark.photographs import by_digest, inline, photograph, thumbnail

_EXPLAIN = "/pairlens.v1.ExplanationService/Explain"
_UPLOAD = "/pairlens.v1.ImageService/UploadImages"
_PATIENCE_S = 120.0
_UPLOADED_TOGETHER = 20
_RECENT = 500
_INLINE_SHARE = 0.1
_HEAD_START_S = 0.2

# A path of the contract and a message for it.
Call = tuple[str, bytes]


class Clients:
    """Clients that call at the same time."""

    def __init__(self, target: str, clients: int):
        # Otherwise gRPC gives all of them one connection.
        options = [("grpc.use_local_subchannel_pool", 1)]
        self._channels = [grpc.aio.insecure_channel(target, options) for _ in range(clients)]
        self._names = [(("pairlens-client", f"caller-{n}"),) for n in range(clients)]

    async def explain(self, model: str, first: int, count: int) -> dict[str, float]:
        """Rollout of distinct photographs, each client with one call under way.

        Returns:
            `seconds` from the first call to the last answer; `cpu`: this process's share of a
            core meanwhile.

        Raises:
            grpc.aio.AioRpcError: Any of them failed.
        """
        requests = [explain(model, photograph(first + n)) for n in range(count)]
        return await self._closed([(_EXPLAIN, request) for request in requests])

    async def fill(self, model: str, first: int, count: int) -> dict[str, float]:
        """Upload distinct thumbnails, and have each explained by digest."""
        calls = []
        for start in range(first, first + count, _UPLOADED_TOGETHER):
            numbers = range(start, min(start + _UPLOADED_TOGETHER, first + count))
            files = [thumbnail(number) for number in numbers]
            calls.append((_UPLOAD, _upload(files)))
        took = await self._closed(calls)
        # After the uploads: by another client, they might come too late.
        explained = [
            (_EXPLAIN, explain(model, thumbnail(n), digest=True))
            for n in range(first, first + count)
        ]
        return {"seconds": took["seconds"] + (await self._closed(explained))["seconds"]}

    async def ask_again(self, model: str, pictures: int, count: int, seed: int) -> dict[str, float]:
        """Explain thumbnails that were explained before.

        Nine in ten are of the last 500, by digest; the rest are of any, sent along, most of
        which a small cache has dropped.
        """
        rng = np.random.default_rng(seed)
        calls = []
        for anywhere in rng.random(count) < _INLINE_SHARE:
            oldest = 0 if anywhere else max(0, pictures - _RECENT)
            data = thumbnail(int(rng.integers(oldest, pictures)))
            calls.append((_EXPLAIN, explain(model, data, digest=not anywhere)))
        return await self._closed(calls)

    async def arrive(
        self,
        model: str,
        first: int,
        rate: float,
        lead_s: float,
        seconds: float,
        deadline_s: float,
        seed: int,
    ) -> dict[str, Any]:
        """Rollout of distinct photographs that arrive at random, whatever became of the others.

        Args:
            model: Which.
            first: Number of the first photograph.
            rate: Arrivals per second of the Poisson process.
            lead_s: Seconds of arrivals before anything counts.
            seconds: Of arrivals after that, in which what ends counts.
            deadline_s: Of each, from the moment that it is due.
            seed: Of the arrivals.

        Returns:
            `outcomes`: status and seconds since it was due, of each that counts; `late_s`: the
            99th percentile of how much later than due they were sent; `cpu`: this process's
            share of a core meanwhile.
        """
        rng = np.random.default_rng(seed)
        most = int(rate * (lead_s + seconds) * 2) + 50
        due = np.cumsum(rng.exponential(1 / rate, most))
        due = due[due < lead_s + seconds]
        requests = [explain(model, photograph(first + n)) for n in range(len(due))]
        found = await self._open(requests, due.tolist(), deadline_s)
        ends = [d + latency for d, (_, latency) in zip(due, found["outcomes"], strict=True)]
        counted = [lead_s <= end < lead_s + seconds for end in ends]
        return {**found, "outcomes": list(compress(found["outcomes"], counted))}

    async def _closed(self, calls: Sequence[Call]) -> dict[str, float]:
        waiting = iter(calls)

        async def client(number: int, mine: Iterator[Call]) -> None:
            methods = {path: self._method(number, path) for path in (_EXPLAIN, _UPLOAD)}
            for path, request in mine:
                await methods[path](request, metadata=self._names[number], timeout=_PATIENCE_S)

        cpu, wall = time.process_time(), time.perf_counter()
        await asyncio.gather(*(client(n, waiting) for n in range(len(self._channels))))
        seconds = time.perf_counter() - wall
        return {"seconds": seconds, "cpu": (time.process_time() - cpu) / seconds}

    async def _open(
        self, requests: list[bytes], due: list[float], deadline_s: float
    ) -> dict[str, Any]:
        loop = asyncio.get_running_loop()
        methods = [self._method(n, _EXPLAIN) for n in range(len(self._channels))]
        start = loop.time() + _HEAD_START_S
        late: list[float] = []

        async def one(number: int) -> tuple[str, float]:
            client = number % len(methods)
            moment = start + due[number]
            late.append(loop.time() - moment)
            try:
                await methods[client](
                    requests[number],
                    metadata=self._names[client],
                    timeout=moment + deadline_s - loop.time(),
                )
                status = "OK"
            except grpc.aio.AioRpcError as error:
                status = error.code().name
            return status, loop.time() - moment

        cpu, wall = time.process_time(), time.perf_counter()
        tasks = []
        for number, moment in enumerate(due):
            await asyncio.sleep(max(0.0, start + moment - loop.time()))
            tasks.append(asyncio.create_task(one(number)))
        # Before the last answers: the share while there is load is what matters.
        cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
        outcomes = await asyncio.gather(*tasks)
        return {
            "outcomes": outcomes,
            "late_s": float(np.percentile(late, 99)),
            "cpu": cpu / wall,
        }

    def _method(self, client: int, path: str) -> Callable[..., Any]:
        # Without serializers, bytes go out and come back as they are.
        method: Callable[..., Any] = self._channels[client].unary_unary(path)
        return method


def explain(model: str, data: bytes, *, digest: bool = False) -> bytes:
    """A request for a rollout map, as it goes over the wire."""
    return contract.ExplainRequest(
        model=model,
        image=by_digest(data) if digest else inline(data),
        method=methods_pb2.ExplanationMethod(rollout=methods_pb2.Rollout()),
    ).SerializeToString()


def _upload(files: Sequence[bytes]) -> bytes:
    images = [image_service_pb2.ImageUpload(data=data) for data in files]
    return image_service_pb2.UploadImagesRequest(images=images).SerializeToString()


async def main(target: str, clients: int) -> None:
    """Do what the standard input says until it ends."""
    calling = Clients(target, clients)
    loop = asyncio.get_running_loop()
    while line := await loop.run_in_executor(None, sys.stdin.readline):
        arguments = json.loads(line)
        found = await getattr(calling, arguments.pop("do"))(**arguments)
        sys.stdout.write(json.dumps(found) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], int(sys.argv[2])))
