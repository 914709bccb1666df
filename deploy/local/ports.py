"""TCP ports of this machine's loopback interface."""

from __future__ import annotations

import random
import socket

HOST = "127.0.0.1"

# Below the ports that Linux gives to outgoing connections (32768 and up): among those, somebody's
# connection could take a replica's port while it restarts, a client's own attempts included.
_FREE = range(20_000, 32_000)
_ATTEMPTS = 200


class PortError(Exception):
    """A port that was asked for is taken, or none is free; the message says which."""


class Ports:
    """Hands out each port once."""

    def __init__(self) -> None:
        self._given: set[int] = set()

    def take(self, first: int, count: int) -> list[int]:
        """The ports `first`, `first + 1` and so on; with `first` 0 any that are free.

        Raises:
            PortError: One is taken, or above 65535.
        """
        if first == 0:
            return [self._free() for _ in range(count)]
        ports = list(range(first, first + count))
        for port in ports:
            if port > 65_535 or port in self._given or not _is_free(port):
                raise PortError(f"port {port} is taken or does not exist; 0 takes free ones")
        self._given.update(ports)
        return ports

    def _free(self) -> int:
        for _ in range(_ATTEMPTS):
            port = random.choice(_FREE)
            if port not in self._given and _is_free(port):
                self._given.add(port)
                return port
        raise PortError(f"no free port was found from {_FREE.start} to {_FREE.stop - 1}")


def _is_free(port: int) -> bool:
    with socket.socket() as trial:
        # As servers do: what is left of an ended connection does not make a port taken.
        trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            trial.bind((HOST, port))
        except OSError:
            return False
    return True
