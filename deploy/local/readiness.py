"""Whether a process answers yet."""

from __future__ import annotations

import http.client
import socket
import urllib.request

_TIMEOUT_S = 2.0

# Not through a proxy that the environment names: everything here is on this machine.
_OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def answers_http(url: str) -> bool:
    """Whether a GET of the URL is answered with 200."""
    try:
        with _OPENER.open(url, timeout=_TIMEOUT_S) as answer:
            return bool(answer.status == 200)
    except (OSError, http.client.HTTPException):
        return False


def accepts(host: str, port: int) -> bool:
    """Whether somebody accepts connections there."""
    try:
        socket.create_connection((host, port), timeout=_TIMEOUT_S).close()
    except OSError:
        return False
    return True


def answers_redis(host: str, port: int) -> bool:
    """Whether a Redis there answers a PING."""
    try:
        with socket.create_connection((host, port), timeout=_TIMEOUT_S) as connection:
            connection.sendall(b"PING\r\n")
            return connection.recv(64).startswith(b"+PONG")
    except OSError:
        return False
