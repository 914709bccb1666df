"""What a client has learnt of a server's pictures, and which of its calls is uploading which."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Collection, Iterable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from enum import Enum

MAX_KNOWN = 65_536
"""Pictures that a client remembers, about 200 bytes each."""


class Standing(Enum):
    """What is known of a picture."""

    SENT = "sent"  # it travelled with a call, and may come again
    HELD = "held"  # the server had it when it was last asked
    REFUSED = "refused"  # the server does not keep it


class KnownImages:
    """Pictures by their hash; those that were long not needed are forgotten. Thread-safe.

    Args:
        most: Pictures to remember.
    """

    def __init__(self, most: int = MAX_KNOWN) -> None:
        self._most = most
        self._lock = threading.Lock()
        self._standings: OrderedDict[bytes, Standing] = OrderedDict()

    def __len__(self) -> int:
        return len(self._standings)

    def get(self, sha256: str) -> Standing | None:
        """What is known of a picture; None when nothing is."""
        key = bytes.fromhex(sha256)
        with self._lock:
            standing = self._standings.get(key)
            if standing is not None:
                self._standings.move_to_end(key)
            return standing

    def held(self, hashes: Iterable[str]) -> frozenset[str]:
        """Those that the server has, as far as is known."""
        return frozenset(sha256 for sha256 in hashes if self.get(sha256) is Standing.HELD)

    def note(self, hashes: Iterable[str], standing: Standing) -> None:
        """Remember; that a picture was sent only where nothing better is known."""
        with self._lock:
            for key in map(bytes.fromhex, hashes):
                if standing is not Standing.SENT or key not in self._standings:
                    self._standings[key] = standing
                self._standings.move_to_end(key)
            while len(self._standings) > self._most:
                self._standings.popitem(last=False)

    def forget(self, hashes: Iterable[str]) -> None:
        """The server has lost them."""
        with self._lock:
            for sha256 in hashes:
                self._standings.pop(bytes.fromhex(sha256), None)


class Claims:
    """What is being done by one call, so that others that need the same wait. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._claimed: dict[str, Future[None]] = {}

    @contextmanager
    def taken(self, names: Collection[str]) -> Iterator[tuple[set[str], list[Future[None]]]]:
        """Claim what nobody has claimed, until the block ends.

        Nobody waits inside of the block for what is claimed, or two could wait for one another.

        Yields:
            What is claimed, and what to wait for after the block for the rest.
        """
        mine: Future[None] = Future()
        with self._lock:
            free = {name for name in names if name not in self._claimed}
            others = {self._claimed[name] for name in names if name not in free}
            self._claimed.update(dict.fromkeys(free, mine))
        try:
            yield free, list(others)
        finally:
            with self._lock:
                for name in free:
                    del self._claimed[name]
            mine.set_result(None)
