"""Connections that break while an answer is on its way, of which gRPC itself repeats nothing."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import suppress

import grpc
import pytest

from pairlens import Client, Rendering, errors
from pairlens._failures import from_rpc
from pairlens._steps import Deadline, Rpc
from pairlens._transport import call
from tests.client.many import Kind
from tests.client.scripted import Running, Scripted, png
from tests.client.uploading import EXPLAIN, LIST

DRAWN_BYTES, CUT_AT_BYTES = 3_000_000, 500_000


class Relay:
    """Stands between clients and a server, and breaks connections in the midst of answers.

    Args:
        target: The server.

    Attributes:
        target: Its own address.
        cuts: Connections that it is still to break.
    """

    def __init__(self, target: str) -> None:
        host, _, port = target.rpartition(":")
        self._server = host, int(port)
        self.cuts = 0
        self._listening = socket.create_server(("127.0.0.1", 0))
        self._sockets: list[socket.socket] = [self._listening]
        self.target = f"127.0.0.1:{self._listening.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        for one in self._sockets:
            _end(one)

    def _accept(self) -> None:
        while True:
            try:
                near = self._listening.accept()[0]
            except OSError:  # closed
                return
            far = socket.create_connection(self._server)
            self._sockets += [near, far]
            for way in ((near, far, False), (far, near, True)):
                threading.Thread(target=self._carry, args=way, daemon=True).start()

    def _carry(self, source: socket.socket, sink: socket.socket, answers: bool) -> None:
        carried = 0
        with suppress(OSError):
            while data := source.recv(2**16):
                carried += len(data)
                if answers and self.cuts and carried > CUT_AT_BYTES:
                    self.cuts -= 1
                    break
                sink.sendall(data)
        _end(source)
        _end(sink)


def _end(one: socket.socket) -> None:
    with suppress(OSError):  # the other thread was first
        one.shutdown(socket.SHUT_RDWR)
    one.close()


@pytest.fixture
def relay(server: Running) -> Iterator[Relay]:
    server.service.overlay_png = bytes(DRAWN_BYTES)
    made = Relay(server.target)
    yield made
    made.close()


@pytest.mark.parametrize("asynchronous", [False, True], ids=["Client", "AsyncClient"])
def test_a_connection_that_breaks_in_the_answer_is_not_seen(
    relay: Relay, service: Scripted, asynchronous: bool
):
    relay.cuts = 1
    how = {"model": "vit", "render": Rendering(overlay=True)}
    (item,) = Kind(asynchronous, relay.target).items("explain_many", [png()], **how)
    assert item.result.heatmap.shape == (2, 3)
    assert relay.cuts == 0
    assert len(service.requests(EXPLAIN)) == 2


def test_it_is_said_when_it_breaks_again(relay: Relay, service: Scripted):
    relay.cuts = 2
    with Client(relay.target, timeout=10) as client:
        with pytest.raises(errors.UnavailableError, match=r"connection to .* broke: ") as caught:
            client.explain(png(), model="vit", render=Rendering(overlay=True))
        assert caught.value.interrupted
        assert len(service.requests(EXPLAIN)) == 2
        client.explain(png(), model="vit", render=Rendering(overlay=True))


def said(code: grpc.StatusCode, details: str) -> errors.PairlensError:
    nothing = grpc.aio.Metadata()
    error = grpc.aio.AioRpcError(code, nothing, nothing, details)
    return from_rpc(error, target="there:1", timeout=10)


# As gRPC 1.66 to 1.85 have it; UNKNOWN is what clients behind a HAProxy see.
@pytest.mark.parametrize(
    ("code", "details"),
    [
        (grpc.StatusCode.UNAVAILABLE, "Stream removed (Socket closed)"),
        (grpc.StatusCode.UNAVAILABLE, "recvmsg:Connection reset by peer"),
        (grpc.StatusCode.UNAVAILABLE, "Socket closed"),
        (grpc.StatusCode.UNAVAILABLE, "ping timeout"),
        (grpc.StatusCode.UNKNOWN, "Stream removed (Data frame with END_STREAM flag received)"),
        (grpc.StatusCode.INTERNAL, "Received RST_STREAM with error code 2"),
    ],
)
def test_what_grpc_says_of_broken_connections(code: grpc.StatusCode, details: str):
    made = said(code, details)
    assert isinstance(made, errors.UnavailableError)
    assert (made.code, made.interrupted) == ("UNAVAILABLE", True)
    assert made.message == f"the connection to there:1 broke: {details}"


@pytest.mark.parametrize(
    ("code", "details"),
    [
        (grpc.StatusCode.UNAVAILABLE, "backends failing; last error: UNAVAILABLE: Socket closed"),
        (grpc.StatusCode.UNAVAILABLE, "Received http2 header with status: 503"),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, "Received RST_STREAM with error code 11"),
        (grpc.StatusCode.UNKNOWN, "boom"),
    ],
)
def test_what_is_no_broken_connection(code: grpc.StatusCode, details: str):
    made = said(code, details)
    assert made.code == code.name
    assert not getattr(made, "interrupted", False)


def test_it_is_not_made_again_past_its_deadline():
    late = call(lambda stubs: stubs.models.ListModels, LIST(), Deadline(1e-9))
    assert isinstance(next(late), Rpc)
    with pytest.raises(errors.UnavailableError):
        late.throw(broken())


def broken() -> errors.UnavailableError:
    return said(grpc.StatusCode.UNAVAILABLE, "Socket closed")


def test_drain_is_not_made_again(client: Client):
    once, again = client._calls.drain(), client._calls.cache_stats()
    for steps in (once, again):
        assert isinstance(next(steps), Rpc)
    assert isinstance(again.throw(broken()), Rpc)
    with pytest.raises(errors.UnavailableError):
        once.throw(broken())
