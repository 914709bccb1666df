"""Channels against servers that a test decides on: who gets the calls, and how they travel."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent import futures

import grpc
import pytest
from grpc_health.v1 import health_pb2

import pairlens
from pairlens._channel import ChannelSettings, open_aio_channel, open_channel
from pairlens._failures import from_rpc
from pairlens.errors import InvalidParameterError, PairlensError, UnavailableError
from pairlens.v1.admin_service_pb2 import DrainRequest, GetCacheStatsRequest
from pairlens.v1.admin_service_pb2_grpc import AdminServiceStub
from pairlens.v1.explanation_service_pb2 import ExplainRequest
from pairlens.v1.explanation_service_pb2_grpc import ExplanationServiceStub
from pairlens.v1.model_service_pb2 import ListModelsRequest
from pairlens.v1.model_service_pb2_grpc import (
    ModelServiceStub,
    add_ModelServiceServicer_to_server,
)
from tests.client.scripted import Running, fails, png

TIMEOUT_S = 10
SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


@pytest.fixture
def pair() -> Iterator[tuple[Running, Running]]:
    """Two servers."""
    servers = Running(), Running()
    yield servers
    for server in servers:
        server.stop()


def behind_one_name(servers: tuple[Running, ...]) -> ChannelSettings:
    return ChannelSettings(target="ipv4:" + ",".join(server.target for server in servers))


def failure(settings: ChannelSettings) -> PairlensError:
    """What a call through a channel ends with."""
    with open_channel(settings) as channel, pytest.raises(grpc.RpcError) as caught:
        ModelServiceStub(channel).ListModels(ListModelsRequest(), timeout=TIMEOUT_S)
    return from_rpc(caught.value, target=settings.target, timeout=TIMEOUT_S)


def models(settings: ChannelSettings) -> int:
    with open_channel(settings) as channel:
        answer = ModelServiceStub(channel).ListModels(ListModelsRequest(), timeout=TIMEOUT_S)
    return len(answer.models)


def connected(channel: grpc.Channel, servers: tuple[Running, ...]) -> None:
    """Call until each server has been met: they are connected to one after the other."""
    stub = ModelServiceStub(channel)
    end = time.monotonic() + TIMEOUT_S
    while not all(server.service.calls for server in servers):
        stub.ListModels(ListModelsRequest(), timeout=TIMEOUT_S, wait_for_ready=True)
        assert time.monotonic() < end
    for server in servers:
        server.service.calls.clear()


def test_calls_are_spread(pair):
    with open_channel(behind_one_name(pair)) as channel:
        connected(channel, pair)
        for _ in range(10):
            ModelServiceStub(channel).ListModels(ListModelsRequest(), timeout=TIMEOUT_S)
    assert [len(server.service.calls) for server in pair] == [5, 5]


async def test_calls_of_asyncio_are_spread(pair):
    async with open_aio_channel(behind_one_name(pair)) as channel:
        stub = ModelServiceStub(channel)
        end = time.monotonic() + TIMEOUT_S
        while not all(server.service.calls for server in pair):
            await stub.ListModels(ListModelsRequest(), timeout=TIMEOUT_S)
            assert time.monotonic() < end
        before = [len(server.service.calls) for server in pair]
        for _ in range(10):
            await stub.ListModels(ListModelsRequest(), timeout=TIMEOUT_S)
    after = [len(server.service.calls) for server in pair]
    assert [new - old for old, new in zip(before, after, strict=True)] == [5, 5]


def test_a_server_that_does_not_serve_gets_no_calls_and_no_call_fails(pair):
    first = pair[0]
    with open_channel(behind_one_name(pair)) as channel:
        connected(channel, pair)
        stub = ModelServiceStub(channel)
        first.health.set("", NOT_SERVING)
        # As draining servers do; only calls that were on their way may meet it.
        first.service.script.extend([fails("DRAINING")] * 100)
        end = time.monotonic() + TIMEOUT_S
        row = 0  # of calls that only the second server saw
        while row < 10:
            seen = len(first.service.calls)
            stub.ListModels(ListModelsRequest(), timeout=TIMEOUT_S)
            row = row + 1 if len(first.service.calls) == seen else 0
            assert time.monotonic() < end
        first.service.script.clear()
        first.health.set("", SERVING)
        connected(channel, (first,))


def test_a_server_that_was_gone_is_found_again():
    server = Running()
    address = server.target
    with open_channel(ChannelSettings(target=address)) as channel:
        stub = ModelServiceStub(channel)
        stub.ListModels(ListModelsRequest(), timeout=TIMEOUT_S)
        server.stop()
        with pytest.raises(grpc.RpcError) as caught:
            stub.ListModels(ListModelsRequest(), timeout=TIMEOUT_S)
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
        again = Running(address)
        try:
            stub.ListModels(ListModelsRequest(), timeout=TIMEOUT_S, wait_for_ready=True)
        finally:
            again.stop()


@pytest.mark.parametrize("size", [100, 5 * 2**20])
def test_calls_that_no_server_took_are_repeated_whatever_their_size(server: Running, size: int):
    server.service.script.extend([fails("DRAINING")] * 3)
    request = ExplainRequest(model="vit", image={"inline": png() + bytes(size)})
    with open_channel(ChannelSettings(target=server.target)) as channel:
        ExplanationServiceStub(channel).Explain(request, timeout=TIMEOUT_S)
    assert len(server.service.calls) == 4


@pytest.mark.parametrize("reason", ["QUEUE_FULL", "UNAUTHENTICATED", "INTERNAL"])
def test_the_channel_repeats_nothing_else(server: Running, reason: str):
    server.service.script.append(fails(reason))
    assert failure(ChannelSettings(target=server.target)).reason == reason
    assert len(server.service.calls) == 1


def test_drain_is_not_repeated_at_another_server(server: Running):
    server.service.script.append(fails("DRAINING"))
    with open_channel(ChannelSettings(target=server.target)) as channel:
        stub = AdminServiceStub(channel)
        with pytest.raises(grpc.RpcError) as caught:
            stub.Drain(DrainRequest(), timeout=TIMEOUT_S)
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
        assert len(server.service.calls) == 1
        server.service.script.append(fails("NOT_READY"))
        stub.GetCacheStats(GetCacheStatsRequest(), timeout=TIMEOUT_S)  # as all others are
    assert len(server.service.calls) == 3


async def test_calls_of_asyncio_are_repeated(server: Running):
    server.service.script.extend([fails("NOT_READY")] * 3)
    async with open_aio_channel(ChannelSettings(target=server.target)) as channel:
        stub = ModelServiceStub(channel)
        await stub.ListModels(ListModelsRequest(), timeout=TIMEOUT_S)
    assert len(server.service.calls) == 4


def test_calls_are_repeated_up_to_the_largest_request():
    """Whatever that is: a server may take more than any buffer that we could guess."""
    size, answers = 80 * 2**20, []

    def answer(request: bytes, context: grpc.ServicerContext) -> bytes:
        answers.append(len(request))
        if len(answers) == 1:
            context.abort(grpc.StatusCode.UNAVAILABLE, "drains")
        return b""

    method = grpc.unary_unary_rpc_method_handler(answer)
    handler = grpc.method_handlers_generic_handler(
        "pairlens.v1.ExplanationService", {"Explain": method}
    )
    options = [("grpc.max_receive_message_length", -1)]
    server = grpc.server(futures.ThreadPoolExecutor(1), [handler], options=options)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    settings = ChannelSettings(target=f"127.0.0.1:{port}", max_message_bytes=size)
    try:
        with open_channel(settings) as channel:
            call = channel.unary_unary("/pairlens.v1.ExplanationService/Explain")
            call(bytes(size), timeout=60)
    finally:
        server.stop(None).wait()
    assert answers == [size, size]


def test_who_calls_is_said(server: Running):
    models(ChannelSettings(target=server.target))
    agent = server.service.metadata[-1]["user-agent"]
    assert agent.startswith(f"pairlens-python/{pairlens.__version__} grpc-python/")


def test_messages_over_the_limit(server: Running):
    request = ExplainRequest(model="vit", image={"inline": png() + bytes(10_000)})
    settings = ChannelSettings(target=server.target, max_message_bytes=10_000)
    with open_channel(settings) as channel, pytest.raises(grpc.RpcError, match="larger than max"):
        ExplanationServiceStub(channel).Explain(request, timeout=TIMEOUT_S)
    assert not server.service.calls
    # Two models and their methods are over 100 bytes.
    error = failure(ChannelSettings(target=server.target, max_message_bytes=100))
    assert type(error) is pairlens.ResponseTooLargeError


@pytest.mark.parametrize("size", [0, -1])
def test_a_limit_is_positive(size: int):
    with pytest.raises(InvalidParameterError, match=f"positive, not {size}") as caught:
        ChannelSettings(target="localhost:1", max_message_bytes=size)
    assert caught.value.field == "max_message_bytes"


@pytest.mark.parametrize("tls", ["yes", 1, None, {"ca_file": "x"}])
def test_tls_is_a_choice_or_files(tls: object):
    with pytest.raises(InvalidParameterError, match="True, False or TlsFiles"):
        ChannelSettings(target="localhost:1", tls=tls)


def test_a_proxy_of_the_environment_is_not_on_this_machine(server: Running, monkeypatch):
    for name in ("http_proxy", "https_proxy", "grpc_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    for name in ("no_proxy", "no_grpc_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    assert models(ChannelSettings(target=server.target)) == 2


def test_a_server_that_does_not_serve_says_so(server: Running):
    server.health.set("", NOT_SERVING)
    error = failure(ChannelSettings(target=server.target))
    assert type(error) is UnavailableError
    assert f"reached at {server.target}: it says that it does not serve now" in error.message


@pytest.mark.parametrize("code", [grpc.StatusCode.UNIMPLEMENTED, grpc.StatusCode.PERMISSION_DENIED])
def test_a_proxy_that_refuses_the_watch_of_the_health(server: Running, code: grpc.StatusCode):
    watching = grpc.unary_stream_rpc_method_handler(lambda _, context: context.abort(code, "no"))
    health = grpc.method_handlers_generic_handler("grpc.health.v1.Health", {"Watch": watching})
    proxy = grpc.server(futures.ThreadPoolExecutor(4), [health])
    add_ModelServiceServicer_to_server(server.service, proxy)
    settings = ChannelSettings(target=f"127.0.0.1:{proxy.add_insecure_port('127.0.0.1:0')}")
    proxy.start()
    try:
        if code is grpc.StatusCode.UNIMPLEMENTED:
            assert models(settings) == 2
        else:
            assert "a proxy in between refuses the call" in failure(settings).message
    finally:
        proxy.stop(None).wait()
