"""What befalls connections, on a real server with all its times made shorter; its services."""

import asyncio

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from pairlens import cli_score
from pairlens.v1 import (
    admin_service_pb2_grpc,
    explanation_service_pb2,
    explanation_service_pb2_grpc,
    image_service_pb2_grpc,
    model_service_pb2,
    model_service_pb2_grpc,
)
from pairlens_server.rpc import server as server_module
from pairlens_server.rpc.server import SERVICES, RpcServer, Servicers

FASTER = 150
AGES = ("grpc.max_connection_age_ms", "grpc.max_connection_age_grace_ms")


class Slow(explanation_service_pb2_grpc.ExplanationServiceServicer):
    """Answers after as long as a call may take."""

    def __init__(self, seconds: float):
        self._seconds = seconds
        self.peers: list[str] = []

    async def Embed(self, request, context):  # noqa: N802
        self.peers.append(context.peer())
        await asyncio.sleep(self._seconds)
        return explanation_service_pb2.EmbedResponse()


class Models(model_service_pb2_grpc.ModelServiceServicer):
    """Answers at once, and says over which connection it was asked."""

    def __init__(self) -> None:
        self.peers: list[str] = []

    async def ListModels(self, request, context):  # noqa: N802
        self.peers.append(context.peer())
        return model_service_pb2.ListModelsResponse()


def servicers(explanations, models) -> Servicers:
    images = image_service_pb2_grpc.ImageServiceServicer()
    return Servicers(explanations, models, images, admin_service_pb2_grpc.AdminServiceServicer())


async def test_the_longest_call_outlives_its_connection(monkeypatch):
    options = sooner(monkeypatch, *AGES)
    # What `pairlens score` waits for by default.
    slow, models = Slow(cli_score._TIMEOUT_S / FASTER), Models()
    server = RpcServer(1_000_000)
    target = server.bind("127.0.0.1:0")
    await server.start(servicers(slow, models))
    server.open()
    try:
        async with grpc.aio.insecure_channel(target) as channel:
            embed = explanation_service_pb2_grpc.ExplanationServiceStub(channel).Embed
            call = asyncio.ensure_future(embed(explanation_service_pb2.EmbedRequest(), timeout=20))
            # Then the connection is too old, and whoever calls gets a new one.
            await asyncio.sleep(1.5 * options[AGES[0]] / 1000)
            assert not call.done()
            listed = model_service_pb2_grpc.ModelServiceStub(channel).ListModels
            await listed(model_service_pb2.ListModelsRequest(), timeout=20)
            assert await call == explanation_service_pb2.EmbedResponse()
    finally:
        await server.close()
    # Not again on the new one.
    assert len(slow.peers) == 1
    assert slow.peers != models.peers


def sooner(monkeypatch, *names: str) -> dict[str, int]:
    options = dict(server_module._OPTIONS)
    for name in names:
        options[name] //= FASTER
    monkeypatch.setattr(server_module, "_OPTIONS", list(options.items()))
    return options


async def test_a_connection_that_says_nothing_is_closed(monkeypatch):
    sooner(monkeypatch, "grpc.server_handshake_timeout_ms")
    server = RpcServer(1_000_000)
    target = server.bind("127.0.0.1:0")
    await server.start(servicers(Slow(0), Models()))
    host, _, port = target.rpartition(":")
    try:
        silent, _ = await asyncio.open_connection(host, int(port))
        # What the server says first, and then the end.
        await asyncio.wait_for(silent.read(), 20)
    finally:
        await server.close()


async def test_every_service_is_there_and_listed():
    server = RpcServer(1_000_000)
    target = server.bind("127.0.0.1:0")
    await server.start(
        servicers(
            explanation_service_pb2_grpc.ExplanationServiceServicer(),
            model_service_pb2_grpc.ModelServiceServicer(),
        )
    )
    server.open()
    request = reflection_pb2.ServerReflectionRequest(list_services="")
    health = health_pb2.HealthCheckResponse.SERVING
    try:
        async with grpc.aio.insecure_channel(target) as channel:
            stub = reflection_pb2_grpc.ServerReflectionStub(channel)
            call = stub.ServerReflectionInfo(iter([request]))
            listed = {s.name for s in (await call.read()).list_services_response.service}
            call.cancel()
            check = health_pb2_grpc.HealthStub(channel).Check
            for name in SERVICES:
                answer = await check(health_pb2.HealthCheckRequest(service=name), timeout=5)
                assert answer.status == health
            for service, method in (
                ("ExplanationService", "Warm"),
                ("ImageService", "UploadImages"),
                ("AdminService", "GetCacheStats"),
            ):
                # The generated base refuses what is not overridden: registered, and guarded.
                call = channel.unary_unary(f"/pairlens.v1.{service}/{method}")
                with pytest.raises(grpc.aio.AioRpcError) as caught:
                    await call(b"", timeout=5)
                assert caught.value.code() is not grpc.StatusCode.UNIMPLEMENTED
    finally:
        await server.close()
    assert set(SERVICES) == {
        "pairlens.v1.ExplanationService",
        "pairlens.v1.ModelService",
        "pairlens.v1.ImageService",
        "pairlens.v1.AdminService",
    }
    assert listed > set(SERVICES)
