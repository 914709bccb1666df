"""How often a call asks the cache, and how much of the engine's queue it takes."""

import asyncio

import numpy as np
import pytest
import torch

from pairlens_server.cache import packing
from pairlens_server.cache.memory import MemoryTier
from pairlens_server.cache.packing import Precision
from pairlens_server.cache.policy import CachePolicy
from pairlens_server.cache.tiers import Cache
from pairlens_server.errors import PairlensError
from pairlens_server.service.call_cache import CallCache
from pairlens_server.service.commands import PairCommand
from pairlens_server.service.score_commands import EmbedCommand
from pairlens_server.service.stopwatch import Stopwatch
from tests.service.conftest import CLS, MEAN, Bench, png
from tests.service.test_cache_policies import CALLS

DEFAULT, REFRESH = CachePolicy.DEFAULT, CachePolicy.REFRESH


class Counted(Cache):
    """A cache that counts how often it is asked, which with Redis is a round trip each."""

    asked = 0

    async def fetch(self, keys):
        self.asked += 1
        return await super().fetch(keys)


# What is needed for the predicted class, or to compare with a picture, has its name only once
# logits and embeddings are there.
LOOK_UPS = {
    "no target": 1,
    "predicted class": 2,
    "predicted class first": 2,
    "class": 1,
    "similarity": 2,
    "probe of a class": 2,
    "probe of a similarity": 2,
    "pair": 1,
    "targeted pair": 2,
    "probed pair": 2,
    "embed": 1,
    "score": 1 + 2,
}


@pytest.mark.parametrize("call", CALLS)
async def test_a_warm_call_asks_the_cache_for_everything_at_once(bench, call):
    cache = Counted(MemoryTier(10_000_000), MemoryTier(0))
    use_cases = bench.over(cache)
    name, command = CALLS[call]
    await getattr(use_cases, name)(command)
    cache.asked = 0
    await getattr(use_cases, name)(command)
    assert cache.asked == LOOK_UPS[call]


class Slow(Cache):
    """A cache whose answers take until they are let go, as those of Redis do."""

    def __init__(self, *arguments):
        super().__init__(*arguments)
        self.let_go = asyncio.Event()

    async def fetch(self, keys):
        found = await super().fetch(keys)
        await self.let_go.wait()
        return found


async def test_what_is_being_fetched_is_waited_for(bench):
    """Otherwise a call would compute beside what it is about to be given."""
    slow = Slow(MemoryTier(10_000), MemoryTier(0))
    value = packing.pack(torch.ones(3), Precision.HALF)
    slow.store({"2:a:x:y": value})
    call = CallCache(slow, DEFAULT, Stopwatch())
    looks = [asyncio.create_task(call.look_up(["2:a:x:y"])) for _ in range(2)]
    for _ in range(5):
        await asyncio.sleep(0)
    assert not any(look.done() for look in looks)
    slow.let_go.set()
    await asyncio.gather(*looks)
    assert call.held("2:a:x:y") is value


@pytest.mark.parametrize("call", ["targeted pair", "probed pair", "similarity", "pair"])
async def test_a_cold_call_of_many_pictures_does_not_ask_picture_by_picture(bench, call):
    cache = Counted(MemoryTier(10_000_000), MemoryTier(0))
    name, command = CALLS[call]
    await getattr(bench.over(cache), name)(command)
    assert cache.asked <= 3


async def test_a_call_of_many_pictures_does_not_fill_the_queue():
    """Of sixty pictures that wait for the device, a queue of 40 would refuse a third."""
    bench = Bench(max_candidates=60, max_batch=4, max_queued=40)
    await bench.start()
    try:
        files = tuple(png(seed) for seed in range(60))
        command = PairCommand(MEAN, files[0], files)
        found = await bench.use_cases.pair(command)
        assert not any(isinstance(result, PairlensError) for result in found.results)
        embedded = await bench.use_cases.embed(EmbedCommand(CLS, files, cache=REFRESH))
        assert all(isinstance(result, np.ndarray) for result in embedded.results)
    finally:
        await bench.stop()
