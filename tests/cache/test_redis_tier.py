from __future__ import annotations

import asyncio
import random

import pytest
import torch

from pairlens_server.cache.codec import encode
from pairlens_server.cache.keys import image_key, model_prefix, picture_key
from pairlens_server.cache.packing import Packed
from pairlens_server.cache.redis_settings import RedisSettings
from pairlens_server.cache.redis_tier import RedisTier
from pairlens_server.cache.stats import RedisState
from tests.cache.conftest import MakeTier
from tests.cache.redis_support import (
    ACTIVATION,
    IMAGE,
    counts,
    key,
    number,
    some,
    until,
    value,
    written,
)
from tests.redis_server import RedisProcess, RedisProxy, free_port


async def test_what_one_replica_wrote_another_reads_bit_for_bit(
    redis: RedisProcess, make_tier: MakeTier
):
    one, other = make_tier(redis.url), make_tier(redis.url)
    values = {**some(), key("random"): Packed(torch.randn(100, 100)), image_key("0"): b""}
    await written(one, values)
    found = await other.get([*values, key("nothing")])
    assert found.keys() == values.keys()
    for name, kept in values.items():
        if isinstance(kept, Packed):
            assert torch.equal(found[name].data, kept.data)
            assert found[name].exponent == kept.exponent
        else:
            assert found[name] == kept
    activations, images = await counts(other, ACTIVATION), await counts(other, IMAGE)
    assert (activations.hits, activations.misses, activations.corrupt) == (2, 1, 0)
    assert (images.hits, images.misses) == (3, 0)
    assert ((await counts(one)).stored, (await counts(one, IMAGE)).stored) == (2, 3)


async def test_no_keys_need_no_redis(redis: RedisProcess, make_tier: MakeTier):
    tier = make_tier(redis.url)
    assert await tier.get([]) == {}
    assert await tier.present([]) == set()
    tier.put({})
    assert (await tier.stats()).queued_bytes == 0


async def test_every_key_has_a_time_to_live_and_the_prefix(
    redis: RedisProcess, make_tier: MakeTier
):
    tier = make_tier(redis.url, ttl_s=1000, prefix="mine")
    await tier.start()
    await written(tier, some())
    with redis.client() as client:
        names = client.keys()
        assert sorted(names) == sorted(f"mine:{name}".encode() for name in some())
        assert all(990 < client.ttl(name) <= 1000 for name in names)


async def test_presence_begins_the_time_to_live_anew(redis: RedisProcess, make_tier: MakeTier):
    tier = make_tier(redis.url, ttl_s=1000)
    await written(tier, some())
    with redis.client() as client:
        client.expire(f"pairlens:{image_key('ab')}", 5)
        found = await tier.present([image_key("ab"), image_key("cd"), picture_key("ab")])
        assert found == {image_key("ab"), picture_key("ab")}
        assert client.ttl(f"pairlens:{image_key('ab')}") > 990


async def test_a_query_and_64_candidates_are_one_round_trip(
    redis: RedisProcess, make_tier: MakeTier
):
    with RedisProxy(redis.port) as proxy:
        tier = make_tier(proxy.url, timeout_s=1)
        values = {key(n): value(n, 150_000) for n in range(65)}
        await tier.start()
        await written(tier, values)
        before = proxy.trips
        found = await tier.get(list(values))
        assert proxy.trips == before + 1
        assert [number(found[name]) for name in values] == [*range(65)]
        before = proxy.trips
        assert await tier.present(list(values)) == values.keys()
        assert proxy.trips == before + 1


async def test_a_connection_takes_one_round_trip_beside_what_is_asked(
    redis: RedisProcess, make_tier: MakeTier
):
    with RedisProxy(redis.port) as proxy:
        await make_tier(proxy.url, timeout_s=1).get([key("a")])
        assert proxy.trips == 1
    with RedisProxy(redis.port) as proxy:
        await make_tier(f"{proxy.url}/2", timeout_s=1).get([key("a")])
        assert proxy.trips == 2  # SELECT


DAMAGED = {
    "empty": b"",
    "foreign": b"not of this program",
    "pickled": b"\x80\x04\x95\x10\x00\x00\x00\x00\x00\x00\x00\x8c\x05posix\x94\x8c\x06system\x94",
    "truncated": encode(key("a"), value(1))[:-1],
    "longer": encode(key("a"), value(1)) + b"\0",
    "of another key": encode(key("b"), value(2)),
    "flipped": encode(key("a"), value(1))[:-1] + b"\xff",
    "too large": encode(key("a"), value(1, 600_000)),
    "a list": None,
}


@pytest.mark.parametrize("data", DAMAGED.values(), ids=DAMAGED)
async def test_what_is_no_value_is_a_miss_is_counted_and_is_overwritten(
    redis: RedisProcess, make_tier: MakeTier, data: bytes | None
):
    tier = make_tier(redis.url, max_value_bytes=2**20, timeout_s=1)
    with redis.client() as client:
        name = f"pairlens:{key('a')}"
        await written(tier, {key("c"): value(3)})
        if data is None:
            client.rpush(name, "element")
        else:
            client.set(name, data)
        found = await tier.get([key("a"), key("c")])
        assert found.keys() == {key("c")}
        stats = await counts(tier)
        # An empty string is what Redis gives for what is not there.
        assert (stats.hits, stats.misses, stats.corrupt) == (1, 1, int(data != b""))
        await written(tier, {key("a"): value(1)})
        assert number((await tier.get([key("a")]))[key("a")]) == 1
        assert client.ttl(name) > 0
        status = await tier.stats()
        assert (status.errors, status.state) == (0, RedisState.UP)


async def test_a_damaged_value_is_not_said_to_be_there(redis: RedisProcess, make_tier: MakeTier):
    tier = make_tier(redis.url)
    with redis.client() as client:
        client.set(f"pairlens:{image_key('ab')}", "damaged")
        assert await tier.present([image_key("ab")]) == {image_key("ab")}
        assert await tier.get([image_key("ab")]) == {}
        assert await tier.present([image_key("ab")]) == set()


async def test_no_more_is_transferred_of_a_value_than_it_may_have(
    redis: RedisProcess, make_tier: MakeTier
):
    with redis.client() as client:
        client.set(f"pairlens:{key('a')}", bytes(5_000_000))
    with RedisProxy(redis.port) as proxy:
        tier = make_tier(proxy.url, max_value_bytes=10_000, timeout_s=1)
        assert await tier.get([key("a")]) == {}
        assert proxy.received < 20_000


async def test_values_over_the_bound_are_dropped(redis: RedisProcess, make_tier: MakeTier):
    tier = make_tier(redis.url, max_value_bytes=20_000)
    large = {image_key("0"): bytes(tier.largest_value + 1), key("a"): value(1, 20_000)}
    fits = {image_key("1"): bytes(tier.largest_value)}
    await written(tier, {**large, **fits})
    assert await tier.get([*large, *fits]) == fits
    assert (await counts(tier)).dropped == (await counts(tier, IMAGE)).dropped == 1


async def test_what_is_not_finite_is_dropped(redis: RedisProcess, make_tier: MakeTier):
    tier = make_tier(redis.url)
    await written(tier, {key("a"): Packed(torch.tensor([1.0, float("nan")])), key("b"): value(2)})
    assert (await tier.get([key("a"), key("b")])).keys() == {key("b")}
    stats = await counts(tier)
    assert (stats.stored, stats.dropped, stats.corrupt) == (1, 1, 0)


async def test_putting_returns_at_once_and_the_queue_is_bounded(
    redis: RedisProcess, make_tier: MakeTier
):
    tier = make_tier(redis.url, max_queued_bytes=1_000_000)
    tier.put({key(n): value(n, 50_000) for n in range(20)})  # 100 kB each
    stats = await tier.stats()
    assert 900_000 < stats.queued_bytes <= stats.max_queued_bytes == 1_000_000
    assert stats.kinds[ACTIVATION].dropped == 11
    await tier.settle(10)
    assert (await counts(tier)).stored == 9
    assert (await tier.stats()).queued_bytes == 0


async def test_stopping_writes_what_waits(redis: RedisProcess, make_tier: MakeTier):
    tier = make_tier(redis.url)
    tier.put(some())
    await tier.stop()
    assert (await make_tier(redis.url).get(list(some()))).keys() == some().keys()
    assert await tier.get(list(some())) == {}  # no more


async def test_a_value_that_is_waited_for_is_there_for_others_at_once(
    redis: RedisProcess, make_tier: MakeTier
):
    tier, other = make_tier(redis.url), make_tier(redis.url)
    tier.put({key(n): value(n) for n in range(64)})
    await tier.write({image_key("ab"): b"file"})
    assert await other.get([image_key("ab")]) == {image_key("ab"): b"file"}
    assert (await counts(tier, IMAGE)).stored == 1


async def test_clearing_removes_what_begins_so_and_nothing_else(
    redis: RedisProcess, make_tier: MakeTier
):
    tier, others = make_tier(redis.url, prefix="a[b]*"), make_tier(redis.url, prefix="ab")
    mine = {key(n): value(n, 4) for n in range(2500)}
    rest = {key(0, "fff"): value(1), **some()}
    del rest[key("a")]
    await written(tier, {**mine, **rest})
    await written(others, some())
    tier.put({key("queued"): value(1)})
    assert await tier.clear([model_prefix("ff")]) == 2500
    assert await tier.get([*mine, key("queued")]) == {}
    assert (await tier.get(list(rest))).keys() == rest.keys()
    assert (await others.get(list(some()))).keys() == some().keys()
    assert await tier.clear([model_prefix("ff")]) == 0


async def test_memory_of_the_server_is_known(redis: RedisProcess, make_tier: MakeTier):
    stats = await make_tier(redis.url).stats()
    assert stats.used_bytes > 500_000
    assert (stats.max_bytes, stats.state) == (0, RedisState.UP)


async def test_cancelled_callers_never_get_or_leave_anybody_elses_reply(
    redis: RedisProcess, make_tier: MakeTier
):
    random.seed(3)
    answers = 0

    async def ask(tier: RedisTier) -> None:
        nonlocal answers
        numbers = random.sample(range(200), random.randrange(1, 20))
        found = await tier.get([key(n) for n in numbers])
        held = {key(n): n for n in numbers if n < 100}
        assert {name: number(v) for name, v in found.items()} == held
        answers += 1

    with RedisProxy(redis.port) as proxy, redis.client() as client:
        tier = make_tier(proxy.url, timeout_s=2)
        await written(tier, {key(n): value(n) for n in range(100)})
        before = client.info("stats")["total_connections_received"]
        proxy.delay_s = 0.002
        tasks = []
        for _ in range(600):
            tasks.append(asyncio.create_task(ask(tier)))
            if random.random() < 0.4:
                await asyncio.sleep(random.random() * 0.003)
            random.choice(tasks[-30:]).cancel()
        results = await asyncio.gather(*tasks, return_exceptions=True)
        connections = client.info("stats")["total_connections_received"] - before
        status = await tier.stats()
    assert not [r for r in results if isinstance(r, Exception)]
    assert answers > 100
    assert sum(isinstance(r, asyncio.CancelledError) for r in results) > 100
    assert connections <= 18  # as many as are used at once: a cancelled caller costs none
    assert (status.errors, status.timeouts) == (0, 0)


async def test_replies_to_other_questions_are_never_taken_for_answers(
    redis: RedisProcess, make_tier: MakeTier
):
    with RedisProxy(redis.port) as proxy:
        tier = make_tier(proxy.url, timeout_s=1)
        await written(tier, {key(n): value(n) for n in range(50)})
        proxy.repeats = 2  # from now on each reply is followed by itself
        for n in range(50):
            found = await tier.get([key(n), key((n + 7) % 50)])
            assert all(name == key(int(number(v))) for name, v in found.items())
        proxy.repeats = 1

        async def hit() -> bool:
            await written(tier, {key(1): value(1)})
            return key(1) in await tier.get([key(1)])

        await until(hit)


async def test_every_round_trip_is_told_with_the_time_that_it_took(
    redis: RedisProcess,
):
    told: list[tuple[str, float, bool]] = []
    tier = RedisTier(RedisSettings(redis.url), observe=lambda *one: told.append(one))
    await tier.start()
    assert told == []  # what it asks for its own sake is nobody's
    values = some()
    await written(tier, values)
    assert (await tier.get(list(values))).keys() == values.keys()
    (file,) = [name for name in values if name == image_key("ab")]
    await tier.files({file: 100_000})
    await tier.present(list(values))
    await tier.clear([""])
    assert [operation for operation, _, _ in told] == ["put", "get", "get", "present", "clear"]
    assert all(0 < seconds < 10 and not failed for _, seconds, failed in told)
    assert await tier.get([]) == {}
    assert len(told) == 5
    await tier.stop()


async def test_a_caller_who_gives_up_leaves_the_round_trip_to_be_told(redis: RedisProcess):
    told: list[str] = []
    tier = RedisTier(RedisSettings(redis.url), observe=lambda name, *_: told.append(name))
    await tier.start()
    asking = asyncio.create_task(tier.get([key("a")]))
    await asyncio.sleep(0)
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking

    async def seen() -> bool:
        return told == ["get"]

    await until(seen)
    await tier.stop()


async def test_round_trips_that_fail_are_told_and_none_while_it_is_left_alone():
    told: list[tuple[str, float, bool]] = []
    tier = RedisTier(
        RedisSettings(f"redis://127.0.0.1:{free_port()}/0"),
        observe=lambda *one: told.append(one),
    )
    for _ in range(20):
        assert await tier.get([key("a")]) == {}
    assert tier.counters().state is RedisState.UNAVAILABLE
    assert 1 <= len(told) < 20
    assert all(operation == "get" and failed for operation, _, failed in told)
    await tier.stop()


async def test_the_counts_are_there_without_asking(redis: RedisProcess, make_tier: MakeTier):
    tier = make_tier(redis.url)
    await written(tier, some())
    asked = await tier.stats()
    counted = tier.counters()
    assert counted.kinds == asked.kinds
    assert counted.kinds[IMAGE].stored == 2
    assert (counted.used_bytes, counted.max_bytes) == (0, 0)
    assert asked.used_bytes > 0
