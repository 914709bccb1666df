from __future__ import annotations

import asyncio
import gc
import random
import time
from collections.abc import Sequence

import pytest

from pairlens_server.cache.flights import Flights
from pairlens_server.errors import DeadlineUnreachableError, PairlensError, QueueFullError
from pairlens_server.telemetry.record import (
    CURRENT,
    CallRecord,
    Stage,
    current_call,
    seconds_of,
    staged,
)


class Work:
    """Computations that end when the test says so."""

    def __init__(self, name: str = "work"):
        self.name = name
        self.calls: list[tuple[str, ...]] = []
        self.cancelled = 0
        self._ends: list[asyncio.Future[None]] = []

    async def __call__(self, keys: Sequence[str]) -> dict[str, str]:
        self.calls.append(tuple(keys))
        end = asyncio.get_running_loop().create_future()
        self._ends.append(end)
        try:
            await end
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        return {key: f"{key} by {self.name}" for key in keys}

    def end(self, index: int = -1, error: BaseException | None = None) -> None:
        if isinstance(error, asyncio.CancelledError):
            self._ends[index].cancel()
        elif error:
            self._ends[index].set_exception(error)
        else:
            self._ends[index].set_result(None)


async def ticks() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


def call(flights: Flights[str], keys: str, work: Work) -> asyncio.Task[dict[str, str]]:
    return asyncio.get_running_loop().create_task(flights.get(keys, work))


async def test_concurrent_callers_of_a_key_share_one_computation():
    flights, work = Flights[str](), Work()
    calls = [call(flights, "a", work) for _ in range(5)]
    await ticks()
    assert work.calls == [("a",)]
    assert len(flights) == 1
    work.end()
    assert await asyncio.gather(*calls) == [{"a": "a by work"}] * 5
    assert len(flights) == 0
    again = call(flights, "a", work)  # nothing is remembered
    await ticks()
    work.end()
    await again
    assert work.calls == [("a",)] * 2


async def test_only_what_nobody_computes_is_computed_and_all_of_it_together():
    flights, one, other = Flights[str](), Work("one"), Work("other")
    first = call(flights, "abc", one)
    await ticks()
    second = call(flights, "bdce", other)
    await ticks()
    assert (one.calls, other.calls) == ([("a", "b", "c")], [("d", "e")])
    other.end()
    one.end()
    assert await second == {
        "b": "b by one",
        "d": "d by other",
        "c": "c by one",
        "e": "e by other",
    }
    assert await first == {key: f"{key} by one" for key in "abc"}


async def test_a_key_asked_for_twice_in_a_call_is_computed_once():
    flights, work = Flights[str](), Work()
    task = call(flights, "aba", work)
    await ticks()
    assert work.calls == [("a", "b")]
    work.end()
    assert await task == {"a": "a by work", "b": "b by work"}


async def test_no_keys_need_no_computation():
    assert await Flights[str]().get([], Work()) == {}


async def test_a_cancelled_leader_does_not_fail_its_followers():
    flights, work = Flights[str](), Work()
    leader = call(flights, "a", work)
    follower = call(flights, "a", work)
    await ticks()
    leader.cancel()
    await ticks()
    assert leader.cancelled()
    assert work.cancelled == 0
    work.end()
    assert await follower == {"a": "a by work"}
    assert work.calls == [("a",)]


async def test_work_that_nobody_waits_for_is_cancelled_and_nobody_boards_it():
    flights, work = Flights[str](), Work()
    tasks = [call(flights, "a", work) for _ in range(3)]
    await ticks()
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)
    late = call(flights, "a", work)  # before the cancelled computation has ended
    await ticks()
    assert work.cancelled == 1
    assert len(work.calls) == 2
    work.end()
    assert await late == {"a": "a by work"}
    assert len(flights) == 0


async def test_a_flight_goes_on_for_those_who_wait_for_any_of_its_keys():
    flights, one, other = Flights[str](), Work("one"), Work("other")
    first = call(flights, "ab", one)
    await ticks()
    second = call(flights, "bc", other)
    await ticks()
    first.cancel()
    await ticks()
    assert (one.cancelled, other.cancelled) == (0, 0)
    one.end()
    other.end()
    assert await second == {"b": "b by one", "c": "c by other"}


async def test_an_error_of_the_work_reaches_all_who_wait():
    flights, work = Flights[str](), Work()
    tasks = [call(flights, "a", work) for _ in range(3)]
    await ticks()
    work.end(error=PairlensError("broken"))
    for task in tasks:
        with pytest.raises(PairlensError, match="broken"):
            await task
    assert len(work.calls) == 1
    assert len(flights) == 0


@pytest.mark.parametrize(
    "error",
    [
        DeadlineUnreachableError("mine"),
        QueueFullError("mine"),
        asyncio.CancelledError(),
        PairlensError("of my request", field="candidates[3]"),
    ],
    ids=lambda error: type(error).__name__,
)
async def test_what_befell_the_leader_alone_makes_a_follower_do_it_itself(error: BaseException):
    flights, leaders, followers = Flights[str](), Work("leader"), Work("follower")
    leader = call(flights, "ab", leaders)
    await ticks()
    tasks = [call(flights, "bc", followers), call(flights, "b", followers)]
    await ticks()
    leaders.end(error=error)
    await ticks()
    with pytest.raises(type(error)):
        await leader
    # The first to try again leads, though it waits for another key too; the other follows it.
    assert followers.calls == [("c",), ("b",)]
    followers.end(0)
    followers.end(1)
    assert await tasks[0] == {"b": "b by follower", "c": "c by follower"}
    assert await tasks[1] == {"b": "b by follower"}
    assert len(flights) == 0


async def test_a_callers_own_error_does_not_wait_for_others():
    flights, slow, own = Flights[str](), Work(), Work()
    other = call(flights, "a", slow)
    await ticks()
    task = call(flights, "ab", own)
    await ticks()
    own.end(error=DeadlineUnreachableError("late"))
    with pytest.raises(DeadlineUnreachableError):
        await task
    assert not other.done()
    slow.end()
    await other


async def test_an_error_that_nobody_waits_for_is_not_complained_about():
    complaints = []
    asyncio.get_running_loop().set_exception_handler(lambda _, what: complaints.append(what))
    flights, work = Flights[str](), Work()
    task = call(flights, "a", work)
    await ticks()
    work.end(error=ValueError("a bug"))
    task.cancel()
    await asyncio.wait([task])
    await ticks()
    del task
    gc.collect()
    assert complaints == []
    assert len(flights) == 0


async def test_a_thousand_callers_cancelled_at_random_leave_nothing_and_get_nothing_wrong():
    random.seed(5)
    flights = Flights[str]()

    async def compute(keys: Sequence[str]) -> dict[str, str]:
        for _ in range(random.randrange(6)):
            await asyncio.sleep(0)
        if random.random() < 0.1:
            raise random.choice([DeadlineUnreachableError, QueueFullError, PairlensError])("no")
        return {key: key.upper() for key in keys}

    async def caller() -> None:
        keys = random.sample("abcdefgh", random.randrange(1, 5))
        assert await flights.get(keys, compute) == {key: key.upper() for key in keys}

    tasks = []
    for _ in range(1000):
        tasks.append(asyncio.create_task(caller()))
        if random.random() < 0.5:
            random.choice(tasks).cancel()
        if random.random() < 0.3:
            await asyncio.sleep(0)
    results = await asyncio.gather(*tasks, return_exceptions=True)
    await ticks()
    assert len(flights) == 0
    assert not [r for r in results if isinstance(r, AssertionError)]
    assert {type(r) for r in results if r is not None} <= {
        asyncio.CancelledError,
        PairlensError,
        DeadlineUnreachableError,
        QueueFullError,
    }
    assert sum(r is None for r in results) > 300


async def test_every_rider_has_waited_for_the_stages_of_the_work():
    flights = Flights[str]()
    begun, go_on, seen = asyncio.Event(), asyncio.Event(), []

    async def compute(keys: Sequence[str]) -> dict[str, str]:
        seen.append(current_call())
        with staged(Stage.COMPUTE):
            begun.set()
            await go_on.wait()
        return dict.fromkeys(keys, "")

    async def ride(call: CallRecord) -> None:
        CURRENT.set(call)
        await flights.get("a", compute)

    calls = [CallRecord("r", name) for name in ("leader", "follower", "leaver")]
    tasks = [asyncio.create_task(ride(calls[0]))]
    await begun.wait()
    began_s = time.perf_counter()
    tasks += [asyncio.create_task(ride(call)) for call in calls[1:]]
    await asyncio.sleep(0.05)
    tasks[2].cancel()
    await asyncio.sleep(0.05)
    go_on.set()
    await asyncio.gather(*tasks, return_exceptions=True)
    (work,) = seen
    assert work.request_id == "leader"
    assert work.is_over
    end_s = time.perf_counter()
    spent = [seconds_of(call.runs(end_s)) for call in calls]
    assert [seconds.keys() for seconds in spent] == [{Stage.COMPUTE}] * 3
    leader, follower, leaver = (seconds[Stage.COMPUTE] for seconds in spent)
    # Nobody has waited before coming, nor after leaving.
    assert 0.04 < leaver < follower <= leader
    assert follower <= end_s - began_s
    # The work's own books are nobody's.
    assert all(not call.intervals for call in calls)


async def test_a_leader_that_is_cancelled_has_waited_until_then():
    flights, begun = Flights[str](), asyncio.Event()

    async def compute(keys: Sequence[str]) -> dict[str, str]:
        with staged(Stage.QUEUE):
            begun.set()
            await asyncio.Event().wait()
        return {}

    call = CallRecord("r", "leader")

    async def ride() -> dict[Stage, float]:
        CURRENT.set(call)
        try:
            await flights.get("a", compute)
        except asyncio.CancelledError:
            # The work has not been told yet when the call ends.
            return seconds_of(call.runs(time.perf_counter()))
        return {}

    task = asyncio.create_task(ride())
    await begun.wait()
    await asyncio.sleep(0.05)
    task.cancel()
    assert (await task)[Stage.QUEUE] >= 0.04
