"""When what waits expires."""

from __future__ import annotations

import heapq
from collections.abc import Mapping

from pairlens_server.engine.entry import Entry

_STALE = 64  # deadlines of entries that have left, before they are cleared away


class Deadlines:
    """The deadlines of entries, nearest first.

    Args:
        waiting: Entries that have not left, by number.
    """

    def __init__(self, waiting: Mapping[int, Entry]):
        self._waiting = waiting
        self._heap: list[tuple[float, int]] = []

    def add(self, entry: Entry) -> None:
        """Take note of an entry that waits, if it has a deadline."""
        if entry.deadline_s is None:
            return
        if len(self._heap) > 2 * len(self._waiting) + _STALE:
            self._heap = [deadline for deadline in self._heap if deadline[1] in self._waiting]
            heapq.heapify(self._heap)
        heapq.heappush(self._heap, (entry.deadline_s, entry.number))

    def expired(self, now_s: float) -> Entry | None:
        """Take out an entry whose deadline has passed; None when there is none."""
        while self._heap and self._heap[0][0] <= now_s:
            entry = self._waiting.get(heapq.heappop(self._heap)[1])
            if entry is not None:
                return entry
        return None

    def next(self) -> float | None:
        """The nearest deadline; None when nothing that waits has one."""
        while self._heap and self._heap[0][1] not in self._waiting:
            heapq.heappop(self._heap)
        return self._heap[0][0] if self._heap else None

    def clear(self) -> None:
        """Forget all, since nothing waits."""
        self._heap.clear()
