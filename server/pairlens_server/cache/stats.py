"""What a cache holds, and has done since the server started."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum


class CacheKind(str, Enum):
    """Kinds of values."""

    ACTIVATION = "activation"  # what models left behind of pictures
    IMAGE = "image"  # uploaded pictures, and sizes of pictures


@dataclass
class KindStats:
    """Of one kind of value in one tier.

    Attributes:
        hits, misses: Look-ups that found a value, and that found none that could be used.
        corrupt: Of the misses, those that met a value that is foreign, damaged or too large.
        stored: Values written.
        dropped: Values not written: too large, or over what may wait to be written.
        evicted: Values that made room for others; of memory alone.
        entries, bytes, max_bytes: What is held now; of memory alone.
    """

    hits: int = 0
    misses: int = 0
    corrupt: int = 0
    stored: int = 0
    dropped: int = 0
    evicted: int = 0
    entries: int = 0
    bytes: int = 0
    max_bytes: int = 0


class RedisState(str, Enum):
    """What is known of Redis."""

    OFF = "off"  # there is none
    UP = "up"  # it answered last, or was not asked yet
    UNAVAILABLE = "unavailable"  # it failed, and is left alone for a while


@dataclass
class RedisStats:
    """Of the shared tier.

    Attributes:
        state: What is known of it.
        kinds: Of each kind of value.
        errors, timeouts: Round trips that failed; those of them that took too long.
        queued_bytes, max_queued_bytes: What waits to be written, and its bound.
        used_bytes, max_bytes: Memory of the Redis server, as it says; 0 when it does not answer.
    """

    state: RedisState = RedisState.OFF
    kinds: Mapping[CacheKind, KindStats] = field(default_factory=dict)
    errors: int = 0
    timeouts: int = 0
    queued_bytes: int = 0
    max_queued_bytes: int = 0
    used_bytes: int = 0
    max_bytes: int = 0


@dataclass(frozen=True)
class CacheStats:
    """Of both tiers.

    Attributes:
        memory: Of this process. Sizes of pictures live with the activations, and count as such.
        redis: Of the shared tier.
    """

    memory: Mapping[CacheKind, KindStats]
    redis: RedisStats


@dataclass(frozen=True)
class Cleared:
    """What emptying came to.

    Attributes:
        memory_entries, redis_entries: Values removed.
        redis_cleared: Whether Redis answered, or there is none.
    """

    memory_entries: int
    redis_entries: int
    redis_cleared: bool
