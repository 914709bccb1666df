"""The bounded queue that forms batches; knows no device and no thread."""

from __future__ import annotations

from collections import deque

from pairlens_server.engine.entry import Entry
from pairlens_server.errors import DeadlineUnreachableError, QueueFullError

RETRY_AFTER_S = 0.5
"""What a refused caller is told to wait; about the time of a full batch on a busy CPU."""


class BatchQueue:
    """Waiting pictures, first come first served, batched by model.

    Args:
        max_queued: Pictures that may wait; one more is refused.
    """

    def __init__(self, max_queued: int):
        self._max_queued = max_queued
        self._waiting: deque[Entry] = deque()

    def __len__(self) -> int:
        return len(self._waiting)

    @property
    def full_batch_waits(self) -> bool:
        """Whether the next batch gains nothing by waiting: a chunk is one by itself."""
        return bool(self._waiting) and self._waiting[0].chunk is not None

    def put(self, entry: Entry) -> None:
        """Admit a picture; a probe that has begun is taken on whatever waits.

        Raises:
            QueueFullError: `max_queued` pictures wait already.
        """
        begun = entry.chunk is not None and entry.chunk.start > 0
        if len(self._waiting) >= self._max_queued:
            self._discard_finished()
        if len(self._waiting) >= self._max_queued and not begun:
            raise QueueFullError(
                f"{self._max_queued} pictures wait for the device already",
                retry_after_s=RETRY_AFTER_S,
            )
        self._waiting.append(entry)

    def take(self, max_batch: int, now_s: float) -> list[Entry]:
        """Take the next batch: the oldest entry and the oldest others of its model.

        Entries whose callers gave up are dropped, expired ones fail, so neither takes a
        place in the batch.

        Args:
            max_batch: Most pictures in a batch.
            now_s: Event-loop time.

        Returns:
            Up to `max_batch` entries of one model, or one entry with a chunk of a probe;
            empty when nothing waits.
        """
        batch: list[Entry] = []
        others: deque[Entry] = deque()
        while self._waiting:
            entry = self._waiting.popleft()
            if entry.future.done():
                continue
            if entry.deadline_s is not None and entry.deadline_s <= now_s:
                entry.future.set_exception(
                    DeadlineUnreachableError("the deadline passed while waiting for the device")
                )
                continue
            joins = not batch or (
                entry.model is batch[0].model and entry.chunk is None and batch[0].chunk is None
            )
            if joins and len(batch) < max_batch:
                batch.append(entry)
            else:
                others.append(entry)
        self._waiting = others
        return batch

    def drain(self) -> list[Entry]:
        """Take everything that waits."""
        waiting, self._waiting = list(self._waiting), deque()
        return waiting

    def _discard_finished(self) -> None:
        self._waiting = deque(e for e in self._waiting if not e.future.done())
