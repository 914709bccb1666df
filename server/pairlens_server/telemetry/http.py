"""/metrics, /livez and /readyz over plain HTTP, on threads of their own.

On their own port, since neither scraper nor kubelet speaks gRPC with TLS and tokens; and on their
own threads, since an event loop that hangs must still be told of.
"""

from __future__ import annotations

import errno
import io
import logging
import socket
import socketserver
import sys
import threading
import time
from collections import OrderedDict
from contextlib import suppress
from http import HTTPStatus
from typing import Any

from prometheus_client import CollectorRegistry, MetricsHandler

from pairlens_server.errors import ConfigurationError
from pairlens_server.telemetry.state import ServerState

_MOST_CONNECTIONS = 32
_SILENT_S = 10.0  # that a client may take for its next byte
_POLL_S = 0.1
_NO_DESCRIPTOR_S = 0.2

_log = logging.getLogger(__name__)


class TelemetryServer(socketserver.ThreadingMixIn, socketserver.TCPServer):
    """Answers each connection on a thread; one request each.

    When more connections are open than it has threads for, the oldest is cut off: however many
    clients are slow, whoever comes next is answered.

    Args:
        listen: HOST:PORT, an IPv6 address in brackets; port 0 takes a free one.
        registry: Of the metrics.
        state: Of the server.

    Raises:
        ConfigurationError: The address cannot be listened on; says why.
    """

    daemon_threads = True
    block_on_close = False
    allow_reuse_address = True
    request_queue_size = 128

    def __init__(self, listen: str, registry: CollectorRegistry, state: ServerState):
        host, _, port = listen.rpartition(":")
        self.state = state
        self.scraping = threading.Lock()
        self._open: OrderedDict[socket.socket, None] = OrderedDict()
        self._opening = threading.Lock()
        try:
            self.address_family, _, _, _, address = socket.getaddrinfo(
                host.strip("[]"), int(port), type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
            )[0]
            super().__init__((str(address[0]), int(address[1])), _Handler.factory(registry))
        except OSError as error:
            reason = error.strerror or error
            raise ConfigurationError(f"cannot listen on {listen}: {reason}") from error
        self.address = f"{host}:{self.server_address[1]}"
        """HOST:PORT as bound."""
        self._thread = threading.Thread(
            target=self.serve_forever, args=(_POLL_S,), name="metrics", daemon=True
        )
        self._thread.start()

    def close(self) -> None:
        """Take no more connections, and end."""
        self.shutdown()
        self.server_close()
        self._thread.join()

    def get_request(self) -> tuple[socket.socket, Any]:
        """See `socketserver.TCPServer`."""
        try:
            return super().get_request()
        except OSError as error:
            if error.errno in (errno.EMFILE, errno.ENFILE):
                # The connection stays in line, so that the selector would come back at once.
                time.sleep(_NO_DESCRIPTOR_S)
            raise

    def process_request(self, request: Any, client_address: Any) -> None:
        """See `socketserver.BaseServer`."""
        with self._opening:
            self._open[request] = None
            oldest = next(iter(self._open)) if len(self._open) > _MOST_CONNECTIONS else None
            if oldest is not None:
                del self._open[oldest]
                _cut_off(oldest)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        """See `socketserver.BaseServer`."""
        with self._opening:
            self._open.pop(request, None)
        super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """See `socketserver.BaseServer`; clients that go away, or say nothing, are no news."""
        if isinstance(sys.exc_info()[1], OSError):
            _log.debug("a request for metrics failed", exc_info=True)
        else:
            _log.exception("internal error: a request for metrics could not be answered")


class _Handler(MetricsHandler):
    """Answers GET and HEAD."""

    server: TelemetryServer
    timeout = _SILENT_S
    server_version = "pairlens"
    sys_version = ""

    def do_GET(self) -> None:  # noqa: N802
        """Answer with a body."""
        self.wfile.write(self._answer())

    def do_HEAD(self) -> None:  # noqa: N802
        """Answer with what a GET would have above its body."""
        head, end, _ = self._answer().partition(b"\r\n\r\n")
        self.wfile.write(head + end)

    def _answer(self) -> bytes:
        # Whole, before anything is sent: a client that reads slowly holds no lock, and one that
        # reads half a page is told so by the length.
        out, self.wfile = self.wfile, io.BytesIO()
        try:
            path = self.path.partition("?")[0]
            if path == "/metrics":
                self._metrics()
            elif path == "/livez":
                self._text("\n".join(self.server.state.live()))
            elif path == "/readyz":
                self._text(self.server.state.ready())
            else:
                self._text("not found", HTTPStatus.NOT_FOUND)
            answer: bytes = self.wfile.getvalue()
            return answer
        finally:
            self.wfile = out

    def _metrics(self) -> None:
        # One at a time: rendering keeps the event loop from running for some milliseconds.
        with self.server.scraping:
            super().do_GET()

    def _text(self, problem: str, status: HTTPStatus = HTTPStatus.SERVICE_UNAVAILABLE) -> None:
        body = f"{problem or 'ok'}\n".encode()
        self.send_response(status if problem else HTTPStatus.OK)
        self.send_header("Content-Type", "text/plain; charset=utf-8")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


def _cut_off(connection: socket.socket) -> None:
    with suppress(OSError):  # it has gone already
        connection.shutdown(socket.SHUT_RDWR)
