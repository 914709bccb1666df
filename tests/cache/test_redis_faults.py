"""What can befall a Redis: nothing is raised, time stays bounded, and it is used again after."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from pairlens_server.cache.keys import image_key
from pairlens_server.cache.redis_tier import RedisTier
from pairlens_server.cache.stats import RedisState
from tests.cache.conftest import MakeTier
from tests.cache.redis_support import ACTIVATION, counts, key, number, timed, until, value, written
from tests.redis_server import RedisProcess, RedisProxy, free_port, redis_server

TIMEOUT_S = 0.05  # the default
SLACK_S = 0.3  # of machines that do other things too
VALUES = {key(n): value(n) for n in range(64)}
BOUND_S = 20 * TIMEOUT_S + SLACK_S


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RedisProcess]:
    """One to be maltreated."""
    with redis_server(tmp_path / "redis") as process:
        yield process


async def fails_within_bounds(tier: RedisTier) -> None:
    """Ask until it is left alone; no answer takes longer than it may, and then none any time."""
    for _ in range(6):
        assert await timed(tier.get(list(VALUES))) < BOUND_S
        assert await timed(tier.present(list(VALUES))) < BOUND_S
        tier.put(VALUES)
    status = await tier.stats()
    assert status.state is RedisState.UNAVAILABLE
    assert status.errors >= 5
    seconds = [await timed(tier.get(list(VALUES))) for _ in range(100)]
    assert sorted(seconds)[50] < 0.001
    assert await tier.clear([""]) is None


async def is_used_again(tier: RedisTier) -> None:
    async def hit() -> bool:
        await written(tier, VALUES)
        return (await tier.get(list(VALUES))).keys() == VALUES.keys()

    await until(hit)
    status = await tier.stats()
    assert status.state is RedisState.UP
    assert status.queued_bytes == 0
    found = await tier.get(list(VALUES))
    assert [number(found[name]) for name in VALUES] == [*range(64)]


async def started(tier: RedisTier) -> None:
    await tier.start()
    await written(tier, VALUES)
    assert (await tier.get(list(VALUES))).keys() == VALUES.keys()


async def test_stopped_and_started_again(
    server: RedisProcess, make_tier: MakeTier, caplog: pytest.LogCaptureFixture
):
    tier = make_tier(server.url)
    await started(tier)
    with caplog.at_level(logging.WARNING):
        server.stop()
        await fails_within_bounds(tier)
        server.start()
        await is_used_again(tier)
    said = [record.getMessage() for record in caplog.records]
    assert len([text for text in said if "is left alone until it answers" in text]) == 1
    assert len([text for text in said if "answers again" in text]) == 1
    assert len(said) <= 4  # the others being of writing


async def test_restarted_between_two_questions(server: RedisProcess, make_tier: MakeTier):
    tier = make_tier(server.url)
    await started(tier)
    server.restart()
    await tier.get(list(VALUES))  # on a connection that is gone
    await is_used_again(tier)


async def test_frozen_and_thawed(server: RedisProcess, make_tier: MakeTier):
    tier = make_tier(server.url)
    await started(tier)
    server.freeze()
    await fails_within_bounds(tier)
    assert (await tier.stats()).timeouts >= 5
    server.thaw()
    await is_used_again(tier)


async def test_frozen_under_many_callers_at_once(server: RedisProcess, make_tier: MakeTier):
    tier = make_tier(server.url)
    await started(tier)
    server.freeze()
    calls = [tier.get([key(n % 64)]) for n in range(300)]
    assert await timed(asyncio.gather(*calls)) < 3 * TIMEOUT_S + SLACK_S
    server.thaw()
    await is_used_again(tier)


async def test_slow_and_then_not(server: RedisProcess, make_tier: MakeTier):
    with RedisProxy(server.port) as proxy:
        tier = make_tier(proxy.url)
        await started(tier)
        proxy.delay_s = 0.4
        await fails_within_bounds(tier)
        # It is there, and each probe says so within the time of connecting; it is too slow still.
        await asyncio.sleep(1.5)
        assert (await tier.stats()).state is RedisState.UNAVAILABLE
        proxy.delay_s = 0
        await is_used_again(tier)


async def test_full_and_then_not(
    server: RedisProcess, make_tier: MakeTier, caplog: pytest.LogCaptureFixture
):
    tier = make_tier(server.url)
    await started(tier)
    server.fill()
    with caplog.at_level(logging.WARNING):
        for n in range(10):
            await written(tier, {key(f"new {n}"): value(n)})
    stats = await counts(tier)
    assert (stats.stored, stats.dropped) == (64, 10)
    assert [record.getMessage()[:40] for record in caplog.records] == [
        f"Redis at {server.address} does not take values: Ou"[:40]
    ]
    # It is read as before, and nothing waits to be written meanwhile.
    assert (await tier.get(list(VALUES))).keys() == VALUES.keys()
    status = await tier.stats()
    assert (status.state, status.queued_bytes) == (RedisState.UP, 0)
    server.drain()
    caplog.clear()

    async def stored() -> bool:
        await written(tier, VALUES)
        return (await counts(tier)).stored > 64

    with caplog.at_level(logging.WARNING):
        await until(stored)
    assert [r.getMessage() for r in caplog.records] == [
        f"Redis at {server.address} takes values again"
    ]


async def test_flushed(server: RedisProcess, make_tier: MakeTier):
    tier = make_tier(server.url)
    await started(tier)
    server.flush()
    assert await tier.get(list(VALUES)) == {}
    assert (await tier.stats()).errors == 0
    await is_used_again(tier)


NONSENSE = {
    "HTTP": b"HTTP/1.1 400 Bad Request\r\n\r\n",
    "zeros": b"\0" * 100,
    "agreement": b"+OK\r\n" * 65,
    "numbers": b":1\r\n" * 65,
    "nothing": b"$-1\r\n" * 65,
    "lists": b"*2\r\n+a\r\n+b\r\n" * 65,
    "a value that never ends": b"$1000000\r\nabc",
    "a value of no length": b"$-5\r\nabc\r\n",
    "errors": b"-ERR no\r\n" * 65,
    "too much": b"$3\r\nabc\r\n" * 1000,
}


@pytest.mark.parametrize("nonsense", NONSENSE.values(), ids=NONSENSE)
@pytest.mark.parametrize("known", [True, False], ids=["known", "unknown"])
async def test_a_server_that_speaks_nonsense(
    shared_redis: RedisProcess, make_tier: MakeTier, nonsense: bytes, known: bool
):
    with RedisProxy(shared_redis.port) as proxy:
        tier = make_tier(proxy.url)
        if known:
            await started(tier)
        proxy.nonsense = nonsense
        if not known:
            await tier.start()
        for _ in range(6):
            assert await timed(tier.get(list(VALUES))) < BOUND_S
            assert await tier.get(list(VALUES)) == {}
            assert await tier.present([key(1)]) <= {key(1)}
            await written(tier, {key(1): value(1)})
        await tier.clear(["2:"])
        await tier.stats()


async def test_nonsense_ends(shared_redis: RedisProcess, make_tier: MakeTier):
    with RedisProxy(shared_redis.port) as proxy:
        tier = make_tier(proxy.url)
        await started(tier)
        proxy.nonsense = NONSENSE["HTTP"]
        await fails_within_bounds(tier)
        proxy.nonsense = None
        await is_used_again(tier)


async def test_started_without_redis(tmp_path: Path, make_tier: MakeTier):
    server = RedisProcess(tmp_path, free_port())
    tier = make_tier(server.url)
    assert await timed(tier.start()) < 1 + SLACK_S
    assert (await tier.stats()).state is RedisState.UNAVAILABLE
    assert await tier.get(list(VALUES)) == {}
    tier.put(VALUES)
    assert (await tier.stats()).queued_bytes == 0
    assert (await counts(tier)).dropped == 64
    server.start()
    try:
        await is_used_again(tier)
    finally:
        server.stop()


async def test_started_with_a_frozen_redis(server: RedisProcess, make_tier: MakeTier):
    server.freeze()
    tier = make_tier(server.url)
    assert await timed(tier.start()) < 1.5 + SLACK_S
    assert await timed(tier.get(list(VALUES))) < SLACK_S
    server.thaw()
    await is_used_again(tier)


async def test_stopping_does_not_wait_for_a_frozen_redis(server: RedisProcess, make_tier: MakeTier):
    tier = make_tier(server.url)
    await started(tier)
    server.freeze()
    tier.put(VALUES)
    assert await timed(tier.stop()) < 3
    stats = await counts(tier)
    assert (stats.stored, stats.dropped) == (64, 64)


async def test_a_stopped_tier_is_an_empty_one(shared_redis: RedisProcess, make_tier: MakeTier):
    tier = make_tier(shared_redis.url)
    await started(tier)
    under_way = asyncio.create_task(tier.get(list(VALUES)))
    await asyncio.sleep(0)
    await tier.stop()
    assert (await under_way).keys() <= VALUES.keys()
    assert await tier.get(list(VALUES)) == {}
    assert await tier.present(list(VALUES)) == set()
    await tier.write({key(1): value(1)})
    await written(tier, {key(1): value(1)})
    assert await tier.clear([""]) is None
    assert (await counts(tier)).dropped == 2
    await tier.stop()


async def test_a_host_that_is_not_there(make_tier: MakeTier):
    tier = make_tier("redis://no-such-host.invalid:1")
    assert await timed(tier.start()) < 2
    assert await tier.get([key(1)]) == {}
    assert (await tier.stats()).state is RedisState.UNAVAILABLE


@pytest.mark.parametrize("url", ["redis://:{}@{}", "redis://somebody:{}@{}"])
async def test_a_wrong_password_is_a_redis_that_is_away(
    tmp_path: Path, make_tier: MakeTier, caplog: pytest.LogCaptureFixture, url: str
):
    with redis_server(tmp_path / "redis", auth="reader:right") as server:
        tier = make_tier(url.format("wr0ng", server.address))
        with caplog.at_level(logging.DEBUG):
            await tier.start()
            assert await tier.get([key(1)]) == {}
        assert (await tier.stats()).state is RedisState.UNAVAILABLE
        assert "is left alone until it answers" in caplog.text
        assert "wr0ng" not in caplog.text


async def test_an_event_loop_that_is_held_up_is_not_taken_for_a_slow_redis(
    shared_redis: RedisProcess, make_tier: MakeTier
):
    tier = make_tier(shared_redis.url)
    await started(tier)
    for _ in range(6):
        asking = asyncio.create_task(tier.get([key(1)]))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        time.sleep(3 * TIMEOUT_S)
        assert (await asking).keys() == {key(1)}
    assert (await tier.stats()).errors == 0
    assert (await counts(tier, ACTIVATION)).hits == 64 + 6


async def test_who_waits_for_writing_does_not_wait_for_long(
    server: RedisProcess, make_tier: MakeTier
):
    tier = make_tier(server.url, max_queued_bytes=8 * 2**20)
    await started(tier)
    server.freeze()
    files = {image_key(str(n)): bytes(2**20) for n in range(16)}
    assert await timed(tier.write(files)) < 2 + SLACK_S
    assert (await tier.stats()).queued_bytes <= 8 * 2**20
    await until_left_alone(tier)
    assert await timed(tier.write(files)) < SLACK_S
    server.thaw()


async def until_left_alone(tier: RedisTier) -> None:
    async def left_alone() -> bool:
        await tier.get([key(1)])
        return (await tier.stats()).state is RedisState.UNAVAILABLE

    await until(left_alone)


async def test_clearing_is_tried_while_redis_is_left_alone(
    server: RedisProcess, make_tier: MakeTier
):
    tier = make_tier(server.url)
    await started(tier)
    server.freeze()
    await until_left_alone(tier)
    assert await timed(tier.clear([""])) < 2.5 + SLACK_S
    server.thaw()
    # Whatever the breaker knows by now.
    assert await tier.clear([""]) == 64
    assert await tier.clear([""]) == 0
