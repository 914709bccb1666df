"""A real redis-server for the tests of this folder, and tiers on it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator

import pytest

from pairlens_server.cache.redis_settings import RedisSettings
from pairlens_server.cache.redis_tier import RedisTier
from tests.redis_server import RedisProcess, redis_server

MakeTier = Callable[..., RedisTier]


@pytest.fixture(scope="session")
def shared_redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisProcess]:
    """One for all tests that do it no harm."""
    with redis_server(tmp_path_factory.mktemp("redis")) as server:
        yield server


@pytest.fixture
def redis(shared_redis: RedisProcess) -> RedisProcess:
    """The shared server, empty."""
    shared_redis.flush()
    return shared_redis


@pytest.fixture
async def make_tier() -> AsyncIterator[MakeTier]:
    """Makes a tier from an address and settings; it is stopped at the end."""
    tiers: list[RedisTier] = []

    def make(url: str, **settings: object) -> RedisTier:
        tiers.append(RedisTier(RedisSettings(url, **settings)))
        return tiers[-1]

    yield make
    for tier in tiers:
        await tier.stop()
