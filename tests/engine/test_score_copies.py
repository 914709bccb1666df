"""Copies of ScoreSaliency in the engine: none but those that are counted, and none too many."""

import asyncio
import io
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image

from pairlens_server.cache.memory import MemoryTier
from pairlens_server.cache.tiers import Cache
from pairlens_server.errors import DeadlineUnreachableError, InvalidParameterError
from pairlens_server.fidelity.copies import Side
from pairlens_server.fidelity.drops import AverageDrop, AverageIncrease
from pairlens_server.fidelity.erasures import Deletion, Insertion
from pairlens_server.fidelity.localisation import RegionOfInterest
from pairlens_server.fidelity.metrics import Metric
from pairlens_server.fidelity.placing import ErasureOrder
from pairlens_server.fidelity.pointing import EnergyPointingGame
from pairlens_server.fidelity.substrates import Substrate
from pairlens_server.models.registry import ModelRegistry
from pairlens_server.recording.primitives import Logits
from pairlens_server.service.commands import SimilarityTarget
from pairlens_server.service.explanations import ExplanationUseCases
from pairlens_server.service.limits import ServiceLimits
from pairlens_server.service.score_commands import GivenHeatmap, ScoreCommand
from tests.engine.conftest import started, until
from tests.support import pixels

CHUNK = 4
MAP = np.random.default_rng(0).normal(size=(4, 6)).astype(np.float32)
MEAN = Substrate.MEAN
LEAST = ErasureOrder.LEAST_RELEVANT_FIRST


def file(seed: int) -> bytes:
    coarse = np.random.default_rng(seed).integers(0, 256, (4, 6, 3), dtype=np.uint8)
    data = io.BytesIO()
    Image.fromarray(coarse).resize((48, 32)).save(data, "PNG")
    return data.getvalue()


def command(model, *metrics: Metric, **fields) -> ScoreCommand:
    given = {"heatmap": GivenHeatmap(MAP), **fields}
    return ScoreCommand(model.name, file(1), metrics, **given)


def of_pair(*sides: Side) -> dict:
    return {
        "target": SimilarityTarget((file(2),)),
        "sides": sides,
        "partner_heatmap": GivenHeatmap(-MAP),
    }


@pytest.fixture
async def bench(gated):
    """Use cases over an engine whose every pass is counted, and the parts they stand on."""
    model, gate = gated
    engine = await started(model, max_wait_s=0.0, probe_chunk=CHUNK)
    gate.reset()
    with ThreadPoolExecutor(2) as pool:
        cache = Cache(MemoryTier(10_000_000), MemoryTier(0))
        limits = ServiceLimits(max_copies=2000)
        use_cases = ExplanationUseCases(ModelRegistry((model,)), engine, cache, pool, limits)
        yield use_cases, engine, model, gate
        gate.open.set()
        await engine.stop()


@pytest.mark.parametrize(
    ("metrics", "fields", "passes"),
    [
        ((AverageDrop(), AverageIncrease()), {}, 2),
        ((Deletion(steps=9), Insertion(substrate=MEAN, steps=9, order=LEAST)), {}, 10),
        ((Deletion(steps=9), Insertion(substrate=MEAN, steps=9), AverageDrop()), {}, 19),
        ((Deletion(steps=9),), of_pair(Side.PARTNER), 11),
        ((Deletion(steps=9),), of_pair(Side.BOTH, Side.IMAGE), 20),
    ],
)
async def test_forward_passes_are_the_pictures_that_the_model_saw(bench, metrics, fields, passes):
    use_cases, _, model, gate = bench
    outcome = await use_cases.score(command(model, *metrics, **fields))
    assert outcome.forward_passes == passes
    assert sum(gate.batches) == passes
    # Memory is that of a chunk, whatever the number of steps.
    assert max(gate.batches) <= CHUNK


async def test_where_a_map_lies_takes_no_copies(bench):
    use_cases, _, model, gate = bench
    region = RegionOfInterest((), np.ones((32, 48), bool))
    asked = command(model, EnergyPointingGame(), region=region)
    for _ in range(2):
        outcome = await use_cases.score(asked)
        assert outcome.forward_passes == 1
        assert outcome.results[0].value == pytest.approx(1)
        assert gate.batches == [1]  # the second time from the cache


async def in_first_chunk(bench, fields: dict, **more) -> asyncio.Task:
    """A long call that stands in its first chunk; its clean pictures are known."""
    use_cases, _, model, gate = bench
    await use_cases.score(command(model, Deletion(steps=1), **fields))
    gate.reset()
    gate.open.clear()
    asked = command(model, Deletion(steps=900), **fields, **more)
    call = asyncio.ensure_future(use_cases.score(asked))
    await until(gate.entered)
    return call


PAIR = of_pair(Side.BOTH)


@pytest.mark.parametrize("fields", [{}, PAIR])
async def test_a_cancelled_call_makes_no_copies_but_those_of_its_chunk(bench, fields):
    _, engine, model, gate = bench
    call = await in_first_chunk(bench, fields)
    call.cancel()
    gate.open.set()
    with pytest.raises(asyncio.CancelledError):
        await call
    # The queue is first come first served: a further chunk would run before this.
    await engine.record(model, pixels(model, 1)[0], (Logits(),))
    assert gate.batches == [CHUNK, 1]


@pytest.mark.parametrize("fields", [{}, PAIR])
async def test_an_expired_call_makes_no_copies_but_those_of_its_chunk(bench, monkeypatch, fields):
    _, engine, model, gate = bench
    loop, hours = asyncio.get_running_loop(), [0.0]
    clock = loop.time
    monkeypatch.setattr(loop, "time", lambda: clock() + 3600 * hours[0])
    call = await in_first_chunk(bench, fields, deadline_s=loop.time() + 1800)
    hours[0] = 1.0
    gate.open.set()
    with pytest.raises(DeadlineUnreachableError):
        await call
    await engine.record(model, pixels(model, 1)[0], (Logits(),))
    assert gate.batches == [CHUNK, 1]


@pytest.mark.parametrize("fields", [{}, PAIR])
async def test_who_comes_during_a_chunk_is_served_after_it(bench, fields):
    _, engine, model, gate = bench
    call = await in_first_chunk(bench, fields)
    record = asyncio.ensure_future(engine.record(model, pixels(model, 1)[0], (Logits(),)))
    await asyncio.sleep(0)
    gate.open.set()
    await record
    assert not call.done()
    outcome = await call
    assert gate.batches[:3] == [CHUNK, 1, CHUNK]
    clean = 2 if fields else 1
    assert sum(gate.batches) == outcome.forward_passes - clean + 1


async def test_more_copies_than_the_limit_are_refused_before_any_is_made(bench):
    use_cases, _, model, gate = bench
    metrics = [Deletion(steps=1000, substrate=s) for s in (MEAN, Substrate.BLACK, Substrate.BLUR)]
    with pytest.raises(InvalidParameterError, match="2000") as caught:
        await use_cases.score(command(model, *metrics))
    assert caught.value.field == "metrics"
    assert sum(gate.batches) == 1  # the clean picture
