"""Calls about many inputs, in tasks."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterable
from typing import Any, Generic, TypeVar

from pairlens._awaiting import AwaitingDriver
from pairlens._many import Many
from pairlens.items import Item, ItemFailure

_T = TypeVar("_T")


async def items(driver: AwaitingDriver, many: Many[_T]) -> AsyncGenerator[Item[_T], None]:
    """Make the calls, and yield what becomes of them.

    Raises:
        PairlensError: The client was closed.
    """
    tasks = _Tasks(driver, many)
    try:
        while (task := await tasks.next()) is not None:
            item = await task
            if isinstance(item, ItemFailure) and driver.closed:
                raise item.error  # all others would fail, too
            yield item
            tasks.yielded()
    finally:
        await tasks.end()


class _Tasks(Generic[_T]):
    """A task that reads the inputs, and one for each input that was read."""

    def __init__(self, driver: AwaitingDriver, many: Many[_T]) -> None:
        self._driver, self._many = driver, many
        self._room = asyncio.Semaphore(many.room)
        self._turns = asyncio.Semaphore(many.concurrency)
        self._under_way: set[asyncio.Task[Item[_T]]] = set()
        self._started = self._taken = 0
        # Of results, or of the order in which they are wanted; None: all has been read.
        self._next: asyncio.Queue[asyncio.Task[Item[_T]] | None] = asyncio.Queue()
        self._reader = asyncio.create_task(self._read(), name="pairlens-many-inputs")
        self._reader.add_done_callback(lambda _: self._next.put_nowait(None))

    async def next(self) -> asyncio.Task[Item[_T]] | None:
        """The next task whose result is to be yielded; None after the last."""
        while not (self._reader.done() and self._taken == self._started):
            task = await self._next.get()
            if task is not None:
                self._taken += 1
                return task
            self._reader.result()
        self._reader.result()  # what the inputs raised, perhaps while the last item was yielded
        return None

    def yielded(self) -> None:
        """There is room for another input."""
        self._room.release()

    async def end(self) -> None:
        """Cancel what is under way, and see it end."""
        left: list[asyncio.Task[Any]] = [self._reader, *self._under_way]
        for task in left:
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)

    async def _read(self) -> None:
        await self._room.acquire()
        inputs = self._many.inputs
        if isinstance(inputs, AsyncIterable):
            async for given in inputs:
                await self._start(given)
        else:
            for given in inputs:
                await self._start(given)

    async def _start(self, given: Any) -> None:
        """Start the task of an input when its turn comes, and wait for room for another."""
        await self._turns.acquire()
        steps = self._many.attempt(self._started, given)
        task = asyncio.create_task(self._driver.run(steps), name="pairlens-many")
        self._started += 1
        self._under_way.add(task)
        task.add_done_callback(self._ended)
        if self._many.ordered:
            self._next.put_nowait(task)
        await self._room.acquire()

    def _ended(self, task: asyncio.Task[Item[_T]]) -> None:
        self._under_way.discard(task)
        if not task.cancelled():
            task.exception()  # seen, also where nobody asks for the item any more
        self._turns.release()
        if not self._many.ordered:
            self._next.put_nowait(task)
