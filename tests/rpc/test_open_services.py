"""What strangers may send to health and reflection: over real connections."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from pairlens.v1 import (
    admin_service_pb2_grpc,
    explanation_service_pb2_grpc,
    image_service_pb2_grpc,
    model_service_pb2_grpc,
)
from pairlens_server.rpc import open_services
from pairlens_server.rpc.open_services import MAX_BYTES
from pairlens_server.rpc.server import RpcServer, Servicers

CHECK = "/grpc.health.v1.Health/Check"
WATCH = "/grpc.health.v1.Health/Watch"
REFLECT = "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo"
LIMIT_S = 20.0
ASKS_FOR_SERVICES = reflection_pb2.ServerReflectionRequest(list_services="")


@pytest.fixture
async def channel() -> AsyncIterator[grpc.aio.Channel]:
    server = RpcServer(1_000_000)
    target = server.bind("127.0.0.1:0")
    await server.start(
        Servicers(
            explanation_service_pb2_grpc.ExplanationServiceServicer(),
            model_service_pb2_grpc.ModelServiceServicer(),
            image_service_pb2_grpc.ImageServiceServicer(),
            admin_service_pb2_grpc.AdminServiceServicer(),
        )
    )
    server.open()
    async with grpc.aio.insecure_channel(target) as opened:
        yield opened
    await server.close()


async def nothing() -> AsyncIterator[bytes]:
    """A message that never comes."""
    await asyncio.sleep(LIMIT_S)
    yield b""


async def end_of(channel: grpc.aio.Channel, path: str, messages: Any) -> grpc.aio.Call:
    """A call of any shape, as streams go over the wire, after its end."""
    call = channel.stream_stream(path)(messages, timeout=LIMIT_S)
    await call.code()
    return call


@pytest.mark.parametrize("path", [CHECK, WATCH, REFLECT])
async def test_long_messages_are_refused(channel, path):
    longest = health_pb2.HealthCheckRequest(service="x" * (MAX_BYTES - 3)).SerializeToString()
    assert len(longest) == MAX_BYTES
    call = await end_of(channel, path, [longest + b"\x0a\x00"])
    assert await call.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert f"at most {MAX_BYTES} bytes" in await call.details()
    if path == CHECK:
        assert await (await end_of(channel, path, [longest])).code() is grpc.StatusCode.NOT_FOUND


@pytest.mark.parametrize("path", [CHECK, WATCH, REFLECT])
async def test_what_is_no_message_is_the_callers_mistake_and_not_in_the_log(channel, path, caplog):
    caplog.set_level(logging.DEBUG)
    call = await end_of(channel, path, [b"\xff"])
    assert await call.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


@pytest.mark.parametrize(
    ("path", "code"),
    [
        (CHECK, grpc.StatusCode.INVALID_ARGUMENT),
        (WATCH, grpc.StatusCode.INVALID_ARGUMENT),
        (REFLECT, grpc.StatusCode.OK),
    ],
)
async def test_messages_are_not_waited_for_for_long(channel, path, code, monkeypatch):
    monkeypatch.setattr(open_services, "WAIT_S", 0.2)
    began_s = time.monotonic()
    assert await (await end_of(channel, path, nothing())).code() is code
    assert time.monotonic() - began_s < LIMIT_S / 2
    # None at all, likewise.
    assert await (await end_of(channel, path, [])).code() is code


async def test_several_questions_and_an_open_watch(channel, monkeypatch):
    stub = reflection_pb2_grpc.ServerReflectionStub(channel)
    call = stub.ServerReflectionInfo(iter([ASKS_FOR_SERVICES] * 3), timeout=LIMIT_S)
    answers = [answer async for answer in call]
    assert len(answers) == 3
    assert "pairlens.v1.ModelService" in {
        service.name for service in answers[2].list_services_response.service
    }
    monkeypatch.setattr(open_services, "WAIT_S", 0.1)
    watch = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest())
    assert (await watch.read()).status == health_pb2.HealthCheckResponse.SERVING
    # It stays open, however long its one message was ago.
    with pytest.raises(asyncio.TimeoutError):
        await asyncio.wait_for(watch.read(), 0.5)
