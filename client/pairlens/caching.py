"""What a server's cache holds and does, and what became of filling and emptying it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from pairlens.errors import PairlensError
from pairlens.results import Timing


@dataclass(frozen=True, eq=False)
class Warmed:
    """What became of pictures whose results were to be cached.

    Attributes:
        cached: Of each picture, in their order: whether everything was there already. False
            where it was computed now, and where the picture could not be used.
        failures: Why pictures could not be used, by their index.
        timing: The server's; of several calls the sums.
    """

    cached: tuple[bool, ...]
    failures: Mapping[int, PairlensError]
    timing: Timing

    def __len__(self) -> int:
        return len(self.cached)

    @property
    def computed(self) -> int:
        """Pictures for which there was something to compute."""
        return len(self.cached) - sum(self.cached) - len(self.failures)


@dataclass(frozen=True)
class CacheKindStats:
    """One kind of value in one tier of the cache, since the server started.

    Attributes:
        kind: "activation" (what models left behind of pictures) or "image" (uploaded
            pictures, and sizes of pictures).
        hits, misses: Values that were asked for and were there, or not.
        corrupt: Misses for values that were there and could not be used.
        stored: Values written.
        dropped: Values not written: too large, or over what may wait to be written.
        evicted: Values that made room for others; of memory alone, as all that follow.
        entries, bytes: Values held now, and their size.
        max_bytes: What they may take.
    """

    kind: str
    hits: int
    misses: int
    corrupt: int
    stored: int
    dropped: int
    evicted: int
    entries: int
    bytes: int
    max_bytes: int


@dataclass(frozen=True)
class RedisStats:
    """The cache that several servers share, as one of them sees it.

    Attributes:
        state: "off" (there is none), "up" (it answered last) or "unavailable" (it failed, and
            is left alone for a while).
        kinds: What was asked of it.
        errors, timeouts: Round trips that failed, and those of them that took too long.
        queued_bytes, max_queued_bytes: What waits to be written, and what may.
        used_bytes, max_bytes: Memory of the Redis server and its limit; 0 when it does not
            answer, and for no limit.
    """

    state: str
    kinds: tuple[CacheKindStats, ...]
    errors: int
    timeouts: int
    queued_bytes: int
    max_queued_bytes: int
    used_bytes: int
    max_bytes: int


@dataclass(frozen=True)
class CacheStats:
    """What a server's cache holds, and has done.

    Attributes:
        memory: The server's own.
        redis: Shared with others.
    """

    memory: tuple[CacheKindStats, ...]
    redis: RedisStats


@dataclass(frozen=True)
class ClearedCache:
    """What emptying a cache removed.

    Attributes:
        memory_entries: Values of the server's own memory.
        redis_entries: Values of Redis.
        redis_cleared: Whether Redis answered, or there is none.
    """

    memory_entries: int
    redis_entries: int
    redis_cleared: bool
