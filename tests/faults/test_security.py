"""Who gets in, what is kept from whom, and what a stranger's load is bounded by: real servers."""

from __future__ import annotations

import hashlib
import json
import os
import socket
import struct
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
import torch
import trustme
import yaml
from google.protobuf.message import Message
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from PIL import Image

from pairlens.v1 import (
    admin_service_pb2,
    admin_service_pb2_grpc,
    common_pb2,
    explanation_service_pb2,
    explanation_service_pb2_grpc,
    metrics_pb2,
    model_service_pb2,
    model_service_pb2_grpc,
)
from tests.certificates import TlsFiles, client_credentials, put
from tests.contract.support import encoded, failure_of, failure_of_rpc, png
from tests.faults.calls import until
from tests.fuzz.cases import METHODS, request_type
from tests.server_process import MODELS, ServerProcess, server_process

TOKENS = {
    "retrieval": "retrieval-token-abcdefgh",
    "ops": "operators-token-abcdefgh",
    "next": "retrieval-token-of-tomorrow",
}
WRONG = "a-token-of-somebody-else"
TIMEOUT_S = 30.0


def write_tokens(path: Path, *names: str) -> None:
    entries: list[dict[str, Any]] = []
    for name in names:
        digest = hashlib.sha256(TOKENS[name].encode()).hexdigest()
        is_ops = name == "ops"
        entries.append(
            {"name": name, "sha256": digest, "admin": True}
            if is_ops
            else {"name": "retrieval", "token": TOKENS[name]}
        )
    put(path, yaml.safe_dump(entries).encode())


def bearer(name: str) -> tuple[tuple[str, str], ...]:
    return (("authorization", f"Bearer {TOKENS.get(name, name)}"),)


def tiny(name: str, **fields: Any) -> dict[str, Any]:
    (model,) = (model for model in MODELS if model["name"] == "tiny-vit-cls")
    return {**model, "name": name, **fields}


@dataclass
class Secured:
    """A server behind mutual TLS and tokens.

    Attributes:
        server: The process.
        folder: Of its files: `models.yaml`, `tokens.yaml`, certificates.
        root, clients: Authorities of the server and of its clients.
    """

    server: ServerProcess
    folder: Path
    root: trustme.CA
    clients: trustme.CA
    tls: TlsFiles = field(init=False)

    def __post_init__(self) -> None:
        self.tls = TlsFiles.in_folder(self.folder)

    def connect(self, root: trustme.CA | None = None, options: Any = ()) -> grpc.Channel:
        """A new connection, as a client that holds a certificate."""
        credentials = client_credentials(root or self.root, self.clients)
        options = [*options, ("grpc.enable_retries", 0), ("grpc.use_local_subchannel_pool", 1)]
        return grpc.secure_channel(self.server.target, credentials, options)

    def code(self, path: str, request: Message, metadata: Any, channel: grpc.Channel) -> str:
        """Of a call of any RPC, with its reason."""
        try:
            channel.unary_unary(path)(
                request.SerializeToString(), timeout=TIMEOUT_S, metadata=metadata
            )
        except grpc.RpcError as error:
            failure = failure_of_rpc(error)
            return f"{failure.code} {failure.reason}"
        return "OK"


@pytest.fixture(scope="module")
def secured(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Secured]:
    folder = tmp_path_factory.mktemp("secured")
    tls, root, clients = TlsFiles.in_folder(folder), trustme.CA(), trustme.CA()
    tls.show(root)
    tls.trust(clients)
    write_tokens(folder / "tokens.yaml", "retrieval", "ops")
    models = folder / "models.yaml"
    models.write_text(yaml.safe_dump({"models": [tiny("first")]}))
    flags = (*tls.mutual_flags, "--tokens-file", str(folder / "tokens.yaml"))
    flags += ("--log-level", "debug", "--log-format", "json", "--drain-delay-s", "0")
    with server_process(models, folder / "log.txt", *flags) as server:
        server.listening()
        found = Secured(server, folder, root, clients)
        with found.connect() as channel:
            until(lambda: health(channel) == health_pb2.HealthCheckResponse.SERVING, "it serves")
        yield found
        assert server.stop() == 0, server.read_log()
        assert_no_secrets(server.read_log())


def assert_no_secrets(log: str) -> None:
    assert "request_id" in log  # else nothing was logged
    for secret in (*TOKENS.values(), WRONG):
        assert secret not in log
        assert hashlib.sha256(secret.encode()).hexdigest() not in log
    assert "PRIVATE KEY" not in log
    assert "internal error" not in log


def health(channel: grpc.Channel) -> int:
    stub = health_pb2_grpc.HealthStub(channel)
    status: int = stub.Check(health_pb2.HealthCheckRequest(), timeout=TIMEOUT_S).status
    return status


def reflected(channel: grpc.Channel) -> set[str]:
    """Services that a server says it has."""
    stub = reflection_pb2_grpc.ServerReflectionStub(channel)
    request = reflection_pb2.ServerReflectionRequest(list_services="")
    (answer,) = stub.ServerReflectionInfo(iter((request,)), timeout=TIMEOUT_S)
    return {service.name for service in answer.list_services_response.service}


def test_every_method_of_every_service_takes_a_token(secured):
    with secured.connect() as channel:
        ours = {name for name in reflected(channel) if name.startswith("pairlens.")}
        assert ours == {path.split("/")[1] for path in METHODS}
        for path in METHODS:
            request = request_type(path)()
            for metadata in ((), bearer(WRONG), (("authorization", TOKENS["ops"]),)):
                code = secured.code(path, request, metadata, channel)
                assert code == "UNAUTHENTICATED UNAUTHENTICATED", path


def test_administration_takes_an_administrators_token(secured):
    with secured.connect() as channel:
        for path in METHODS:
            code = secured.code(path, request_type(path)(), bearer("retrieval"), channel)
            refused = code == "PERMISSION_DENIED PERMISSION_DENIED"
            assert refused == path.startswith("/pairlens.v1.AdminService/"), (path, code)
            assert "UNAUTHENTICATED" not in code
        for name in ("GetCacheStats", "ReloadModels", "ClearCache"):
            path = f"/pairlens.v1.AdminService/{name}"
            assert secured.code(path, request_type(path)(), bearer("ops"), channel) == "OK"


def test_the_messages_of_strangers_are_not_read(secured):
    """Else any of them could fill the memory, a message being up to max_request_bytes long."""
    before = peak_mib(secured.server)
    request = bytes(30_000_000)
    options = [("grpc.max_send_message_length", -1)]
    with secured.connect(options=options) as channel:
        explain = channel.unary_unary("/pairlens.v1.ExplanationService/Explain")
        calls = [
            explain.future(request, metadata=bearer(WRONG), timeout=TIMEOUT_S) for _ in range(20)
        ]
        for call in calls:
            assert call.exception().code() is grpc.StatusCode.UNAUTHENTICATED
            assert failure_of_rpc(call.exception()).reason == "UNAUTHENTICATED"
        assert peak_mib(secured.server) < before + 100
        # Of those who may call they are.
        with pytest.raises(grpc.RpcError) as refused:
            explain(request, metadata=bearer("retrieval"), timeout=TIMEOUT_S)
        assert "malformed" in refused.value.details()


def peak_mib(server: ServerProcess) -> float:
    status = Path(f"/proc/{server.process.pid}/status")
    if not status.exists():
        pytest.skip("no /proc here")
    (line,) = (line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) / 1024


def test_health_and_reflection_are_open_to_all_who_may_connect(secured):
    with secured.connect() as channel:
        assert health(channel) == health_pb2.HealthCheckResponse.SERVING
        assert "grpc.health.v1.Health" in reflected(channel)


def test_who_may_connect(secured):
    root, own = secured.root, secured.clients
    may = {
        "with a certificate": client_credentials(root, own),
        "without one": client_credentials(root),
        "with one of another authority": client_credentials(root, trustme.CA()),
        "trusting another server": client_credentials(trustme.CA(), own),
    }
    found = {}
    for name, credentials in may.items():
        options = [("grpc.use_local_subchannel_pool", 1)]
        with grpc.secure_channel(secured.server.target, credentials, options) as channel:
            found[name] = connects(channel)
    with grpc.insecure_channel(secured.server.target) as channel:
        found["in plaintext"] = connects(channel)
    assert found == {name: name == "with a certificate" for name in (*may, "in plaintext")}


def connects(channel: grpc.Channel) -> bool:
    try:
        health(channel)
    except grpc.RpcError as error:
        return error.code() is not grpc.StatusCode.UNAVAILABLE
    return True


def test_the_log_names_the_caller_by_its_token(secured):
    with secured.connect() as channel:
        stub = model_service_pb2_grpc.ModelServiceStub(channel)
        metadata = (*bearer("retrieval"), ("x-request-id", "named"), ("pairlens-client", "boss"))
        stub.ListModels(model_service_pb2.ListModelsRequest(), metadata=metadata, timeout=TIMEOUT_S)

    def lines() -> list[dict[str, Any]]:
        records = map(json.loads, secured.server.read_log().splitlines())
        return [record for record in records if record.get("request_id") == "named"]

    until(lambda: bool(lines()), "the call is logged")
    assert [line["client"] for line in lines() if "client" in line] == ["retrieval"]


def test_tokens_are_rotated_without_a_restart(secured):
    path, request = "/pairlens.v1.ModelService/ListModels", model_service_pb2.ListModelsRequest()
    tokens = secured.folder / "tokens.yaml"
    with secured.connect() as channel:

        def works(name: str) -> bool:
            return secured.code(path, request, bearer(name), channel) == "OK"

        assert works("retrieval")
        assert not works("next")
        write_tokens(tokens, "retrieval", "next", "ops")
        until(lambda: works("next"), "the new token is known")
        assert works("retrieval")
        write_tokens(tokens, "next", "ops")
        until(lambda: not works("retrieval"), "the old one is not")
        # What is wrong changes nothing.
        put(tokens, b"- name: retrieval\n")
        until(lambda: works("next") and "stay valid" in secured.server.read_log(), "that is told")
        write_tokens(tokens, "retrieval", "ops")
        until(lambda: works("retrieval"), "all is as before")


def test_certificates_are_rotated_without_a_restart(secured):
    new = trustme.CA()
    with secured.connect() as before:
        assert connects(before)
        secured.tls.show(new)

        def knows_the_new() -> bool:
            with secured.connect(new) as channel:
                return connects(channel)

        until(knows_the_new, "the new certificate is shown")
        with secured.connect() as late:
            assert not connects(late)
        assert connects(before)
    secured.root = new


class Bomb:
    """Touches a file when it is unpickled."""

    def __init__(self, target: Path):
        self.target = target

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch '{self.target}'",)


def hostile(folder: Path, suffix: str) -> tuple[Path, Path]:
    """A checkpoint that touches a file when it is unpickled, and that file."""
    target, path = folder / f"owned{suffix}", folder / f"hostile{suffix}"
    state = {"w": torch.ones(1), "args": Bomb(target)}
    torch.save(state, path, _use_new_zipfile_serialization=suffix != ".pt")
    return path, target


@pytest.mark.parametrize("suffix", [".pth", ".pt", ".bin"])
def test_a_hostile_checkpoint_does_not_run_on_reload(secured, suffix):
    path, target = hostile(secured.folder, suffix)
    entry = tiny("evil", checkpoint=path.name)
    entry.pop("random_weights")
    entry.pop("seed")
    models = secured.folder / "models.yaml"
    put(models, yaml.safe_dump({"models": [tiny("first"), entry]}).encode())
    with secured.connect() as channel:
        admin = admin_service_pb2_grpc.AdminServiceStub(channel)
        request = admin_service_pb2.ReloadModelsRequest()
        answer = admin.ReloadModels(request, timeout=TIMEOUT_S, metadata=bearer("ops"))
        kinds = {change.model: change.change for change in answer.changes}
        assert kinds == {
            "first": admin_service_pb2.MODEL_CHANGE_KIND_UNCHANGED,
            "evil": admin_service_pb2.MODEL_CHANGE_KIND_FAILED,
        }
        (error,) = (change.error for change in answer.changes if change.model == "evil")
        failure = failure_of(error)
        assert "not loaded" in failure.message
        assert str(secured.folder) not in failure.message
        # What was served goes on.
        asked = model_service_pb2.ListModelsRequest()
        stub = model_service_pb2_grpc.ModelServiceStub(channel)
        listed = stub.ListModels(asked, timeout=TIMEOUT_S, metadata=bearer("retrieval"))
        assert [info.name for info in listed.models] == ["first"]
    assert not target.exists()
    torch.load(path, weights_only=False)
    assert target.exists()  # else it was a dud


def test_a_hostile_checkpoint_does_not_run_at_the_start(tmp_path):
    path, target = hostile(tmp_path, ".pth")
    entry = tiny("evil", checkpoint=path.name)
    entry.pop("random_weights")
    entry.pop("seed")
    models = tmp_path / "models.yaml"
    models.write_text(yaml.safe_dump({"models": [entry]}))
    with server_process(models, tmp_path / "log.txt") as server:
        assert server.process.wait(TIMEOUT_S * 4) == 2
        assert "evil" in server.read_log()
        assert "not loaded" in server.read_log()
    assert not target.exists()


def test_a_file_that_cannot_be_used_is_told_at_the_start(tmp_path):
    tls = TlsFiles.in_folder(tmp_path)
    tls.show(trustme.CA())
    put(tls.key, trustme.CA().issue_cert("localhost").private_key_pem.bytes())
    (tmp_path / "tokens.yaml").write_text(f"- name: a\n  token: {WRONG}\n  admin: {WRONG}\n")
    models = tmp_path / "models.yaml"
    models.write_text(yaml.safe_dump({"models": [tiny("first")]}))
    wanted = {
        tls.flags: "tls_key_file: tls.key: is not the key of the certificate",
        ("--tokens-file", str(tmp_path / "tokens.yaml")): "entry 1 (a): admin is true or false",
    }
    with ExitStack() as stack:
        servers = [
            stack.enter_context(server_process(models, tmp_path / f"log{number}.txt", *flags))
            for number, flags in enumerate(wanted)
        ]
        for server, words in zip(servers, wanted.values(), strict=True):
            assert server.process.wait(TIMEOUT_S * 4) == 2
            (line,) = server.read_log().splitlines()
            assert line.startswith("pairlens-server: ")
            assert words in line
            assert WRONG not in line


_STREAMS = 4
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


def test_a_message_that_unpacks_to_more_than_is_taken(bounded):
    """256 MB of zeros, a quarter of a megabyte when packed."""
    before = peak_mib(bounded)
    options = [("grpc.max_send_message_length", -1)]
    with (
        grpc.insecure_channel(bounded.target, options) as channel,
        pytest.raises(grpc.RpcError) as refused,
    ):
        channel.unary_unary("/pairlens.v1.ExplanationService/Explain")(
            bytes(2**28), compression=grpc.Compression.Gzip, timeout=60
        )
    assert refused.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert peak_mib(bounded) < before + 100, "all of it was unpacked"


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
