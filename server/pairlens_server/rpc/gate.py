"""The door that every call of pairlens' services goes through: open, shut, or too full."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

from pairlens_server.errors import DrainingError, NotReadyError, QueueFullError

_READY_AGAIN_S = 1.0  # what callers of a server that warms up are told to wait
_ROOM_AGAIN_S = 0.2  # and those of one that holds too many bytes


class Gate:
    """Lets calls in while the server serves, and counts those under way.

    Our own count, since gRPC's `maximum_concurrent_rpcs` also refuses health checks, and its
    `stop` also waits for open `Health.Watch` calls. Used by the event loop alone.

    Args:
        max_bytes: Of all requests under way together; one alone is always let in.
    """

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._is_open = False
        self._is_closed = False
        self._under_way = 0
        self._bytes = 0
        self._let_in = 0
        self._idle = asyncio.Event()
        self._idle.set()

    @property
    def under_way(self) -> int:
        """Calls that were let in and have not ended."""
        return self._under_way

    @property
    def bytes_under_way(self) -> int:
        """Of their requests."""
        return self._bytes

    @property
    def max_bytes(self) -> int:
        """Bound of `bytes_under_way`."""
        return self._max_bytes

    @property
    def let_in(self) -> int:
        """Calls that were ever let in."""
        return self._let_in

    def open(self) -> None:
        """Let calls in."""
        self._is_open = True

    def close(self) -> None:
        """Refuse new calls for good; those under way go on."""
        self._is_closed = True

    @contextmanager
    def admitted(self, nbytes: int = 0) -> Iterator[None]:
        """Count a call for the length of a block.

        Args:
            nbytes: Length of its request.

        Raises:
            NotReadyError: Before `open`.
            DrainingError: After `close`.
            QueueFullError: The requests under way hold too many bytes.
        """
        if self._is_closed:
            raise DrainingError("the server is stopping and takes no new calls")
        if not self._is_open:
            raise NotReadyError("the server is still warming up", retry_after_s=_READY_AGAIN_S)
        if self._under_way and self._bytes + nbytes > self._max_bytes:
            raise QueueFullError(
                f"requests under way hold {self._bytes} of {self._max_bytes} bytes already",
                retry_after_s=_ROOM_AGAIN_S,
            )
        self._under_way += 1
        self._let_in += 1
        self._bytes += nbytes
        self._idle.clear()
        try:
            yield
        finally:
            self._under_way -= 1
            self._bytes -= nbytes
            if not self._under_way:
                self._idle.set()

    async def wait_idle(self, timeout_s: float) -> bool:
        """Wait until no call is under way; False when the time was up first."""
        try:
            await asyncio.wait_for(self._idle.wait(), timeout_s)
        except asyncio.TimeoutError:
            return False
        return True
