"""How long a round trip may take, told by whether replies keep coming."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, TypeVar

T = TypeVar("T")

CLOSE_S = 0.25
"""That giving up may take: redis-py closes the connection."""

_LATE_S = 0.01  # a timer that fires this late says that the event loop was held up, not Redis


@dataclass(frozen=True)
class Patience:
    """How long a round trip may take.

    One time alone does not tell a Redis that hangs from much data, or from a process that has much
    else to do: a thousand replies that keep coming are no failure.

    Attributes:
        silent_s: Seconds without a reply.
        most_s: Seconds in all.
    """

    silent_s: float
    most_s: float


class SlowError(asyncio.TimeoutError):
    """Replies kept coming, but too slowly: of much data, for which Redis is not to blame."""


@dataclass
class _Progress:
    replies: int = 0


# Of the trip that the current task belongs to.
_progress: ContextVar[_Progress] = ContextVar("progress")


async def acquired(slots: asyncio.Semaphore, seconds: float) -> bool:
    """Wait for a slot for no longer than that; whether there was one."""
    try:
        await (asyncio.wait_for(slots.acquire(), seconds) if slots.locked() else slots.acquire())
    except asyncio.TimeoutError:
        return False
    return True


async def within(work: Coroutine[Any, Any, T], patience: Patience) -> T:
    """Do something in a task of its own, which tells its progress by `replied`.

    Raises:
        SlowError: It took too long while replies kept coming.
        asyncio.TimeoutError: It took too long, or was silent for too long.
        Exception: What it raised.
    """
    loop = asyncio.get_running_loop()
    progress = _Progress()
    token = _progress.set(progress)
    task = loop.create_task(work)  # which has a copy of the context, and so have its own tasks
    _progress.reset(token)
    end = loop.time() + patience.most_s
    try:
        while not task.done():
            seen, due = progress.replies, loop.time() + patience.silent_s
            await asyncio.wait({task}, timeout=max(min(due, end) - loop.time(), 0))
            # A late timer: replies may be there and unread.
            silent = progress.replies == seen and loop.time() < due + _LATE_S
            if not task.done() and (silent or loop.time() >= end):
                # One that hangs from much data is silent for as long as it may be.
                hangs = progress.replies == 0 or (progress.replies == seen and due <= end)
                raise (asyncio.TimeoutError if hangs else SlowError)("no answer in time")
        if task.cancelled():
            raise ConnectionError("given up")
        return task.result()
    finally:
        if not task.done():
            task.cancel()
            await asyncio.wait({task}, timeout=CLOSE_S)


def replied(reply: Any, **_: Any) -> Any:
    """Count a reply to the round trip that the current task belongs to; gives the reply."""
    _progress.get().replies += 1
    return reply
