"""Values on their way to Redis: a bounded queue, written in the background."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress

from pairlens_server.cache.memory import entry_bytes
from pairlens_server.cache.packing import Value

logger = logging.getLogger(__name__)

BATCH_BYTES = 2 * 2**20
"""Of values written in one go; sending more at once would hold up the event loop for longer."""

_BATCH_VALUES = 256


class Writer:
    """Hands batches of values to `write`, one at a time; used by the event loop alone.

    Args:
        max_bytes: Of values that wait or are being written, as `entry_bytes` counts them.
        write: Writes a batch. It should not raise.
        drop: Is told of values that were not written: no room, or the end has come.
    """

    def __init__(
        self,
        max_bytes: int,
        write: Callable[[Mapping[str, Value]], Awaitable[None]],
        drop: Callable[[str], None],
    ):
        self._max_bytes = max_bytes
        self._write = write
        self._drop = drop
        self._queue: dict[str, Value] = {}
        self._queued_bytes = 0
        self._writing: dict[str, Value] = {}
        self._task: asyncio.Task[None] | None = None
        self._stopped = False
        self._moved = asyncio.Event()  # set, and replaced, when a batch is done with

    @property
    def nbytes(self) -> int:
        """Bytes that wait or are being written."""
        return self._queued_bytes + sum(map(entry_bytes, self._writing.values()))

    def put(self, values: Mapping[str, Value]) -> None:
        """Queue values; one that waits already is replaced, one that finds no room dropped."""
        for key, value in values.items():
            self._take(key)
            if not self._append(key, value):
                self._drop(key)
        self._go_on()

    async def write(self, values: Mapping[str, Value], timeout_s: float) -> None:
        """Queue values before all others, and wait until each is written or dropped.

        After `timeout_s` those that still find no room are dropped; the others wait on.
        """
        loop = asyncio.get_running_loop()
        end = loop.time() + timeout_s
        homeless = dict(values)
        try:
            while True:
                self._put_first(homeless)
                pending = any(key in self._queue or key in self._writing for key in values)
                if not (homeless or pending) or self._stopped or loop.time() >= end:
                    return
                with suppress(asyncio.TimeoutError):
                    await asyncio.wait_for(self._moved.wait(), end - loop.time())
        finally:
            for key in homeless:
                self._drop(key)

    def _put_first(self, values: dict[str, Value]) -> None:
        """Take those for which there is room from `values` to the head of the queue."""
        others = self._queue
        self._queue = {}
        for key, value in list(values.items()):
            if (replaced := others.pop(key, None)) is not None:
                self._queued_bytes -= entry_bytes(replaced)
            if self._append(key, value):
                del values[key]
        self._queue.update(others)
        self._go_on()

    def _append(self, key: str, value: Value) -> bool:
        if self._stopped or self.nbytes + entry_bytes(value) > self._max_bytes:
            return False
        self._queue[key] = value
        self._queued_bytes += entry_bytes(value)
        return True

    def _go_on(self) -> None:
        if self._queue and self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._run())

    def forget(self, prefix: str) -> None:
        """Take values whose keys begin with a prefix off the queue."""
        for key in [key for key in self._queue if key.startswith(prefix)]:
            self._take(key)

    async def settle(self, timeout_s: float) -> None:
        """Wait until all that waits is written, but not for longer than that."""
        if self._task is not None:
            await asyncio.wait({self._task}, timeout=timeout_s)

    async def stop(self, timeout_s: float) -> None:
        """Write what waits, for no longer than that; what is left, or comes later, is dropped."""
        await self.settle(timeout_s)
        self._stopped = True
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait({self._task}, timeout=timeout_s)
        for key in list(self._queue):
            self._take(key)
            self._drop(key)
        self._wake()

    async def _run(self) -> None:
        try:
            while self._queue:
                batch = self._writing = self._next_batch()
                try:
                    await self._write(batch)
                except asyncio.CancelledError:
                    for key in batch:
                        self._drop(key)
                    raise
                except Exception:
                    logger.exception("internal error: values could not be written")
                self._writing = {}
                self._wake()
        finally:
            self._writing = {}
            self._task = None
            self._wake()

    def _wake(self) -> None:
        self._moved.set()
        self._moved = asyncio.Event()

    def _next_batch(self) -> dict[str, Value]:
        batch: dict[str, Value] = {}
        taken = 0
        for key, value in self._queue.items():
            if batch and (taken + entry_bytes(value) > BATCH_BYTES or len(batch) == _BATCH_VALUES):
                break
            batch[key] = value
            taken += entry_bytes(value)
        for key in batch:
            self._take(key)
        return batch

    def _take(self, key: str) -> None:
        value = self._queue.pop(key, None)
        if value is not None:
            self._queued_bytes -= entry_bytes(value)
