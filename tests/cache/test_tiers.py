from __future__ import annotations

from collections.abc import Mapping

import pytest

from pairlens_server.cache.codec import OVERHEAD
from pairlens_server.cache.keys import image_key, picture_key
from pairlens_server.cache.memory import ENTRY_BYTES, MemoryTier
from pairlens_server.cache.packing import Precision, Value
from pairlens_server.cache.redis_tier import RedisTier
from pairlens_server.cache.stats import RedisState
from pairlens_server.cache.tiers import Cache
from tests.cache.conftest import MakeTier
from tests.cache.redis_support import ACTIVATION, IMAGE, key, number, some, until, value
from tests.redis_server import RedisProcess, RedisProxy


def cache(redis: RedisTier | None = None, activations: int = 10**6, images: int = 10**6) -> Cache:
    return Cache(MemoryTier(activations), MemoryTier(images), redis)


async def stored(tiers: Cache, tier: RedisTier, values: Mapping[str, Value]) -> None:
    tiers.store(values)
    await tier.settle(10)


async def test_memory_alone_is_a_cache():
    tiers = cache()
    await tiers.start()
    assert await tiers.fetch(some()) == {}
    tiers.store(some())
    assert (await tiers.fetch([*some(), key("b")])).keys() == some().keys()
    assert tiers.at_hand(image_key("ab")) == some()[image_key("ab")]
    assert tiers.at_hand(image_key("cd")) is None
    assert (await tiers.stats()).redis.state is RedisState.OFF
    await tiers.stop()


async def test_files_and_the_rest_are_bounded_apart():
    tiers = cache(activations=30_000)
    tiers.store({image_key("ab"): b"file", picture_key("ab"): b"size"})
    tiers.store({key(n): value(n) for n in range(100)})  # 11 kB each
    assert tiers.at_hand(image_key("ab")) == b"file"
    assert tiers.at_hand(picture_key("ab")) is None
    assert tiers.at_hand(key(99)) is not None
    stats = (await tiers.stats()).memory
    assert (stats[ACTIVATION].entries, stats[ACTIVATION].evicted) == (2, 99)
    assert (stats[ACTIVATION].max_bytes, stats[IMAGE].max_bytes) == (30_000, 10**6)
    assert (stats[IMAGE].entries, stats[IMAGE].bytes) == (1, ENTRY_BYTES + 4)


async def test_a_look_up_is_counted_once():
    tiers = cache()
    assert tiers.at_hand(key(1)) is None  # a fetch follows
    await tiers.fetch([key(1)])
    tiers.store({key(1): value(1)})
    assert tiers.at_hand(key(1)) is not None  # none follows
    await tiers.missing([image_key("ab")])
    stats = (await tiers.stats()).memory
    assert (stats[ACTIVATION].hits, stats[ACTIVATION].misses) == (1, 1)
    assert (stats[IMAGE].hits, stats[IMAGE].misses) == (0, 0)


async def test_what_memory_lacks_is_asked_of_redis_in_one_round_trip_and_remembered(
    redis: RedisProcess, make_tier: MakeTier
):
    writing = make_tier(redis.url)
    await stored(cache(writing), writing, {**some(), key("b"): value(2)})
    with RedisProxy(redis.port) as proxy:
        tiers = cache(make_tier(proxy.url, timeout_s=1))
        await tiers.start()
        tiers._activations.put({key("c"): value(3)})
        before = proxy.trips
        found = await tiers.fetch([*some(), key("b"), key("c"), key("nothing")])
        assert proxy.trips == before + 1
        assert found.keys() == {*some(), key("b"), key("c")}
        assert [number(found[key(n)]) for n in "abc"] == [1, 2, 3]
        before = proxy.trips
        assert (await tiers.fetch([*some(), key("c")])).keys() == {*some(), key("c")}
        assert proxy.trips == before
        stats = await tiers.stats()
        memory, shared = stats.memory[ACTIVATION], stats.redis.kinds[ACTIVATION]
        assert (memory.hits, memory.misses, shared.hits, shared.misses) == (4, 4, 2, 1)


async def test_redis_alone_is_a_cache(redis: RedisProcess, make_tier: MakeTier):
    tier = make_tier(redis.url)
    tiers = cache(tier, activations=0, images=0)
    await stored(tiers, tier, some())
    assert (await tiers.fetch(some())).keys() == some().keys()
    assert tiers.at_hand(key("a")) is None
    assert await tiers.missing([image_key("ab"), image_key("cd")]) == {image_key("cd")}


async def test_missing_images_without_redis():
    tiers = cache()
    tiers.store({image_key("ab"): b"", image_key("cd"): b"file"})
    images = [image_key(name) for name in ("ab", "cd", "ef")]
    assert await tiers.missing(images) == {image_key("ef")}
    assert await tiers.missing([]) == set()


async def test_an_image_that_was_asked_for_is_used_the_latest():
    tiers = cache(images=2 * ENTRY_BYTES + 2)
    tiers.store({image_key("ab"): b"1", image_key("cd"): b"2"})
    await tiers.missing([image_key("ab")])
    tiers.store({image_key("ef"): b"3"})
    assert await tiers.missing([image_key("ab"), image_key("cd")]) == {image_key("cd")}


async def test_what_redis_lost_of_the_images_is_written_again(
    redis: RedisProcess, make_tier: MakeTier
):
    tier = make_tier(redis.url)
    tiers, other = cache(tier), cache(make_tier(redis.url))
    await stored(tiers, tier, {image_key("ab"): b"file"})
    redis.flush()
    assert await other.missing([image_key("ab")]) == {image_key("ab")}
    assert await tiers.missing([image_key("ab")]) == set()
    await tier.settle(10)
    assert await other.missing([image_key("ab")]) == set()
    assert await other.fetch([image_key("ab")]) == {image_key("ab"): b"file"}


async def test_redis_that_is_away_leaves_memory_as_it_is(make_tier: MakeTier):
    tiers = cache(make_tier("redis://127.0.0.1:1"))
    await tiers.start()
    tiers.store(some())
    assert (await tiers.fetch([*some(), key("b")])).keys() == some().keys()
    assert await tiers.missing([image_key("ab"), image_key("cd")]) == {image_key("cd")}
    cleared = await tiers.clear(None, {ACTIVATION})
    assert (cleared.memory_entries, cleared.redis_entries, cleared.redis_cleared) == (1, 0, False)
    assert (await tiers.stats()).redis.state is RedisState.UNAVAILABLE
    await tiers.stop()


@pytest.mark.parametrize(
    ("activations", "images", "bound", "largest"),
    [
        (10, 0, None, 0),
        (10, ENTRY_BYTES, None, 0),
        (10, ENTRY_BYTES + 100, None, 100),
        (10, 0, 1000, 1000 - OVERHEAD),
        (10, ENTRY_BYTES + 5000, 1000, 5000),
    ],
)
async def test_images_are_kept_where_there_is_room(
    make_tier: MakeTier, activations: int, images: int, bound: int | None, largest: int
):
    tier = make_tier("redis://127.0.0.1:1", max_value_bytes=bound) if bound else None
    tiers = cache(tier, activations, images)
    assert tiers.largest_image_bytes == largest
    assert tiers.keeps_images == (largest > 0)


async def test_clearing_one_model_all_models_and_images(redis: RedisProcess, make_tier: MakeTier):
    tier = make_tier(redis.url)
    tiers = cache(tier)
    mine, others = {key(n): value(n) for n in range(3)}, {key(0, "aa"): value(7)}
    pictures = {name: kept for name, kept in some().items() if name != key("a")}
    everything = {**mine, **others, **pictures}

    async def left() -> list[set[str]]:
        fresh = cache(make_tier(redis.url))
        return [set(await c.fetch(everything)) for c in (tiers, fresh)]

    await stored(tiers, tier, everything)
    cleared = await tiers.clear("ff", {ACTIVATION})
    assert (cleared.memory_entries, cleared.redis_entries, cleared.redis_cleared) == (3, 3, True)
    assert await left() == [{*others, *pictures}] * 2
    await stored(tiers, tier, mine)
    assert (await tiers.clear(None, {ACTIVATION})).redis_entries == 4
    assert await left() == [set(pictures)] * 2
    await stored(tiers, tier, mine)
    assert (await tiers.clear("ff", {IMAGE, ACTIVATION})).memory_entries == 5
    assert await left() == [set()] * 2
    assert (await tiers.clear(None, set())).redis_cleared


async def test_the_precision_is_what_it_was_made_with():
    assert cache().precision is Precision.HALF
    tiers = Cache(MemoryTier(1), MemoryTier(1), precision=Precision.FLOAT32)
    assert tiers.precision is Precision.FLOAT32


async def test_storing_never_waits(redis: RedisProcess, make_tier: MakeTier):
    with RedisProxy(redis.port) as proxy:
        tiers = cache(make_tier(proxy.url))
        await tiers.start()
        proxy.delay_s = 0.2
        tiers.store({key(n): value(n) for n in range(64)})
        assert (await tiers.fetch([key(63)])).keys() == {key(63)}
        proxy.delay_s = 0

        async def arrived() -> bool:
            return (await tiers.stats()).redis.kinds[ACTIVATION].stored == 64

        await until(arrived)


async def test_no_bytes_of_memory_are_over_their_bound():
    tiers = cache(activations=100 * ENTRY_BYTES, images=10 * ENTRY_BYTES)
    tiers.store({picture_key(str(n)): value(n, 4) for n in range(50)})
    tiers.store({image_key(str(n)): b"" for n in range(10)})
    memory = (await tiers.stats()).memory
    assert (memory[IMAGE].entries, memory[IMAGE].bytes) == (10, 10 * ENTRY_BYTES)
    assert memory[ACTIVATION].entries == 50
    assert all(kind.bytes <= kind.max_bytes for kind in memory.values())
    assert (await tiers.clear(None, {IMAGE})).memory_entries == 60


async def test_files_come_from_memory_and_then_from_redis(redis: RedisProcess, make_tier: MakeTier):
    tier = make_tier(redis.url)
    tiers = cache(tier)
    files = {image_key("ab"): b"1", image_key("cd"): b"23"}
    lengths = {**{name: len(data) for name, data in files.items()}, image_key("ef"): 3}
    await stored(tiers, tier, files)
    other = cache(make_tier(redis.url))
    assert await other.files(lengths) == files
    redis.flush()
    assert await other.files(lengths) == files
    assert await cache().files(lengths) == {}
