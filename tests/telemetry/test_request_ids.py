"""Whose request id lines of a real server's log have."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import grpc

from pairlens.v1 import explanation_service_pb2, explanation_service_pb2_grpc
from tests.contract.support import image, unseen
from tests.redis_server import redis_server
from tests.server_process import ServerProcess, server_process, write_models

LIMIT_S = 30


def line_with(server: ServerProcess, words: str) -> dict[str, Any]:
    """The first line of the log that says so, once it is there."""
    end_s = time.monotonic() + LIMIT_S
    while True:
        for text in server.read_log().splitlines():
            line: dict[str, Any] = json.loads(text)
            if words in line["message"]:
                return line
        assert time.monotonic() < end_s, server.read_log()
        time.sleep(0.05)


def test_what_a_call_sets_off_is_not_its_own_once_it_has_ended(tmp_path: Path) -> None:
    (tmp_path / "redis").mkdir()
    models = write_models(tmp_path, ["tiny-vit"])
    with redis_server(tmp_path / "redis") as redis:
        flags = ("--redis-url", redis.url, "--log-format", "json", "--log-calls", "none")
        with server_process(models, tmp_path / "log.txt", *flags) as server:
            with grpc.insecure_channel(server.listening()) as channel:
                server.serving()
                stub = explanation_service_pb2_grpc.ExplanationServiceStub(channel)
                redis.stop()
                end_s = time.monotonic() + LIMIT_S
                while "is left alone" not in server.read_log():
                    assert time.monotonic() < end_s
                    request = explanation_service_pb2.ExplainRequest(
                        model="tiny-vit", image=image(unseen())
                    )
                    stub.Explain(request, timeout=60, metadata=(("x-request-id", "mine"),))
            assert line_with(server, "is left alone")["request_id"] == "mine"
            redis.start()
            assert "request_id" not in line_with(server, "answers again")
