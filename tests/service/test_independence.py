"""Answers never depend on what the cache held: bit for bit, in every method, rounding and all."""

from __future__ import annotations

import dataclasses

import pytest
import pytest_asyncio
import torch

from pairlens_server.cache import packing
from pairlens_server.cache.codec import encode
from pairlens_server.cache.keys import model_prefix
from pairlens_server.cache.memory import MemoryTier
from pairlens_server.cache.policy import CachePolicy
from pairlens_server.cache.tiers import Cache
from pairlens_server.methods.rollout import Rollout
from pairlens_server.recording.primitives import Embedding
from pairlens_server.service.commands import ClassTarget, ExplainCommand, PairCommand
from tests.service.conftest import Bench
from tests.service.every_method import MEAN, PARTNERS, PICTURE, explanations, pairs
from tests.service.watching import assert_same, watch

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def shared():
    """Runs every picture by itself: how a sum is rounded depends on the batch."""
    made = Bench(max_batch=1)
    await made.start()
    yield made
    await made.stop()


@pytest.fixture
def bench(shared, monkeypatch):
    monkeypatch.setattr(packing, "SMALL", 0)
    shared.memory.clear()
    yield shared
    shared.memory.clear()


def contents(bench):
    """All that the memory tier holds, as it would be written down."""
    return {key: encode(key, value) for key, value in bench.memory._entries.items()}


async def the_class_by_its_index(bench, command, predicted):
    """The predicted class is the same as the class of its index, and is kept under that."""
    if getattr(command, "target", None) == ClassTarget():
        target = ClassTarget(predicted.target.class_index)
        with watch(bench.models[command.model]) as seen:
            named = await bench.use_cases.explain(dataclasses.replace(command, target=target))
        assert seen.pictures == 0
        assert_same(named, predicted)


async def everywhere(bench, command):
    """Answer a call with all kinds of caches; all answers must be the first one."""

    def ask(use_cases, policy=CachePolicy.DEFAULT):
        call = use_cases.explain if isinstance(command, ExplainCommand) else use_cases.pair
        return call(dataclasses.replace(command, cache=policy))

    cold = await ask(bench.use_cases)
    assert cold.timings.cached_images == 0
    kept = contents(bench)
    with watch(bench.models[command.model]) as seen:
        warm = await ask(bench.use_cases)
    assert seen.pictures == 0
    assert_same(warm, cold)
    # No method changes what is kept.
    assert contents(bench) == kept
    await the_class_by_its_index(bench, command, cold)
    nothing = bench.over(Cache(MemoryTier(0), MemoryTier(0)))
    single = bench.over(Cache(MemoryTier(3000), MemoryTier(0)))
    for use_cases in (nothing, single):
        assert_same(await ask(use_cases), cold)
    assert_same(await ask(bench.use_cases, CachePolicy.BYPASS), cold)
    prefix = model_prefix(bench.models[command.model].fingerprint)
    for digits in ("02468ace", "13579bdf"):
        # About half of the values are dropped, then the other half.
        dropped = sum(bench.memory.clear(prefix + digit) for digit in digits)
        assert_same(await ask(bench.use_cases), cold)
        assert contents(bench) == kept, f"{dropped} values were computed again, differently"
    assert_same(await ask(bench.use_cases, CachePolicy.REFRESH), cold)
    assert contents(bench) == kept
    return kept


async def test_rollout_alone_and_in_company_agrees_to_rounding(shared):
    """Alone, its pass computes attention in the open; in company the fused kernel does."""
    model, pixels = shared.models[MEAN], shared.pixels(MEAN, PICTURE)
    (row,) = Rollout().resolve(shared.engine.facts(model)).needs(shared.engine.facts(model), None)
    alone = (await shared.engine.record(model, pixels, (row,))).values
    company = (await shared.engine.record(model, pixels, (row, Embedding()))).values
    embedded = (await shared.engine.record(model, pixels, (Embedding(),))).values
    assert not torch.equal(alone[row], company[row])
    torch.testing.assert_close(alone[row], company[row], rtol=2e-5, atol=0)
    assert torch.equal(company[Embedding()], embedded[Embedding()])


@pytest.mark.parametrize("case", explanations(predicted=True))
async def test_explain(bench, case):
    kept = await everywhere(bench, ExplainCommand(case.model, PICTURE, case.method, case.target))
    assert kept


@pytest.mark.parametrize("case", pairs())
async def test_pair(bench, case):
    # The query is among its candidates.
    candidates = (PARTNERS[0], PICTURE)
    await everywhere(bench, PairCommand(case.model, PICTURE, candidates, case.method))
