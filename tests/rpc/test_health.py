"""Health over a real connection: of the process, of services and of models."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from pairlens_server.rpc.health import Health

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
UNKNOWN = health_pb2.HealthCheckResponse.SERVICE_UNKNOWN

WAIT_S = 20


class Bench:
    def __init__(self) -> None:
        self.health = Health(("a.Service",))
        self.server = grpc.aio.server()
        health_pb2_grpc.add_HealthServicer_to_server(self.health, self.server)
        port = self.server.add_insecure_port("127.0.0.1:0")
        self.channel = grpc.aio.insecure_channel(f"127.0.0.1:{port}")
        self.stub = health_pb2_grpc.HealthStub(self.channel)

    async def of(self, service: str) -> int:
        request = health_pb2.HealthCheckRequest(service=service)
        return (await self.stub.Check(request, timeout=WAIT_S)).status

    async def listed(self) -> dict[str, int]:
        answer = await self.stub.List(health_pb2.HealthListRequest(), timeout=WAIT_S)
        return {name: found.status for name, found in answer.statuses.items()}

    def watch(self, service: str) -> Any:
        return self.stub.Watch(health_pb2.HealthCheckRequest(service=service))


@pytest.fixture
async def bench() -> AsyncIterator[Bench]:
    made = Bench()
    await made.server.start()
    yield made
    await made.channel.close()
    await made.server.stop(None)


async def status(watch: Any) -> int:
    return (await asyncio.wait_for(watch.read(), WAIT_S)).status


async def test_nothing_serves_until_that_is_said(bench):
    bench.health.show_models(["m"])
    names = ("", "a.Service", "models/m")
    assert await bench.listed() == dict.fromkeys(names, NOT_SERVING)
    bench.health.show(serving=True)
    assert await bench.listed() == dict.fromkeys(names, SERVING)
    for name in names:
        assert await bench.of(name) == SERVING


@pytest.mark.parametrize("name", ["m", "models/gone", "models/", "a.service"])
async def test_unknown_names(bench, name):
    bench.health.show_models(["m"])
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await bench.of(name)
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND
    assert await status(bench.watch(name)) == UNKNOWN


async def test_who_watches_is_told_of_each_change_once(bench):
    watch = bench.watch("")
    assert await status(watch) == NOT_SERVING
    bench.health.show(serving=True)
    assert await status(watch) == SERVING
    # Nothing that concerns it.
    bench.health.show_models(["m"])
    bench.health.show(serving=True)
    bench.health.show(serving=False)
    assert await status(watch) == NOT_SERVING


async def test_models_come_and_go(bench):
    bench.health.show(serving=True)
    watch = bench.watch("models/m")
    assert await status(watch) == UNKNOWN
    bench.health.show_models(["k", "m"])
    assert await status(watch) == SERVING
    bench.health.show_models(["k"])
    assert await status(watch) == UNKNOWN
    with pytest.raises(grpc.aio.AioRpcError):
        await bench.of("models/m")


async def test_watches_end_with_the_server_and_after_the_last_word(bench):
    bench.health.show(serving=True)
    watches = [bench.watch(""), bench.watch("models/gone")]
    assert [await status(watch) for watch in watches] == [SERVING, UNKNOWN]
    bench.health.show(serving=False)
    bench.health.end()
    assert await status(watches[0]) == NOT_SERVING
    for watch in watches:
        assert await asyncio.wait_for(watch.read(), WAIT_S) is grpc.aio.EOF
    # Whoever comes now is told, and let go.
    late = bench.watch("")
    assert await status(late) == NOT_SERVING
    assert await asyncio.wait_for(late.read(), WAIT_S) is grpc.aio.EOF
    # Nothing is left that the end of the server would wait for.
    await asyncio.wait_for(bench.server.stop(3600), WAIT_S)
