"""Who gets in, what is kept from whom, and what a stranger's load is bounded by: real servers."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import pytest
import torch
import trustme
import yaml
from google.protobuf.message import Message
from grpc_health.v1 import health_pb2

from pairlens.v1 import (
    admin_service_pb2,
    admin_service_pb2_grpc,
    model_service_pb2,
    model_service_pb2_grpc,
)
from tests.certificates import TlsFiles, client_credentials, put
from tests.contract.support import failure_of, failure_of_rpc
from tests.faults.calls import until
from tests.faults.hostile import hostile, tiny
from tests.faults.open_services import health, reflected
from tests.fuzz.cases import METHODS, request_type
from tests.fuzz.vitals import peak_mib
from tests.server_process import ServerProcess, server_process

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
