"""How far `explain_many` reads and calls ahead, and what is left when it ends early."""

import asyncio
import gc
import itertools
import os
import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing, contextmanager

import pytest

from pairlens import (
    AsyncClient,
    Client,
    ItemResult,
    errors,
)
from tests.client.held import Held, until, until_async
from tests.client.many import WIDTHS, Kind, pictures, threads
from tests.client.scripted import Running, Scripted, png
from tests.client.uploading import EXPLAIN


def test_so_many_calls_at_a_time(kind: Kind, service: Scripted):
    held = Held()
    service.script.extend([held] * 40)
    releaser = threading.Thread(
        target=lambda: (until(lambda: held.under_way == 6), held.release.set())
    )
    releaser.start()
    items = kind.items("explain_many", pictures(), concurrency=6, model="vit")
    releaser.join()
    assert len(items) == 40
    assert held.most == 6


def test_inputs_are_not_read_far_ahead(kind: Kind):
    read = itertools.count()

    def endless() -> Iterator[bytes]:
        for number in read:
            yield png(20, 10 + number % 50)

    items = kind.items("explain_many", endless(), most=20, concurrency=4, model="vit")
    assert len(items) == 20
    assert 20 <= next(read) <= 20 + 2 * 4


def test_a_slow_consumer_has_results_waiting_but_not_all(service: Scripted, server: Running):
    read = []

    def inputs() -> Iterator[bytes]:
        for number, picture in enumerate(pictures()):
            read.append(number)
            yield picture

    with Client(server.target, timeout=10) as client:
        items = client.explain_many(inputs(), concurrency=3, model="vit")
        assert not read  # nothing happens before the first is asked for
        for count in range(1, 11):
            next(items)
            until(lambda: len(service.requests(EXPLAIN)) == len(read))  # what was read is made
            assert len(read) <= count + 5  # this one is still the caller's
        assert len(read) > 10
        assert len(list(items)) == 30


async def test_a_slow_consumer_of_tasks(service: Scripted, server: Running):
    read = []

    async def inputs() -> AsyncIterator[bytes]:
        for number, picture in enumerate(pictures()):
            read.append(number)
            yield picture

    async with AsyncClient(server.target, timeout=10) as client:
        count = 0
        async for _ in client.explain_many(inputs(), concurrency=3, model="vit"):
            count += 1
            if count in (1, 10):
                ahead = count + 5  # this one is still the caller's
                await until_async(lambda ahead=ahead: len(service.requests(EXPLAIN)) == ahead)
                await asyncio.sleep(0.1)
                assert len(read) == ahead
        assert count == 40


@pytest.mark.parametrize("ordered", [False, True])
def test_results_come_as_they_are_made_unless_ordered(
    service: Scripted, server: Running, ordered: bool
):
    held = Held()
    service.script.append(held)  # the first call that arrives is slow
    with Client(server.target, timeout=10) as client:
        items = client.explain_many(pictures(), concurrency=2, ordered=ordered, model="vit")
        if ordered:
            until_held = threading.Timer(0.2, held.release.set)
            until_held.start()
        first = next(items)
        # The two first calls race for being the slow one.
        assert first.index == 0 if ordered else held.under_way == 1
        held.release.set()
        rest = [item.index for item in items]
    assert sorted([first.index, *rest]) == list(range(40))


async def test_results_of_tasks_come_as_they_are_made_unless_ordered(
    service: Scripted, server: Running
):
    async with AsyncClient(server.target, timeout=10) as client:
        held = Held()
        service.script.append(held)
        items = client.explain_many(pictures()[:9], concurrency=2, model="vit")
        indices = []
        async for item in items:
            indices.append(item.index)
            if len(indices) == 8:
                held.release.set()  # all others came before the one that was held
        assert sorted(indices) == list(range(9))
        held.release.clear()
        service.script.append(held)
        asyncio.get_running_loop().call_later(0.2, held.release.set)
        items = client.explain_many(pictures()[:9], concurrency=2, ordered=True, model="vit")
        assert [item.index async for item in items] == list(range(9))


PATIENCE_S = 60
"""How long a call would last that nobody cancels."""


@contextmanager
def left_early(service: Scripted) -> Iterator[Held]:
    """Calls that are under way when an iterator is left are cancelled at the server."""
    held, begun = Held(), time.monotonic()
    service.script.extend([lambda _: None, *[held] * 100])
    yield held
    until(lambda: held.under_way == 0)
    assert time.monotonic() - begun < PATIENCE_S / 2
    assert held.given_up == held.most == 3
    assert not threads()
    assert len(service.requests(EXPLAIN)) == 4


def test_leaving_the_loop_cancels_what_is_under_way(service: Scripted, server: Running):
    with Client(server.target, timeout=PATIENCE_S) as client, left_early(service) as held:
        for _ in client.explain_many(pictures(), concurrency=3, model="vit"):
            until(lambda: held.under_way == 3)
            break


def test_an_error_of_the_consumer_cancels_what_is_under_way(service: Scripted, server: Running):
    def consume(client: Client, held: Held) -> None:
        for _ in client.explain_many(pictures(), concurrency=3, model="vit"):
            until(lambda: held.under_way == 3)
            raise KeyError("mine")

    with (
        Client(server.target, timeout=PATIENCE_S) as client,
        left_early(service) as held,
        pytest.raises(KeyError, match="mine"),
    ):
        consume(client, held)


async def test_leaving_the_loop_of_tasks_cancels_what_is_under_way(
    service: Scripted, server: Running
):
    async with AsyncClient(server.target, timeout=PATIENCE_S) as client:
        with left_early(service) as held:
            async for _ in client.explain_many(pictures(), concurrency=3, model="vit"):
                await until_async(lambda: held.under_way == 3)
                break
            # Without `aclosing` the loop closes what is left, soon.
            await until_async(lambda: asyncio.all_tasks() == {asyncio.current_task()})


async def test_cancelling_the_consumer_cancels_what_is_under_way(
    service: Scripted, server: Running
):
    async with AsyncClient(server.target, timeout=PATIENCE_S) as client:
        with left_early(service) as held:

            async def consume() -> None:
                async for _ in client.explain_many(pictures(), concurrency=3, model="vit"):
                    pass

            task = asyncio.create_task(consume())
            await until_async(lambda: held.under_way == 3)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert asyncio.all_tasks() == {asyncio.current_task()}


async def test_inputs_that_come_slowly_hold_up_no_result(server: Running):
    more = asyncio.Event()

    async def inputs() -> AsyncIterator[bytes]:
        yield png()
        await more.wait()
        yield png(9)

    async with AsyncClient(server.target, timeout=10) as client:
        items = client.explain_many(inputs(), model="vit")
        assert (await anext(items)).index == 0
        more.set()
        assert [item.index async for item in items] == [1]


@pytest.mark.parametrize("ordered", [False, True])
async def test_what_the_inputs_raise_while_the_last_item_is_looked_at(
    server: Running, ordered: bool
):
    looked = asyncio.Event()

    async def inputs() -> AsyncIterator[bytes]:
        yield png()
        await looked.wait()
        raise OSError("the disk is gone")

    async with AsyncClient(server.target, timeout=10) as client:
        items = client.explain_many(inputs(), ordered=ordered, model="vit")
        assert (await anext(items)).index == 0
        looked.set()
        await until_async(lambda: asyncio.all_tasks() == {asyncio.current_task()})
        with pytest.raises(OSError, match="the disk is gone"):
            await anext(items)


class Surprise(os.PathLike):
    """Fails as no picture should."""

    def __fspath__(self) -> str:
        raise KeyError("mine")


async def test_what_nobody_asked_for_any_more_is_not_complained_of(
    server: Running, caplog: pytest.LogCaptureFixture
):
    async with AsyncClient(server.target, timeout=10) as client:
        given = [png(), Surprise()]
        async with aclosing(client.explain_many(given, ordered=True, model="vit")) as items:
            assert (await anext(items)).index == 0
            await until_async(lambda: asyncio.all_tasks() == {asyncio.current_task()})
        with pytest.raises(KeyError, match="mine"):
            [_ async for _ in client.explain_many(given, ordered=True, model="vit")]
    gc.collect()
    assert not [record for record in caplog.records if "never retrieved" in record.message]


def test_closing_the_client_ends_the_iteration(service: Scripted, server: Running):
    client = Client(server.target, timeout=10)
    items = client.explain_many(map(png, WIDTHS), concurrency=2, model="vit")
    assert isinstance(next(items), ItemResult)
    client.close()
    with pytest.raises(errors.PairlensError, match="closed"):
        list(items)
    assert not threads()


async def test_closing_the_async_client_ends_the_iteration(server: Running):
    client = AsyncClient(server.target, timeout=10)
    items = client.explain_many(itertools.repeat(png()), concurrency=2, model="vit")
    assert isinstance(await anext(items), ItemResult)
    await client.close()
    with pytest.raises(errors.PairlensError, match="closed"):
        async for _ in items:
            pass
