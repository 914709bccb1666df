"""Values for tests of the shared tier, and waiting for what happens in the background."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping

import torch

from pairlens_server.cache.keys import image_key, model_prefix, picture_key
from pairlens_server.cache.packing import Packed, Precision, Value, pack
from pairlens_server.cache.redis_tier import RedisTier
from pairlens_server.cache.stats import CacheKind, KindStats

ACTIVATION, IMAGE = CacheKind.ACTIVATION, CacheKind.IMAGE


def key(name: object, fingerprint: str = "ff") -> str:
    return f"{model_prefix(fingerprint)}{name}"


def value(number: float, size: int = 5000) -> Packed:
    return pack(torch.full((size,), float(number)), Precision.HALF)


def number(found: Value | None) -> float:
    """What `value` was made of; all of it has to be so."""
    assert isinstance(found, Packed)
    tensor = found.unpack()
    assert bool((tensor == tensor[0]).all())
    return float(tensor[0])


def some() -> dict[str, Value]:
    """One value of each kind."""
    size = pack(torch.tensor([3, 4]), Precision.HALF)
    return {key("a"): value(1), picture_key("ab"): size, image_key("ab"): b"a file" * 9999}


async def written(tier: RedisTier, values: Mapping[str, Value]) -> None:
    """Put values and wait until they are written or dropped."""
    tier.put(values)
    await tier.settle(10)


async def until(happens: Callable[[], Awaitable[object]], seconds: float = 10) -> None:
    """Wait until something is true."""
    end = time.monotonic() + seconds
    while not await happens():
        assert time.monotonic() < end
        await asyncio.sleep(0.02)


async def timed(work: Awaitable[object]) -> float:
    """Seconds that it takes."""
    start = time.perf_counter()
    await work
    return time.perf_counter() - start


async def counts(tier: RedisTier, kind: CacheKind = ACTIVATION) -> KindStats:
    return (await tier.stats()).kinds[kind]
