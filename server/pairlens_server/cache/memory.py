"""The in-process tier: the least recently used goes first, bounded by bytes."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import replace

from pairlens_server.cache.keys import kind_of
from pairlens_server.cache.packing import Packed, Value
from pairlens_server.cache.stats import CacheKind, KindStats

ENTRY_BYTES = 1024
"""Counted for an entry beside its value: key, node, and what wraps a tensor.

Measured over 200,000 entries: 990 for a tensor, 340 for a file.
"""


class MemoryTier:
    """Holds values up to a number of bytes; used by the event loop alone.

    Args:
        max_bytes: Bound of values and `ENTRY_BYTES` for each; 0 keeps nothing.
    """

    def __init__(self, max_bytes: int):
        self._max_bytes = max_bytes
        self._entries: OrderedDict[str, Value] = OrderedDict()
        self._kinds = {kind: KindStats() for kind in CacheKind}

    @property
    def max_bytes(self) -> int:
        """Bound of `nbytes`."""
        return self._max_bytes

    @property
    def nbytes(self) -> int:
        """Bytes held now, with `ENTRY_BYTES` for each entry."""
        return sum(stats.bytes for stats in self._kinds.values())

    @property
    def largest_value(self) -> int:
        """Bytes of the largest value that is kept."""
        return max(self._max_bytes - ENTRY_BYTES, 0)

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, key: str) -> bool:
        return key in self._entries

    def get(self, key: str) -> Value | None:
        """The value under a key, now the most recently used, or None; counted as a look-up."""
        value = self.touch(key)
        stats = self._kinds[kind_of(key)]
        if value is None:
            stats.misses += 1
        else:
            stats.hits += 1
        return value

    def touch(self, key: str) -> Value | None:
        """As `get`, but not counted."""
        value = self._entries.get(key)
        if value is not None:
            self._entries.move_to_end(key)
        return value

    def put(self, values: Mapping[str, Value]) -> None:
        """Keep values, dropping the least recently used; one over the bound is not kept."""
        for key, value in values.items():
            self._remove(key)
            stats = self._kinds[kind_of(key)]
            size = entry_bytes(value)
            if size > self._max_bytes:
                stats.dropped += 1
                continue
            self._entries[key] = value
            stats.stored += 1
            stats.entries += 1
            stats.bytes += size
        while self.nbytes > self._max_bytes:
            oldest = next(iter(self._entries))
            self._remove(oldest)
            self._kinds[kind_of(oldest)].evicted += 1

    def clear(self, prefix: str = "") -> int:
        """Remove the values whose keys begin with a prefix; how many there were."""
        keys = [key for key in self._entries if key.startswith(prefix)]
        for key in keys:
            self._remove(key)
        return len(keys)

    def stats(self) -> dict[CacheKind, KindStats]:
        """Of each kind, `max_bytes` being that of the tier."""
        return {k: replace(s, max_bytes=self._max_bytes) for k, s in self._kinds.items()}

    def _remove(self, key: str) -> None:
        value = self._entries.pop(key, None)
        if value is not None:
            stats = self._kinds[kind_of(key)]
            stats.entries -= 1
            stats.bytes -= entry_bytes(value)


def entry_bytes(value: Value) -> int:
    """What holding a value takes: its bytes and `ENTRY_BYTES`."""
    return ENTRY_BYTES + (value.nbytes if isinstance(value, Packed) else len(value))
