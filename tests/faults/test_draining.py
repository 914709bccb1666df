"""The end of a server under load: nothing that it accepted is lost, and it ends in time."""

from __future__ import annotations

import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from google.protobuf.message import Message
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_status import rpc_status
from PIL import Image

from pairlens.v1 import (
    admin_service_pb2,
    admin_service_pb2_grpc,
    explanation_service_pb2_grpc,
)
from tests.contract.support import encoded, failure_of_rpc, png
from tests.faults.calls import BYPASS, Caller, Explain, Pair, content, inline, until
from tests.faults.impostors import listener
from tests.faults.load import beside
from tests.redis_server import free_port
from tests.server_process import ServerProcess, server_process, write_models

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING

QUICK = Explain(model="tiny-vit", image=inline(png(1)), cache=BYPASS)
# Some seconds of drawing.
SLOW = Pair(
    model="tiny-vit",
    query=inline(png(1, 700, 700)),
    candidates=[inline(png(seed, 700, 700)) for seed in range(100, 130)],
    rendering={"overlay": True},
)
# Far longer than any test takes; whoever waits for it would be seen to.
FOR_EVER_S = "3600"
SOON_S = 30


@contextmanager
def served(folder: Path, *flags: str) -> Iterator[ServerProcess]:
    """A server of one model, all answers of which have the same bits."""
    models = write_models(folder, ["tiny-vit"])
    with server_process(models, folder / "log.txt", "--max-batch", "1", *flags) as server:
        server.listening()
        server.serving()
        yield server
        log = server.read_log()
        assert "internal error" not in log, log
        assert "Traceback" not in log, log


def health(server: ServerProcess) -> int:
    with grpc.insecure_channel(server.target) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        return int(stub.Check(health_pb2.HealthCheckRequest(), timeout=SOON_S).status)


def drain(server: ServerProcess) -> int:
    with grpc.insecure_channel(server.target) as channel:
        stub = admin_service_pb2_grpc.AdminServiceStub(channel)
        answer = stub.Drain(admin_service_pb2.DrainRequest(), timeout=SOON_S)
        return int(answer.calls_under_way)


@contextmanager
def under_way(caller: Caller, request: Message, count: int = 1) -> Iterator[list[Any]]:
    """Calls that the server has let in, as futures."""
    futures = [caller.begin(request) for _ in range(count)]
    # It lets in what comes in turn, so what comes later is answered later.
    caller.send(QUICK)
    assert not any(future.done() for future in futures)
    yield futures


@contextmanager
def watched(server: ServerProcess) -> Iterator[list[int]]:
    """An open Health.Watch; what it has said so far."""
    said: list[int] = []
    with grpc.insecure_channel(server.target) as channel:
        watch = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest())

        def listen() -> None:
            with suppress(grpc.RpcError):
                said.extend(answer.status for answer in watch)

        with beside([listen]):
            until(lambda: said == [SERVING], "health is watched")
            yield said
            watch.cancel()


@dataclass
class Outcomes:
    """What calls came to while a server ended.

    Attributes:
        answers: Distinct answers.
        served: When each was answered, by the monotonic clock.
        refused: Reasons of those that the server turned away.
        others: What gRPC said of those that it did not answer.
    """

    answers: set[bytes] = field(default_factory=set)
    served: list[float] = field(default_factory=list)
    refused: set[str] = field(default_factory=set)
    others: set[grpc.StatusCode] = field(default_factory=set)


@contextmanager
def calling(target: str, outcomes: Outcomes, threads: int) -> Iterator[None]:
    """Call on some threads until the block ends."""
    stop = threading.Event()
    with beside([lambda: call_on(target, outcomes, stop)] * threads):
        try:
            yield
        finally:
            stop.set()


def call_on(target: str, outcomes: Outcomes, stop: threading.Event) -> None:
    """Call without pause, each time anew when the connection is gone, until told to stop."""
    with Caller(target) as caller:
        while not stop.is_set():
            call_once(caller, outcomes)


def call_once(caller: Caller, outcomes: Outcomes) -> None:
    try:
        answer = caller.send(QUICK)
    except grpc.RpcError as error:
        if rpc_status.from_call(error) is not None:
            outcomes.refused.add(failure_of_rpc(error).reason)
        else:
            outcomes.others.add(error.code())
        time.sleep(0.01)
    else:
        outcomes.answers.add(content(answer))
        outcomes.served.append(time.monotonic())


def test_nothing_accepted_is_lost_under_load(tmp_path):
    outcomes = Outcomes()
    flags = ("--drain-delay-s", "1", "--drain-s", FOR_EVER_S)
    with served(tmp_path, *flags) as server, watched(server) as said, Caller(server.target) as one:
        with calling(server.target, outcomes, 6), under_way(one, SLOW) as (slow,):
            until(lambda: len(outcomes.served) > 20, "calls are answered")
            told = time.monotonic()
            server.process.send_signal(signal.SIGTERM)
            until(lambda: said[-1] == NOT_SERVING, "health says so")
            answer = slow.result(timeout=SOON_S)
            # An open watch would keep it for an hour.
            assert server.process.wait(SOON_S) == 0
        # What it has answered has arrived.
        assert server.read_log().count("Explain OK") == len(outcomes.served) + 1
    assert len(answer.results) == len(SLOW.candidates)
    assert all(result.match.query.rendered.overlay_png for result in answer.results)
    assert outcomes.refused == {"DRAINING"}
    # Whoever met it in its last moment is told what may be tried elsewhere.
    assert outcomes.others == {grpc.StatusCode.UNAVAILABLE}
    assert len(outcomes.answers) == 1
    # Who had not heard of it was served all the same.
    assert sum(1 for served_s in outcomes.served if told + 0.1 < served_s < told + 1) > 5


def test_calls_are_served_for_the_delay_and_a_signal_after_drain_is_no_second_one(tmp_path):
    """As an orchestrator does it: a hook that drains, then the signal."""
    flags = ("--drain-delay-s", FOR_EVER_S, "--drain-s", FOR_EVER_S)
    with served(tmp_path, *flags) as server, Caller(server.target) as caller:
        expected = content(caller.send(QUICK))
        assert drain(server) == 0
        assert drain(server) == 0  # again changes nothing
        assert health(server) == NOT_SERVING
        server.process.send_signal(signal.SIGTERM)
        with under_way(caller, SLOW) as (slow,):
            assert content(caller.send(QUICK)) == expected
            assert len(slow.result(timeout=SOON_S).results) == len(SLOW.candidates)
        # Models are none of its concern any more.
        stub = admin_service_pb2_grpc.AdminServiceStub(caller.channel)
        with pytest.raises(grpc.RpcError) as caught:
            stub.ReloadModels(admin_service_pb2.ReloadModelsRequest(), timeout=SOON_S)
        assert failure_of_rpc(caught.value).reason == "DRAINING"
        assert server.process.poll() is None
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(SOON_S) == 0


def test_sigint_skips_the_delay_and_nothing_else(tmp_path):
    flags = ("--drain-delay-s", FOR_EVER_S, "--drain-s", FOR_EVER_S)
    with served(tmp_path, *flags) as server, Caller(server.target) as caller:
        with under_way(caller, SLOW) as (slow,):
            assert drain(server) == 1
            server.process.send_signal(signal.SIGINT)
            assert len(slow.result(timeout=SOON_S).results) == len(SLOW.candidates)
        assert server.process.wait(SOON_S) == 0


def test_a_second_signal_ends_it_at_once(tmp_path):
    flags = ("--drain-delay-s", "0", "--drain-s", FOR_EVER_S)
    with served(tmp_path, *flags) as server, watched(server), Caller(server.target) as caller:
        with under_way(caller, SLOW) as (slow,):
            server.process.send_signal(signal.SIGTERM)
            until(lambda: "stopping: 1 calls under way" in server.read_log(), "it stops")
            assert not slow.done()
            server.process.send_signal(signal.SIGTERM)
            assert server.process.wait(SOON_S) == 0
            with pytest.raises(grpc.RpcError) as caught:
                slow.result(timeout=SOON_S)
        # It may be tried elsewhere.
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
        assert "told twice to stop: cutting off 1 calls" in server.read_log()


def test_calls_that_take_longer_than_they_may_are_cut_off(tmp_path):
    with served(tmp_path, "--drain-s", "0.2") as server, watched(server):
        with Caller(server.target) as caller, under_way(caller, SLOW, count=3) as slow:
            server.process.send_signal(signal.SIGTERM)
            assert server.process.wait(SOON_S) == 0
            for call in slow:
                with pytest.raises(grpc.RpcError) as caught:
                    call.result(timeout=SOON_S)
                assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
        assert "cutting off 3 calls after 0.2 s" in server.read_log()


# Its weights alone take a second to make.
LARGE = {
    "name": "large",
    "architecture": "vit_base_patch16_224",
    "random_weights": True,
    "seed": 1,
    "device": "cpu",
}


def test_a_reload_under_way_is_given_up(tmp_path):
    with served(tmp_path) as server, grpc.insecure_channel(server.target) as channel:
        write_models(tmp_path, ["tiny-vit"], also=[LARGE])
        stub = admin_service_pb2_grpc.AdminServiceStub(channel)
        reload = stub.ReloadModels.future(admin_service_pb2.ReloadModelsRequest(), timeout=SOON_S)
        # On one connection, what comes later is answered later.
        stub.GetCacheStats(admin_service_pb2.GetCacheStatsRequest(), timeout=SOON_S)
        assert not reload.done()
        server.process.send_signal(signal.SIGTERM)
        with pytest.raises(grpc.RpcError) as caught:
            reload.result()
        assert failure_of_rpc(caught.value).reason == "DRAINING"
        assert server.process.wait(SOON_S) == 0
        assert "model large: added" not in server.read_log()


def read_slowly(port: int) -> Callable[[socket.socket], None]:
    """Pass a connection on to a server, and some megabytes a second of what that says.

    Whoever asks for more meanwhile speaks to the server, which resets what it has closed.
    """

    def serve(client: socket.socket) -> None:
        def ask(server: socket.socket) -> None:
            with suppress(OSError):
                while data := client.recv(2**16):
                    server.sendall(data)

        with socket.socket() as server:
            # Else the kernel would take megabytes of it at once.
            server.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2**16)
            server.connect(("127.0.0.1", port))
            threading.Thread(target=ask, args=(server,), daemon=True).start()
            while data := server.recv(2**15):
                client.sendall(data)
                time.sleep(0.01)

    return serve


def test_an_answer_on_its_way_arrives_whole(tmp_path):
    """The call has ended for the server, and its reader takes some seconds more."""
    noisy = np.random.default_rng(0).integers(0, 256, (2400, 3000, 3), dtype=np.uint8)
    request = Explain(
        model="tiny-vit",
        image=inline(encoded(Image.fromarray(noisy))),
        rendering={"overlay": True},
        cache=BYPASS,
    )
    flags = ("--max-image-bytes", "40000000", "--drain-s", FOR_EVER_S)
    with served(tmp_path, *flags) as server:
        port = free_port()
        with listener(port, read_slowly(int(server.target.rpartition(":")[2]))):
            options = [("grpc.max_receive_message_length", -1)]
            with grpc.insecure_channel(f"127.0.0.1:{port}", options=options) as channel:
                stub = explanation_service_pb2_grpc.ExplanationServiceStub(channel)
                call = stub.Explain.future(request, timeout=120)
                until(lambda: "Explain OK" in server.read_log(), "the call has ended", 60)
                server.process.send_signal(signal.SIGTERM)
                until(lambda: "stopping: 0 calls under way" in server.read_log(), "it stops")
                assert not call.done()
                overlay = call.result(timeout=120).rendered.overlay_png
        assert len(overlay) > 10_000_000
        assert server.process.wait(SOON_S) == 0
