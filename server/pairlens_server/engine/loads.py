"""Pixels on their way: made a few at a time, each client in its turn.

Pictures are decoded by few threads, first come first served. If all that are admitted went
there at once, a client with one picture would wait for the hundreds of another.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable

from torch import Tensor

from pairlens_server.engine.entry import Entry
from pairlens_server.telemetry.record import Stage

Make = Callable[[], Awaitable[Tensor]]


class Loads:
    """Entries whose pixels are not there yet.

    Args:
        most: That are made at the same time.
        ready: Called with an entry and its pixels; not if nobody waits for it any more.
    """

    def __init__(self, most: int, ready: Callable[[Entry, Tensor], None]):
        self._most = most
        self._ready = ready
        self._tasks: dict[int, asyncio.Task[None]] = {}
        self._waiting: OrderedDict[str, OrderedDict[int, tuple[Entry, Make]]] = OrderedDict()

    def add(self, entry: Entry, make: Make) -> None:
        """Have the pixels of an entry made; what goes wrong is told to its caller."""
        if len(self._tasks) < self._most:
            self._start(entry, make)
        else:
            # For the threads that decode, so that it counts as decoding.
            entry.enter(Stage.DECODE)
            self._waiting.setdefault(entry.client, OrderedDict())[entry.number] = (entry, make)

    def drop(self, entry: Entry) -> None:
        """Stop making the pixels of an entry; nothing if they are there."""
        task = self._tasks.get(entry.number)
        if task is not None:
            task.cancel()
            return
        waiting = self._waiting.get(entry.client)
        if waiting is not None and entry.number in waiting:
            del waiting[entry.number]
            if not waiting:
                del self._waiting[entry.client]

    def under_way(self) -> list[asyncio.Task[None]]:
        """What has to end before the event loop may."""
        return list(self._tasks.values())

    def _start(self, entry: Entry, make: Make) -> None:
        entry.enter(None)
        loop = asyncio.get_running_loop()
        # Begun by whoever made room for it, which may be another call.
        task = entry.context.run(loop.create_task, self._load(entry, make), name="pixels")
        self._tasks[entry.number] = task
        task.add_done_callback(lambda _: self._ended(entry))

    def _ended(self, entry: Entry) -> None:
        del self._tasks[entry.number]
        if self._waiting:
            client, waiting = self._waiting.popitem(last=False)
            _, following = waiting.popitem(last=False)
            if waiting:
                self._waiting[client] = waiting
            self._start(*following)

    async def _load(self, entry: Entry, make: Make) -> None:
        try:
            pixels = await make()
        except asyncio.CancelledError:
            entry.future.cancel()
            raise
        except Exception as error:
            if not entry.future.done():
                entry.future.set_exception(error)
        else:
            if not entry.future.done():
                self._ready(entry, pixels)
