"""Round trips to Redis that take no longer than they may, and none while it is away."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Sequence
from contextlib import suppress
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, TypeVar

from redis.exceptions import ResponseError, TimeoutError

from pairlens_server.cache.breaker import Breaker
from pairlens_server.cache.redis_client import CONNECT_S, Client, make_client
from pairlens_server.cache.redis_settings import RedisSettings, Topology

logger = logging.getLogger(__name__)

T = TypeVar("T")

Command = tuple[str | int | bytes, ...]
"""Of Redis: its name and its arguments."""

_LARGE = 16  # commands; reads of more share few slots, lest they hold each other up
_SLOTS = {"small": 16, "large": 2, "writes": 4}
_OTHERS = 4  # connections beside those: probes, clearing, looking at memory
_LATE_S = 0.01  # a timer that fires this late says that the event loop was held up, not Redis
_CLOSE_S = 0.25  # that giving up may take: redis-py closes the connection


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


@dataclass
class _Progress:
    replies: int = 0


# Of the trip that the current task belongs to.
_progress: ContextVar[_Progress] = ContextVar("progress")


class RedisLink:
    """Sends commands; every failure is an answer that is missing, counted and perhaps logged.

    A round trip runs in a task of its own. A caller who is cancelled leaves it to end by itself,
    since giving up halfway costs a connection; nor can that caller's replies reach another.

    Args:
        settings: Where Redis is.
        reads: Opened by what callers wait for. While it is open, Redis is tried in the background.
        writes: Opened by what nobody waits for; a Redis that is full can still be read.
    """

    def __init__(self, settings: RedisSettings, reads: Breaker, writes: Breaker):
        self.reads = reads
        self.writes = writes
        self.errors = 0
        self.timeouts = 0
        self._settings = settings
        self._name = str(settings.endpoint)
        self._client = self._new_client()
        self._topology = settings.endpoint.topology
        self._slots = {name: asyncio.Semaphore(count) for name, count in _SLOTS.items()}
        self._tasks: set[asyncio.Task[Any]] = set()
        self._probing: asyncio.Task[None] | None = None
        self._stopped = False

    async def start(self) -> None:
        """Connect, waiting for it no longer than about a second; Redis need not be there."""
        error = await self._probe()
        if error is not None:
            self.reads.trip()
            self._left_alone(error)

    async def stop(self) -> None:
        """Close the connections."""
        self._stopped = True
        if self._probing is not None:
            self._probing.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=_CLOSE_S)
        await _close(self._client)

    async def send(
        self, commands: Sequence[Command], breaker: Breaker, patience: Patience
    ) -> list[Any]:
        """Send commands in one round trip (one to each server of a cluster).

        Args:
            commands: At least one.
            breaker: `reads` or `writes`.
            patience: How long the trip may take; at most as long again may it wait for others.

        Returns:
            The replies; in the place of a reply, what Redis had against the command. Empty when
            the breaker is open or the trip failed.
        """
        if self._shut(breaker):
            return []
        return await asyncio.shield(self._spawn(self._trip(commands, breaker, patience)))

    def _shut(self, breaker: Breaker) -> bool:
        return self._stopped or not (breaker.closed if breaker is self.reads else breaker.allows)

    async def run(
        self, operation: Callable[[Client], Coroutine[Any, Any, T]], most_s: float
    ) -> T | None:
        """Do something that nobody is in a hurry for; None when it failed. Opens no breaker."""
        if self._stopped or not self.reads.closed:
            return None
        return await asyncio.shield(self._spawn(self._unhurried(operation, most_s)))

    async def _unhurried(
        self, operation: Callable[[Client], Coroutine[Any, Any, T]], most_s: float
    ) -> T | None:
        try:
            return await _within(operation(self._client), Patience(most_s, most_s))
        except Exception as error:
            self._count(error)
            return None

    async def _trip(
        self, commands: Sequence[Command], breaker: Breaker, patience: Patience
    ) -> list[Any]:
        size = "large" if len(commands) > _LARGE else "small"
        slots = self._slots[size if breaker is self.reads else "writes"]
        if not await _acquired(slots, patience.most_s):
            # Of the queue in front of Redis, for which Redis is not to blame.
            self._count(asyncio.TimeoutError())
            return []
        try:
            if self._shut(breaker):
                return []
            replies = await _within(_pipeline(self._client, commands), patience)
        # Whatever a server that is none makes redis-py stumble over is no answer either.
        except Exception as error:
            self._failed(breaker, error)
            return []
        finally:
            slots.release()
        complaint = _complaint(replies)
        if complaint is not None:
            self._failed(breaker, complaint)
        elif breaker.succeeded() and breaker is self.writes:
            logger.warning("Redis at %s takes values again", self._name)
        return replies

    def _failed(self, breaker: Breaker, error: Exception) -> None:
        self._count(error)
        if not breaker.failed():
            return
        if breaker is self.reads:
            self._left_alone(error)
        else:
            logger.warning("Redis at %s does not take values: %s", self._name, _text(error))

    def _count(self, error: Exception) -> None:
        self.errors += 1
        self.timeouts += isinstance(error, (asyncio.TimeoutError, TimeoutError))

    def _left_alone(self, error: Exception) -> None:
        logger.warning("Redis at %s is left alone until it answers: %s", self._name, _text(error))
        if not self._stopped:
            self._probing = asyncio.get_running_loop().create_task(self._probe_on())

    async def _probe_on(self) -> None:
        while not self.reads.closed:
            await asyncio.sleep(self.reads.rest_s)
            if not self.reads.allows:
                continue
            if self._topology is Topology.CLUSTER:
                # What it knew of the servers may be what is wrong.
                self._spawn(_close(self._client))
                self._client = self._new_client()
            if await self._probe() is None:
                self.reads.succeeded()
                self.writes.hurry()
                logger.warning("Redis at %s answers again", self._name)
            else:
                self.reads.failed()

    async def _probe(self) -> Exception | None:
        # The first may have to connect; the second has to be as quick as those that callers wait
        # for. A read, since a user may be allowed no other command.
        commands = [("GETRANGE", f"{self._settings.prefix}:probe", 0, 0)]
        try:
            for seconds in (CONNECT_S, 2 * self._settings.timeout_s):
                patience = Patience(seconds, seconds)
                replies = await _within(_pipeline(self._client, commands), patience)
                if (error := _complaint(replies)) is not None:
                    return error
        except Exception as error:
            return error
        return None

    def _spawn(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def _new_client(self) -> Client:
        return make_client(self._settings, sum(_SLOTS.values()) + _OTHERS, _replied)


def is_wrong_type(reply: Any) -> bool:
    """Whether Redis says that the value is no string: data to be overwritten, not a failure."""
    return isinstance(reply, ResponseError) and str(reply).startswith("WRONGTYPE")


def _complaint(replies: Sequence[Any]) -> Exception | None:
    return next((r for r in replies if isinstance(r, Exception) and not is_wrong_type(r)), None)


def _text(error: Exception) -> str:
    return f"{type(error).__name__} {error}".strip()[:200]


async def _pipeline(client: Client, commands: Sequence[Command]) -> list[Any]:
    pipeline = client.pipeline(transaction=False)
    for command in commands:
        pipeline.execute_command(*command)
    replies: list[Any] = await pipeline.execute(raise_on_error=False)
    return replies


async def _acquired(slots: asyncio.Semaphore, seconds: float) -> bool:
    try:
        await (asyncio.wait_for(slots.acquire(), seconds) if slots.locked() else slots.acquire())
    except asyncio.TimeoutError:
        return False
    return True


async def _within(work: Coroutine[Any, Any, T], patience: Patience) -> T:
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
                raise asyncio.TimeoutError("no answer in time")
        if task.cancelled():
            raise ConnectionError("given up")
        return task.result()
    finally:
        if not task.done():
            task.cancel()
            await asyncio.wait({task}, timeout=_CLOSE_S)


def _replied(reply: Any, **_: Any) -> Any:
    _progress.get().replies += 1
    return reply


async def _close(client: Client) -> None:
    with suppress(Exception):
        await _within(client.aclose(), Patience(_CLOSE_S, _CLOSE_S))
