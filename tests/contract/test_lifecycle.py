"""Start and end of the process, and overload."""

import json
import signal
import socket
import time
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


def test_overload_then_drain(models, tmp_path):
    log = tmp_path / "log.txt"
    flags = (
        *("--max-queued", str(QUEUE), "--max-candidates", str(QUEUE - 1)),
        *("--max-batch", "1", "--drain-s", "120"),
    )
    with server_process(models, log, *flags) as server:
        stubs = Stubs(server.listening())
        server.serving()
        overload(stubs)

        with ThreadPoolExecutor(1) as pool:
            # Some seconds of drawing, so that the signal comes in between.
            candidates = [png(seed, 700, 700) for seed in range(100, 130)]
            request = pool.submit(
                stubs.pair, "tiny-vit", png(1, 700, 700), *candidates, rendering={"overlay": True}
            )
            time.sleep(0.3)
            assert not request.done()
            server.process.send_signal(signal.SIGTERM)
            time.sleep(0.1)
            with pytest.raises(grpc.RpcError) as caught:
                stubs.explain("tiny-vit")
            found = failure_of_rpc(caught.value)
            assert (found.code, found.reason) == ("UNAVAILABLE", "DRAINING")
            results = request.result().results
        assert len(results) == len(candidates)
        assert all(result.match.query.rendered.overlay_png for result in results)
        assert server.process.wait(10) == 0
        stubs.channel.close()
        assert "ready on 127.0.0.1:" in server.read_log()


@pytest.fixture
def slow_models(tmp_path):
    (small,) = [model for model in MODELS if model["name"] == "tiny-vit"]
    # Small patches and many blocks: the roll-out of the warm-up takes seconds.
    options = {**small["architecture_options"], "patch_size": 4, "depth": 24}
    slow = {**small, "architecture_options": options, "preprocessing": {"size": 160}}
    path = tmp_path / "models.yaml"
    path.write_text(yaml.safe_dump({"models": [slow]}))
    return path


def test_a_server_that_loads_answers_that_it_does(slow_models, tmp_path):
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
        assert "ready on" not in server.read_log()
        stubs.channel.close()


def test_a_server_that_serves_is_ready(models, tmp_path):
    flags = ("--metrics-listen", "127.0.0.1:0")
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


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_while_it_loads_ends_it_at_once(slow_models, tmp_path, number):
    with server_process(slow_models, tmp_path / "log.txt") as server:
        server.listening()
        server.process.send_signal(number)
        assert server.process.wait(10) == 0
        # It was not done with the warm-up, and the signal did not wait for that.
        assert "ready on" not in server.read_log()


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


def test_logs_can_be_json(models, tmp_path):
    with server_process(models, tmp_path / "log.txt", "--log-format", "json") as server:
        server.listening()
        server.serving()
        assert server.stop() == 0
        lines = [json.loads(line) for line in server.read_log().splitlines()]
    assert any("ready on" in line["message"] for line in lines)
    assert all({"time", "level", "logger", "message"} <= line.keys() for line in lines)
