"""Calls that a scripted server holds up, and waiting for what is about to be."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable

import grpc


class Held:
    """An act that lasts until it is released, or its call is given up.

    Attributes:
        release: Ends it.
        under_way: Calls that are in it.
        most: Of them at a time.
        given_up: Calls that their clients ended.
    """

    def __init__(self) -> None:
        self.release = threading.Event()
        self.under_way = self.most = self.given_up = 0
        self._lock = threading.Lock()

    def __call__(self, context: grpc.ServicerContext) -> None:
        with self._lock:
            self.under_way += 1
            self.most = max(self.most, self.under_way)
        while context.is_active() and not self.release.wait(0.01):
            pass
        with self._lock:
            self.under_way -= 1
            self.given_up += not context.is_active()


def until(condition: Callable[[], bool], timeout: float = 10) -> None:
    """Wait for something that is about to be."""
    end = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


async def until_async(condition: Callable[[], bool], timeout: float = 10) -> None:
    """The same in a task."""
    end = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < end
        await asyncio.sleep(0.01)
