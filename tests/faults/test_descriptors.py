"""A server that may open no more files or connections."""

import resource
import socket
import time
from contextlib import ExitStack, contextmanager
from pathlib import Path

import grpc
import psutil
import pytest

from pairlens import Client
from tests.faults.calls import until
from tests.faults.holdings import gives_back
from tests.faults.sdk_load import PICTURES, sdk_load
from tests.redis_server import redis_server
from tests.server_process import server_process, write_models

LEFT = 20
"""Descriptors that the server may open beside those it has."""

WATCHED_S = 3.0


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    folder = tmp_path_factory.mktemp("descriptors")
    models = write_models(folder, ["tiny-vit", "tiny-resnet"])
    flags = ("--metrics-listen", "127.0.0.1:0")
    with redis_server(folder / "redis") as redis:
        flags += ("--redis-url", redis.url)
        with server_process(models, folder / "log.txt", *flags) as found:
            found.listening()
            found.metrics_address()
            found.serving()
            yield found
            assert found.stop() == 0
            assert "Traceback" not in found.read_log()


def open_files(server):
    return len(list(Path(f"/proc/{server.process.pid}/fd").iterdir()))


@contextmanager
def limited(server):
    """Let it open only `LEFT` files more."""
    pid, kind = server.process.pid, resource.RLIMIT_NOFILE
    before = resource.prlimit(pid, kind)
    resource.prlimit(pid, kind, (open_files(server) + LEFT, before[1]))
    try:
        yield
    finally:
        resource.prlimit(pid, kind, before)


def connect(address, stack, count):
    """Connections that say nothing, as many as the server's host takes."""
    host, _, port = address.rpartition(":")
    for _ in range(count):
        stack.enter_context(socket.create_connection((host, int(port)), timeout=5))


def busy_share(process, seconds):
    """Share of one core that a process used, all its threads together."""
    before, begun = process.cpu_times(), time.monotonic()
    time.sleep(seconds)
    after = process.cpu_times()
    spent = after.user + after.system - before.user - before.system
    return spent / (time.monotonic() - begun)


def test_a_server_without_descriptors_serves_whom_it_has(server):
    process = psutil.Process(server.process.pid)
    with Client(server.target) as client, gives_back(process.pid):
        client.explain(PICTURES[0], model="tiny-vit")
        usual = open_files(server)
        with limited(server), ExitStack() as stack:
            connect(server.target, stack, 2 * LEFT)
            connect(server.metrics, stack, 2 * LEFT)
            until(lambda: open_files(server) >= usual + LEFT - 2, "no descriptor is left")
            # Who is connected is served, pictures and models being in memory.
            for picture in PICTURES:
                client.explain(picture, model="tiny-resnet")
            # Who is not waits, and is not lied to.
            options = [("grpc.use_local_subchannel_pool", 1)]
            with (
                grpc.insecure_channel(server.target, options) as channel,
                pytest.raises(grpc.FutureTimeoutError),
            ):
                grpc.channel_ready_future(channel).result(1)
            # It does not run in circles over what it cannot take on.
            assert busy_share(process, WATCHED_S) < 0.5
        # Room again.
        until(lambda: open_files(server) <= usual + 2, "the connections are closed")
        with Client(server.target) as another:
            assert another.explain(PICTURES[0], model="tiny-vit").heatmap.shape == (4, 6)
        assert server.get("/readyz")[0] == 200
        assert server.scrape().value("pairlens_rpc_handled_total", code="OK") > len(PICTURES)


def test_load_comes_and_goes_without_a_trace(server):
    def some():
        with sdk_load([server.target, server.target], threads=2) as reports:
            for report in reports:
                report.await_more(40)
        for report in reports:
            assert not report.failures, report.failures

    for _ in range(3):
        some()
    with gives_back(server.process.pid):
        for _ in range(3):
            some()
