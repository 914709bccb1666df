"""Image files of a shared tier: bounded by their bytes, and in nobody's way."""

from __future__ import annotations

import asyncio

import pytest

from pairlens_server.cache.codec import OVERHEAD
from pairlens_server.cache.keys import image_key
from pairlens_server.cache.redis_tier import WINDOW_BYTES, windows
from pairlens_server.cache.stats import RedisState
from tests.cache.conftest import MakeTier
from tests.cache.redis_support import IMAGE, counts, key, timed, value, written
from tests.redis_server import RedisProcess, RedisProxy

MIB = 2**20


def files(count: int, length: int) -> dict[str, bytes]:
    return {image_key(f"{n:02}"): bytes([n]) * length for n in range(count)}


def lengths(values: dict[str, bytes]) -> dict[str, int]:
    return {name: len(data) for name, data in values.items()}


def test_windows_are_bounded_by_bytes():
    quarter = WINDOW_BYTES // 4
    assert windows({}) == []
    assert windows(dict.fromkeys("abcde", quarter)) == [["a", "b", "c", "d"], ["e"]]
    assert windows({"a": quarter, "b": 9 * quarter, "c": quarter}) == [["a"], ["b"], ["c"]]
    assert windows(dict.fromkeys(map(str, range(65)), 100_000)) == [[*map(str, range(65))]]


async def test_65_pictures_of_100_kb_take_one_round_trip(redis: RedisProcess, make_tier: MakeTier):
    many = files(65, 100_000)
    await written(make_tier(redis.url), many)
    with RedisProxy(redis.port) as proxy:
        tier = make_tier(proxy.url)
        await tier.start()
        before = proxy.trips
        assert await tier.files(lengths(many)) == many
        # Further pieces of one question are none.
        assert proxy.trips == before + 1


async def test_large_files_over_a_slow_network_are_found_and_redis_stays_up(
    redis: RedisProcess, make_tier: MakeTier
):
    large = files(24, 2 * MIB)
    await written(make_tier(redis.url), large)
    with RedisProxy(redis.port) as proxy:
        tier = make_tier(proxy.url)
        await tier.start()
        proxy.bytes_per_s = 25 * MIB
        assert await timed(tier.files(lengths(large))) > 1
        assert (await tier.stats()).errors == 0
        assert await tier.files(lengths(large)) == large
        status = await tier.stats()
        assert (status.state, status.errors) == (RedisState.UP, 0)


async def test_warm_reads_do_not_wait_behind_files(redis: RedisProcess, make_tier: MakeTier):
    large, many = files(8, 2 * MIB), {key(n): value(n, 8) for n in range(64)}
    await written(make_tier(redis.url), {**large, **many})
    with RedisProxy(redis.port) as proxy:
        tier = make_tier(proxy.url)
        await tier.start()
        proxy.bytes_per_s = 12 * MIB  # to each connection
        reading = [asyncio.create_task(tier.files({name: 2 * MIB})) for name in large]
        await asyncio.sleep(0.02)
        for _ in range(3):
            assert (await tier.get(list(many))).keys() == many.keys()
        assert sum(task.done() for task in reading) <= 4
        assert [await task for task in reading] == [{name: large[name]} for name in large]


async def test_replies_that_keep_coming_too_slowly_are_no_failure_of_redis(
    redis: RedisProcess, make_tier: MakeTier
):
    many = files(40, 50_000)
    await written(make_tier(redis.url), many)
    with RedisProxy(redis.port) as proxy:
        tier = make_tier(proxy.url)
        await tier.start()
        proxy.bytes_per_s = 1_000_000  # 2 s, of which 1.2 are allowed
        for _ in range(6):
            assert await tier.files(lengths(many)) == {}
        status = await tier.stats()
        assert (status.state, status.timeouts) == (RedisState.UP, 6)


async def test_no_more_is_transferred_than_the_caller_says(
    redis: RedisProcess, make_tier: MakeTier
):
    large = files(8, MIB)
    await written(make_tier(redis.url), large)
    with RedisProxy(redis.port) as proxy:
        tier = make_tier(proxy.url)
        await tier.start()
        # The first, so that the caller can be told; what is cut short is no damaged value.
        first = next(iter(large))
        assert await tier.files(dict.fromkeys(large, 1)) == {first: large[first]}
        assert proxy.received < MIB + 20_000
        assert await tier.files(lengths(large)) == large
        assert (await counts(tier, IMAGE)).corrupt == 0


@pytest.mark.parametrize("more", [0, 1, OVERHEAD, 10**9])
async def test_a_file_that_is_shorter_than_said_is_given(
    redis: RedisProcess, make_tier: MakeTier, more: int
):
    tier = make_tier(redis.url)
    await written(tier, {image_key("ab"): b"a file"})
    assert await tier.files({image_key("ab"): 6 + more, image_key("cd"): 5}) == {
        image_key("ab"): b"a file"
    }
    stats = await counts(tier, IMAGE)
    assert (stats.hits, stats.misses) == (1, 1)
