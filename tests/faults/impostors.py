"""What stands on a port instead of a server, or in front of one: nonsense, and slowness."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

Serve = Callable[[socket.socket], None]


@contextmanager
def listener(port: int, serve: Serve) -> Iterator[None]:
    """Listen on a port of 127.0.0.1 and serve each connection on a thread of its own.

    At the end the port is free again and every connection broken.
    """
    connections: list[socket.socket] = []
    threads: list[threading.Thread] = []

    def one(connection: socket.socket) -> None:
        with suppress(OSError), connection:
            serve(connection)

    def accept() -> None:
        with suppress(OSError):
            while True:
                connection, _ = server.accept()
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                connections.append(connection)
                threads.append(threading.Thread(target=one, args=(connection,), daemon=True))
                threads[-1].start()

    # Not `create_server`, whose SO_REUSEADDR is not set everywhere: whoever had the port before
    # has left connections behind that the kernel still remembers.
    with socket.socket() as server:
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        server.bind(("127.0.0.1", port))
        server.listen(64)
        accepting = threading.Thread(target=accept, daemon=True)
        accepting.start()
        try:
            yield
        finally:
            # Closing alone does not wake a thread that waits in `accept` or `recv`.
            _shut(server)
            accepting.join()
            for connection in connections:
                _shut(connection)
            for thread in threads:
                thread.join()


def saying(words: bytes) -> Serve:
    """Answer whatever is said with the same words."""

    def serve(connection: socket.socket) -> None:
        while connection.recv(65536):
            connection.sendall(words)

    return serve


def passing_on(port: int, *, delay_s: float, at_once: int = 65536) -> Serve:
    """Talk to a server on another port, each piece of whose answers comes late.

    Args:
        port: Of the server, on 127.0.0.1.
        delay_s: Waited before each piece is passed on.
        at_once: Bytes of a piece at most.
    """

    def serve(connection: socket.socket) -> None:
        with socket.create_connection(("127.0.0.1", port)) as server:
            questions = threading.Thread(target=_pump, args=(connection, server), daemon=True)
            questions.start()
            try:
                while piece := server.recv(at_once):
                    time.sleep(delay_s)
                    connection.sendall(piece)
            finally:
                _shut(server)
                _shut(connection)
                questions.join()

    return serve


def _pump(source: socket.socket, sink: socket.socket) -> None:
    with suppress(OSError):
        while piece := source.recv(65536):
            sink.sendall(piece)
    _shut(sink)


def _shut(connection: socket.socket) -> None:
    with suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)
