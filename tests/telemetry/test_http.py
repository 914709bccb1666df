"""The port of the metrics, over plain sockets."""

import gzip
import http.client
import socket
import threading
import time

import pytest
from prometheus_client import CollectorRegistry, Counter
from prometheus_client.registry import Collector

from pairlens_server.errors import ConfigurationError
from pairlens_server.telemetry.http import TelemetryServer
from pairlens_server.telemetry.state import Phase, ServerState

LIMIT_S = 10


@pytest.fixture
def state():
    return ServerState(300)


@pytest.fixture
def server(state):
    registry = CollectorRegistry()
    Counter("cats", "Cats.", registry=registry).inc(3)
    server = TelemetryServer("127.0.0.1:0", registry, state)
    yield server
    server.close()


def ask(server, path, method="GET", **headers):
    connection = http.client.HTTPConnection(server.address, timeout=LIMIT_S)
    try:
        connection.request(method, path, headers=headers)
        answer = connection.getresponse()
        return answer.status, dict(answer.headers), answer.read()
    finally:
        connection.close()


def test_metrics(server):
    status, headers, body = ask(server, "/metrics")
    assert status == 200
    assert headers["Content-Type"].startswith("text/plain; version=")
    assert b"cats_total 3.0\n" in body


def test_openmetrics_where_it_is_asked_for(server):
    _, headers, body = ask(server, "/metrics", Accept="application/openmetrics-text; version=1.0.0")
    assert headers["Content-Type"].startswith("application/openmetrics-text")
    assert body.endswith(b"# EOF\n")


def test_gzip_where_it_is_asked_for(server):
    _, headers, body = ask(server, "/metrics", **{"Accept-Encoding": "gzip"})
    assert headers["Content-Encoding"] == "gzip"
    assert b"cats_total 3.0\n" in gzip.decompress(body)


def test_one_metric_alone(server):
    assert b"cats" not in ask(server, "/metrics?name[]=dogs")[2]


@pytest.mark.parametrize("path", ["/metrics", "/livez", "/readyz", "/nothing"])
def test_head_is_get_without_the_body(server, path):
    status, headers, _ = ask(server, path)
    head_status, head_headers, body = ask(server, path, "HEAD")
    assert (head_status, body) == (status, b"")
    for found in (headers, head_headers):
        del found["Date"]
    assert head_headers == headers


def test_other_paths_and_methods(server):
    assert ask(server, "/")[0] == 404
    assert ask(server, "/metrics/x")[0] == 404
    assert ask(server, "/metrics", "POST")[0] == 501


@pytest.mark.parametrize(
    ("phase", "live", "ready"),
    [
        (Phase.LOADING, (200, b"ok\n"), (503, b"loading\n")),
        (Phase.SERVING, (200, b"ok\n"), (200, b"ok\n")),
        (Phase.DRAINING, (200, b"ok\n"), (503, b"draining\n")),
        (Phase.DEAD, (503, b"the device can run nothing any more\n"), (503, b"dead\n")),
    ],
)
def test_probes_in_each_phase(server, state, phase, live, ready):
    state.phase = phase
    for path, expected in (("/livez", live), ("/readyz", ready)):
        status, _, body = ask(server, path)
        assert (status, body) == expected


def test_clients_that_say_nothing_stop_nobody(server):
    silent = [socket.create_connection(("127.0.0.1", server.server_address[1])) for _ in range(100)]
    for connection in silent[::2]:
        connection.sendall(b"GET /metrics HTT")
    began_s = time.monotonic()
    for _ in range(3):
        assert ask(server, "/livez")[0] == 200
    assert time.monotonic() - began_s < LIMIT_S
    # Their threads are bounded: the oldest have been cut off.
    end_s = time.monotonic() + LIMIT_S
    while threading.active_count() > 50:
        assert time.monotonic() < end_s
        time.sleep(0.02)
    silent[0].settimeout(LIMIT_S)
    assert silent[0].recv(1) == b""
    for connection in silent:
        connection.close()


def test_what_is_no_http_stops_nobody(server):
    with socket.create_connection(("127.0.0.1", server.server_address[1])) as connection:
        connection.sendall(b"\x16\x03\x01\x02\x00\x01\x00\r\n\r\n")
        connection.settimeout(LIMIT_S)
        connection.recv(4096)
    assert ask(server, "/livez")[0] == 200


def test_a_client_that_reads_nothing_keeps_nobody_from_scraping(state):
    registry = CollectorRegistry()
    big = Counter("big", "Many series.", ["n"], registry=registry)
    for number in range(50_000):
        big.labels(str(number))
    server = TelemetryServer("127.0.0.1:0", registry, state)
    try:
        with socket.socket() as slow:
            slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            slow.connect(("127.0.0.1", server.server_address[1]))
            slow.sendall(b"GET /metrics HTTP/1.0\r\n\r\n")
            slow.recv(10)
            assert len(ask(server, "/metrics")[2]) > 1_000_000
    finally:
        server.close()


def test_a_bug_in_a_metric_is_logged_and_stops_nobody(state, caplog):
    class Broken(Collector):
        def collect(self):
            raise ValueError("no number")

    registry = CollectorRegistry()
    server = TelemetryServer("127.0.0.1:0", registry, state)
    registry.register(Broken())
    try:
        with pytest.raises(http.client.RemoteDisconnected):
            ask(server, "/metrics")
        assert ask(server, "/livez")[0] == 200
        assert [(r.levelname, r.getMessage()) for r in caplog.records] == [
            ("ERROR", "internal error: a request for metrics could not be answered")
        ]
        assert "no number" in caplog.text
    finally:
        server.close()


def test_ipv6(state):
    try:
        server = TelemetryServer("[::1]:0", CollectorRegistry(), state)
    except ConfigurationError as error:
        pytest.skip(f"no IPv6 here: {error}")
    try:
        assert server.address.startswith("[::1]:")
        assert ask(server, "/livez")[0] == 200
    finally:
        server.close()


def test_a_taken_port_is_told(server, state):
    with pytest.raises(ConfigurationError, match="Address already in use"):
        TelemetryServer(server.address, CollectorRegistry(), state)


def test_it_ends(state):
    server = TelemetryServer("127.0.0.1:0", CollectorRegistry(), state)
    server.close()
    with pytest.raises(ConnectionRefusedError):
        ask(server, "/livez")
