"""What the tests of `explain_many` and `pair_many` share."""

from __future__ import annotations

import asyncio
import itertools
import threading
from contextlib import aclosing, closing

from pairlens import AsyncClient, Client, ItemResult
from tests.client.scripted import png

WIDTHS = range(10, 50)


class Kind:
    """A client of either kind, and its items as a list.

    Args:
        asynchronous: Which.
        target: The server.
    """

    def __init__(self, asynchronous: bool, target: str, **settings: object) -> None:
        self.asynchronous, self.target, self.settings = asynchronous, target, settings

    def items(self, call: str, inputs, most: int | None = None, **arguments) -> list:
        """All items, or the first ones, after which the iterator is closed."""
        if self.asynchronous:
            return asyncio.run(self._items(call, inputs, most, arguments))
        with (
            Client(self.target, timeout=10, **self.settings) as client,
            closing(getattr(client, call)(inputs, **arguments)) as items,
        ):
            return list(itertools.islice(items, most))

    async def _items(self, call: str, inputs, most: int | None, arguments) -> list:
        found = []
        async with AsyncClient(self.target, timeout=10, **self.settings) as client:
            async with aclosing(getattr(client, call)(inputs, **arguments)) as items:
                async for item in items:
                    found.append(item)
                    if len(found) == most:
                        break
            assert asyncio.all_tasks() == {asyncio.current_task()}
        return found


def threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if "pairlens" in thread.name]


def pictures() -> list[bytes]:
    return [png(20, width) for width in WIDTHS]


def width(item: ItemResult) -> int:
    return item.result.geometry.image_width
