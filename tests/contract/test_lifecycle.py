"""Start and end of the process, and overload."""

import json
import signal
import socket
from concurrent.futures import ThreadPoolExecutor

import grpc
import pytest
import yaml
from google.rpc import error_details_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc

from tests.contract.support import Failure, Stubs, failure_of_rpc, png
from tests.server_process import MODELS, server_process, write_models

QUEUE = 40
# Of which each has two pictures waiting at a time, of so short a queue.
CALLS = 32


@pytest.fixture
def models(tmp_path):
    return write_models(tmp_path, ["tiny-vit"])


def overload(stubs):
    """Calls that each fit into the queue, and not all at once."""

    def call(number):
        query, *candidates = (png(seed) for seed in range(QUEUE * number, QUEUE * (number + 1)))
        try:
            return stubs.pair("tiny-vit", query, *candidates)
        except grpc.RpcError as error:
            return failure_of_rpc(error)

    with ThreadPoolExecutor(CALLS) as pool:
        failures = [a for a in pool.map(call, range(CALLS)) if isinstance(a, Failure)]
    assert failures
    for found in failures:
        assert (found.code, found.reason) == ("RESOURCE_EXHAUSTED", "QUEUE_FULL")
        delay = found.detail(error_details_pb2.RetryInfo).retry_delay
        assert delay.ToMilliseconds() > 0
    assert not isinstance(call(CALLS), Failure)  # alone, it has the queue for itself


def test_overload(models, tmp_path):
    flags = (
        *("--max-queued", str(QUEUE), "--max-candidates", str(QUEUE - 1)),
        *("--max-batch", "1"),
    )
    with server_process(models, tmp_path / "log.txt", *flags) as server:
        stubs = Stubs(server.listening())
        server.serving()
        overload(stubs)
        stubs.channel.close()


@pytest.fixture
def slow_models(tmp_path):
    (small,) = [model for model in MODELS if model["name"] == "tiny-vit"]
    # Small patches and many blocks: the roll-out of the warm-up takes seconds.
    options = {**small["architecture_options"], "patch_size": 4, "depth": 24}
    slow = {**small, "architecture_options": options, "preprocessing": {"size": 160}}
    path = tmp_path / "models.yaml"
    path.write_text(yaml.safe_dump({"models": [slow]}))
    return path


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_server_that_loads_says_so_and_ends_at_once(slow_models, tmp_path, number):
    flags = ("--metrics-listen", "127.0.0.1:0")
    with server_process(slow_models, tmp_path / "log.txt", *flags) as server:
        stubs = Stubs(server.listening())
        server.metrics_address()
        for call in (stubs.list_models, stubs.explain):
            with pytest.raises(grpc.RpcError) as caught:
                call()
            found = failure_of_rpc(caught.value)
            assert (found.code, found.reason) == ("UNAVAILABLE", "NOT_READY")
            assert found.detail(error_details_pb2.RetryInfo).retry_delay.seconds == 1
        health = health_pb2_grpc.HealthStub(stubs.channel)
        assert (
            health.Check(health_pb2.HealthCheckRequest(), timeout=10).status
            == health_pb2.HealthCheckResponse.NOT_SERVING
        )
        assert server.get("/livez")[0] == 200
        assert server.get("/readyz")[0] == 503
        stubs.channel.close()
        server.process.send_signal(number)
        assert server.process.wait(30) == 0
        # It was not done with the warm-up, and the signal did not wait for that.
        assert "ready on" not in server.read_log()
        assert "told to stop while the models load" in server.read_log()


def test_a_server_that_serves_is_ready(models, tmp_path):
    flags = ("--metrics-listen", "127.0.0.1:0", "--log-format", "json")
    with server_process(models, tmp_path / "log.txt", *flags) as server:
        stubs = Stubs(server.listening())
        server.metrics_address()
        server.serving()
        assert server.get("/readyz")[0] == 200
        health = health_pb2_grpc.HealthStub(stubs.channel)
        listed = health.List(health_pb2.HealthListRequest(), timeout=10).statuses
        assert {"", "models/tiny-vit", "pairlens.v1.ExplanationService"} <= set(listed)
        serving = health_pb2.HealthCheckResponse.SERVING
        assert {found.status for found in listed.values()} == {serving}
        stubs.channel.close()
        assert server.stop() == 0
        lines = [json.loads(line) for line in server.read_log().splitlines()]
    assert any("ready on" in line["message"] for line in lines)
    assert all({"time", "level", "logger", "message"} <= line.keys() for line in lines)


def test_a_taken_port_is_told_before_models_load(models, tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        listen = f"127.0.0.1:{taken.getsockname()[1]}"
        with server_process(models, tmp_path / "log.txt", "--listen", listen) as server:
            assert server.process.wait(60) == 2
            assert server.read_log() == (
                f"pairlens-server: cannot listen on {listen}: Address already in use\n"
            )


def test_a_model_that_cannot_be_loaded_is_told(tmp_path):
    path = tmp_path / "models.yaml"
    path.write_text("models: [{name: m, architecture: resnet10t, checkpoint: gone.pth}]\n")
    with server_process(path, tmp_path / "log.txt") as server:
        assert server.process.wait(60) == 2
        (line,) = server.read_log().splitlines()
        assert line.startswith("pairlens-server: model 'm': gone.pth")
