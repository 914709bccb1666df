"""Work that several callers want at the same time is done once.

Who comes later rides with the first one's turn in the engine's queue, whoever the two are: calls
of a flooding client that ride with a polite one's cost nobody anything, but a polite client that
wants what a flood has asked for already waits for the flood's turn. A failure that names a field
of the first one's request is not shared, so that every rider finds out for itself. The stages of
the work count as those of every call that waits for it, while it does.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from contextvars import copy_context
from dataclasses import dataclass
from typing import Generic, TypeVar

from pairlens_server.errors import DeadlineUnreachableError, PairlensError, QueueFullError
from pairlens_server.telemetry.record import CURRENT, CallRecord, current_call

V = TypeVar("V")

Compute = Callable[[Sequence[str]], Awaitable[dict[str, V]]]
"""Makes the values of some keys, all of them in one go."""

# What befell the caller who happened to come first, and says nothing about the work.
_OWN = (DeadlineUnreachableError, QueueFullError, asyncio.CancelledError)


@dataclass(eq=False)
class _Flight(Generic[V]):
    keys: tuple[str, ...]
    task: asyncio.Task[dict[str, V]]
    record: CallRecord | None
    waiting: int = 0


class Flights(Generic[V]):
    """Values under way, by key; used by the event loop alone."""

    def __init__(self) -> None:
        self._flights: dict[str, _Flight[V]] = {}

    def __len__(self) -> int:
        return len(self._flights)

    def __contains__(self, key: str) -> bool:
        return key in self._flights

    async def get(self, keys: Iterable[str], compute: Compute[V]) -> dict[str, V]:
        """Values of keys: those under way are awaited, the others computed together.

        The computation is a task of its own. It goes on while anybody waits for any of its keys,
        and is cancelled when nobody does.

        Raises:
            Exception: What a computation raised. Of somebody else's, a deadline, a full queue,
                cancellation and whatever names a field of the request count as the other's
                alone: the keys are then computed here.
        """
        wanted = dict.fromkeys(keys)
        values: dict[str, V] = {}
        boarded: dict[asyncio.Task[dict[str, V]], _Flight[V]] = {}
        own: set[asyncio.Task[dict[str, V]]] = set()
        try:
            self._board(wanted, compute, boarded, own)
            while boarded:
                with _riding(boarded.values()):
                    # `wait` leaves the tasks alone when it is cancelled itself.
                    done, _ = await asyncio.wait(boarded, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    flight = boarded.pop(task)
                    mine = [key for key in flight.keys if key in wanted]
                    if task not in own and _failed_alone(task):
                        self._board(mine, compute, boarded, own)
                    else:
                        landed = task.result()
                        values.update({key: landed[key] for key in mine})
        finally:
            for flight in boarded.values():
                self._leave(flight)
        return values

    def _board(
        self,
        keys: Iterable[str],
        compute: Compute[V],
        boarded: dict[asyncio.Task[dict[str, V]], _Flight[V]],
        own: set[asyncio.Task[dict[str, V]]],
    ) -> None:
        keys = list(keys)
        new = tuple(key for key in keys if key not in self._flights)
        if new:
            own.add(self._launch(new, compute))
        for flight in (self._flights[key] for key in keys):
            if flight.task not in boarded:
                boarded[flight.task] = flight
                flight.waiting += 1

    def _launch(self, keys: tuple[str, ...], compute: Compute[V]) -> asyncio.Task[dict[str, V]]:
        loop, call = asyncio.get_running_loop(), current_call()
        record = None if call is None else call.shared()
        context = copy_context()
        context.run(CURRENT.set, record)
        task = context.run(loop.create_task, _run(compute, keys))
        flight = _Flight(keys, task, record)
        self._flights.update(dict.fromkeys(keys, flight))
        task.add_done_callback(lambda _: self._forget(flight))
        return task

    def _leave(self, flight: _Flight[V]) -> None:
        flight.waiting -= 1
        if flight.waiting == 0 and not flight.task.done():
            # Whoever comes next must not board what is being cancelled.
            self._forget(flight)
            flight.task.cancel()

    def _forget(self, flight: _Flight[V]) -> None:
        for key in flight.keys:
            if self._flights.get(key) is flight:
                del self._flights[key]
        if not flight.task.done():
            return
        if flight.record is not None:
            flight.record.is_over = True
        if not flight.task.cancelled():
            flight.task.exception()  # fetched here, lest asyncio log that nobody has


def _riding(flights: Iterable[_Flight[V]]) -> AbstractContextManager[None]:
    """Have the call that waits for some flights share what they tell of themselves."""
    call = current_call()
    works = [flight.record for flight in flights if flight.record is not None]
    return nullcontext() if call is None else call.riding(works)


async def _run(compute: Compute[V], keys: Sequence[str]) -> dict[str, V]:
    return await compute(keys)


def _failed_alone(task: asyncio.Task[dict[str, V]]) -> bool:
    if task.cancelled():
        return True
    error = task.exception()
    # An error that names a field names that of the first one's request.
    return isinstance(error, _OWN) or (isinstance(error, PairlensError) and bool(error.field))
