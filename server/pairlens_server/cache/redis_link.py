"""Round trips to Redis that take no longer than they may, and none while it is away."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Coroutine, Sequence
from contextlib import suppress
from typing import Any, TypeVar

from redis.exceptions import ResponseError, TimeoutError

from pairlens_server.cache.breaker import Breaker
from pairlens_server.cache.patience import (
    CLOSE_S,
    Patience,
    SlowError,
    acquired,
    replied,
    within,
)
from pairlens_server.cache.redis_client import CONNECT_S, Client, make_client
from pairlens_server.cache.redis_settings import RedisSettings, Topology

logger = logging.getLogger(__name__)

T = TypeVar("T")

Command = tuple[str | int | bytes, ...]
"""Of Redis: its name and its arguments."""

Observe = Callable[[str, float, bool], None]
"""Told of what was asked of Redis, the seconds that it took, and whether it failed."""

# What a round trip is for, by its first command; of others nobody is told.
_OPERATIONS = {"GETRANGE": "get", "SET": "put", "EXPIRE": "present"}

_LARGE = 16  # commands; reads of more share few slots, lest they hold each other up
_SLOTS = {"small": 16, "large": 2, "files": 4, "writes": 4}
_OTHERS = 4  # connections beside those: probes, clearing, looking at memory


def unobserved(operation: str, seconds: float, failed: bool) -> None:
    """Tell nobody."""


class RedisLink:
    """Sends commands; every failure is an answer that is missing, counted and perhaps logged.

    A round trip runs in a task of its own. A caller who is cancelled leaves it to end by itself,
    since giving up halfway costs a connection; nor can that caller's replies reach another.

    Args:
        settings: Where Redis is.
        reads: Opened by what callers wait for. While it is open, Redis is tried in the background.
        writes: Opened by what nobody waits for; a Redis that is full can still be read.
        observe: Told of every round trip that was made: "get", "put" or "present".
    """

    def __init__(
        self,
        settings: RedisSettings,
        reads: Breaker,
        writes: Breaker,
        observe: Observe = unobserved,
    ):
        self._observe = observe
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
            await asyncio.wait(self._tasks, timeout=CLOSE_S)
        await _close(self._client)

    async def send(
        self,
        commands: Sequence[Command],
        breaker: Breaker,
        patience: Patience,
        *,
        files: bool = False,
    ) -> list[Any]:
        """Send commands in one round trip (one to each server of a cluster).

        Args:
            commands: At least one.
            breaker: `reads` or `writes`.
            patience: How long the trip may take; at most as long again may it wait for others.
            files: Whether files are read, which take long, so that only other such trips wait.

        Returns:
            The replies; in the place of a reply, what Redis had against the command. Empty when
            the breaker is open or the trip failed.
        """
        if self._shut(breaker):
            return []
        size = "large" if len(commands) > _LARGE else "small"
        slots = "files" if files else size if breaker is self.reads else "writes"
        trip = self._trip(commands, breaker, patience, self._slots[slots])
        return await asyncio.shield(self._spawn(trip))

    def _shut(self, breaker: Breaker) -> bool:
        return self._stopped or not (breaker.closed if breaker is self.reads else breaker.allows)

    async def run(
        self,
        operation: Callable[[Client], Coroutine[Any, Any, T]],
        most_s: float,
        *,
        insist: bool = False,
    ) -> T | None:
        """Do something that nobody is in a hurry for; None when it failed. Opens no breaker.

        Args:
            operation: What to do.
            most_s: Seconds that it may take.
            insist: Where Redis is left alone, ask whether it answers now, instead of doing nothing.
        """
        if self._stopped:
            return None
        if not self.reads.closed and not (
            insist and await asyncio.shield(self._spawn(self._probe())) is None
        ):
            return None
        return await asyncio.shield(self._spawn(self._unhurried(operation, most_s)))

    async def _unhurried(
        self, operation: Callable[[Client], Coroutine[Any, Any, T]], most_s: float
    ) -> T | None:
        try:
            return await within(operation(self._client), Patience(most_s, most_s))
        except Exception as error:
            self._count(error)
            return None

    async def _trip(
        self,
        commands: Sequence[Command],
        breaker: Breaker,
        patience: Patience,
        slots: asyncio.Semaphore,
    ) -> list[Any]:
        if not await acquired(slots, patience.most_s):
            # Of the queue in front of Redis, for which Redis is not to blame.
            self._count(asyncio.TimeoutError())
            return []
        try:
            if self._shut(breaker):
                return []
            replies = await self._observed(commands, patience)
        except SlowError as error:
            self._count(error)
            return []
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

    async def _observed(self, commands: Sequence[Command], patience: Patience) -> list[Any]:
        began_s, failed = time.perf_counter(), True
        try:
            replies = await within(_pipeline(self._client, commands), patience)
            failed = _complaint(replies) is not None
            return replies
        finally:
            operation = _OPERATIONS.get(str(commands[0][0]))
            if operation is not None:
                self._observe(operation, time.perf_counter() - began_s, failed)

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
                replies = await within(_pipeline(self._client, commands), patience)
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
        return make_client(self._settings, sum(_SLOTS.values()) + _OTHERS, replied)


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


async def _close(client: Client) -> None:
    with suppress(Exception):
        await within(client.aclose(), Patience(CLOSE_S, CLOSE_S))
