"""What the load of a stranger is bounded by, at a server with small limits."""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator
from contextlib import ExitStack

import grpc
import numpy as np
import pytest
import yaml
from grpc_health.v1 import health_pb2, health_pb2_grpc
from PIL import Image

from pairlens.v1 import (
    common_pb2,
    explanation_service_pb2,
    explanation_service_pb2_grpc,
    metrics_pb2,
    model_service_pb2,
    model_service_pb2_grpc,
)
from tests.contract.support import encoded, failure_of_rpc, png
from tests.faults.calls import TIMEOUT_S, until
from tests.faults.open_services import health, reflected
from tests.fuzz.vitals import peak_mib
from tests.server_process import ServerProcess, server_process

_STREAMS, _CONNECTIONS = 4, 8
_REQUEST, _IMAGE = 1_000_000, 800_000

# A score of it takes many seconds.
_SLOW = {
    **{"name": "slow", "architecture": "vit_tiny_patch16_224", "random_weights": True, "seed": 1},
    **{"device": "cpu", "classes": 5, "preprocessing": {"size": [160, 160], "resize": "stretch"}},
}


@pytest.fixture(scope="module")
def bounded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """Without tokens, with small limits."""
    folder = tmp_path_factory.mktemp("bounded")
    models = folder / "models.yaml"
    models.write_text(yaml.safe_dump({"models": [_SLOW]}))
    flags = ("--max-concurrent-streams", str(_STREAMS), "--reflection", "false")
    flags += ("--max-connections", str(_CONNECTIONS))
    flags += ("--max-request-bytes", str(_REQUEST), "--max-bytes-under-way", str(_REQUEST))
    flags += ("--max-image-bytes", str(_IMAGE), "--max-queued", "2000", "--drain-delay-s", "0")
    with server_process(models, folder / "log.txt", *flags, "--drain-s", "0") as server:
        server.listening()
        server.serving()
        yield server
        assert server.stop() == 0, server.read_log()


def test_limits_are_listed(bounded):
    with grpc.insecure_channel(bounded.target) as channel:
        stub = model_service_pb2_grpc.ModelServiceStub(channel)
        request = model_service_pb2.GetModelRequest(model="slow")
        limits = stub.GetModel(request, timeout=TIMEOUT_S).limits
    assert limits.max_concurrent_streams == _STREAMS
    assert limits.max_bytes_under_way == limits.max_request_bytes == _REQUEST
    assert limits.max_image_bytes == _IMAGE
    assert limits.max_queued_cost == 2000


def test_streams_of_one_connection(bounded):
    with grpc.insecure_channel(bounded.target) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        watches = [stub.Watch(health_pb2.HealthCheckRequest()) for _ in range(_STREAMS)]
        for watch in watches:
            next(watch)
        with pytest.raises(grpc.RpcError) as waiting:
            stub.Check(health_pb2.HealthCheckRequest(), timeout=0.5)
        assert waiting.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        options = [("grpc.use_local_subchannel_pool", 1)]
        with grpc.insecure_channel(bounded.target, options) as other:
            assert health(other) == health_pb2.HealthCheckResponse.SERVING
        watches[0].cancel()
        until(lambda: health(channel) > 0, "a stream is free")
        for watch in watches:
            watch.cancel()


def test_the_server_itself_says_how_many_streams(bounded):
    """To clients that are not gRPC's, which must keep to it (RFC 9113, section 5.1.2)."""
    host, _, port = bounded.target.rpartition(":")
    with socket.create_connection((host, int(port)), timeout=TIMEOUT_S) as wire:
        wire.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\0\0\0\4\0\0\0\0\0")
        header = read_exactly(wire, 9)
        length, kind = int.from_bytes(header[:3], "big"), header[3]
        assert kind == 4  # SETTINGS come first
        settings = dict(struct.iter_unpack(">HI", read_exactly(wire, length)))
    assert settings[3] == _STREAMS


def read_exactly(wire: socket.socket, length: int) -> bytes:
    data = b""
    while len(data) < length:
        piece = wire.recv(length - len(data))
        assert piece
        data += piece
    return data


@pytest.mark.parametrize(
    "path", ["/pairlens.v1.ExplanationService/Explain", "/grpc.health.v1.Health/Check"]
)
def test_packed_messages_are_not_unpacked(bounded, path):
    """256 MB of zeros, a quarter of a megabyte when packed."""
    before = peak_mib(bounded)
    options = [("grpc.max_send_message_length", -1)]
    with (
        grpc.insecure_channel(bounded.target, options) as channel,
        pytest.raises(grpc.RpcError) as refused,
    ):
        channel.unary_unary(path)(bytes(2**28), compression=grpc.Compression.Gzip, timeout=60)
    assert refused.value.code() is grpc.StatusCode.UNIMPLEMENTED
    assert "disabled" in refused.value.details()
    assert peak_mib(bounded) < before + 100, "all of it was unpacked"


def test_connections(bounded):
    host, _, port = bounded.target.rpartition(":")
    options = [("grpc.use_local_subchannel_pool", 1)]
    with ExitStack() as stack:
        first = stack.enter_context(grpc.insecure_channel(bounded.target, options))
        assert health(first) == health_pb2.HealthCheckResponse.SERVING
        for _ in range(_CONNECTIONS):
            stack.enter_context(socket.create_connection((host, int(port)), timeout=TIMEOUT_S))
        one_more = stack.enter_context(grpc.insecure_channel(bounded.target, options))
        with pytest.raises(grpc.RpcError) as refused:
            health(one_more)
        assert refused.value.code() is grpc.StatusCode.UNAVAILABLE
        # Whoever is connected stays so.
        assert health(first) == health_pb2.HealthCheckResponse.SERVING
    with grpc.insecure_channel(bounded.target, options) as later:
        until(lambda: connects(later), "connections are taken again")


def connects(channel: grpc.Channel) -> bool:
    try:
        return health(channel) == health_pb2.HealthCheckResponse.SERVING
    except grpc.RpcError:
        return False


def large_picture(seed: int) -> bytes:
    noise = np.random.default_rng(seed).integers(0, 256, (480, 500, 3), dtype=np.uint8)
    return encoded(Image.fromarray(noise))


def test_bytes_under_way(bounded):
    """One request may be as large as all together; beside it there is no room for another."""
    picture = large_picture(1)
    assert _REQUEST / 2 < len(picture) < _IMAGE
    image = common_pb2.Image(inline=picture)
    values = np.ones((20, 20), np.float32)
    heatmap = explanation_service_pb2.GivenHeatmap(
        values=common_pb2.Tensor(
            dtype=common_pb2.DATA_TYPE_FLOAT32, shape=values.shape, data=values.tobytes()
        ),
        extent=explanation_service_pb2.HEATMAP_EXTENT_PICTURE,
    )
    score = explanation_service_pb2.ScoreSaliencyRequest(
        model="slow",
        image=image,
        heatmap=heatmap,
        metrics=[metrics_pb2.Metric(deletion=metrics_pb2.Deletion(steps=1000))],
    )
    embed = explanation_service_pb2.EmbedRequest(model="slow", images=[image])
    with grpc.insecure_channel(bounded.target, [("grpc.enable_retries", 0)]) as channel:
        stub = explanation_service_pb2_grpc.ExplanationServiceStub(channel)
        stub.Embed(embed, timeout=TIMEOUT_S)
        slow = stub.ScoreSaliency.future(score, timeout=300)
        refusals = []

        def is_refused() -> bool:
            assert not slow.done(), slow.exception()
            try:
                stub.Embed(embed, timeout=TIMEOUT_S)
            except grpc.RpcError as error:
                refusals.append(failure_of_rpc(error))
            return bool(refusals)

        until(is_refused, "the slow call is under way")
        refusal = refusals[0]
        assert (refusal.code, refusal.reason) == ("RESOURCE_EXHAUSTED", "QUEUE_FULL")
        assert f"of {_REQUEST} bytes already" in refusal.message
        # What is small finds room.
        small = explanation_service_pb2.EmbedRequest(
            model="slow", images=[common_pb2.Image(inline=png(1))]
        )
        stub.Embed(small, timeout=TIMEOUT_S)
        slow.cancel()

        def is_taken() -> bool:
            try:
                stub.Embed(embed, timeout=TIMEOUT_S)
            except grpc.RpcError:
                return False
            return True

        until(is_taken, "there is room again")


def test_reflection_can_be_turned_off(bounded):
    with (
        grpc.insecure_channel(bounded.target) as channel,
        pytest.raises(grpc.RpcError) as refused,
    ):
        reflected(channel)
    assert refused.value.code() is grpc.StatusCode.UNIMPLEMENTED
