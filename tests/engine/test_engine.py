import asyncio
import random
import threading

import pytest
import torch

from pairlens_server.engine.engine import Engine, EngineSettings
from pairlens_server.errors import (
    DeadlineUnreachableError,
    DrainingError,
    NotReadyError,
    QueueFullError,
)
from pairlens_server.recording.primitives import Embedding, Logits
from tests.engine.conftest import started, until
from tests.support import pixels, vit


async def test_requests_that_arrive_together_share_one_pass(gated):
    model, gate = gated
    engine = await started(model, max_batch=8)
    gate.reset()
    images = pixels(model, 5)
    recordings = await asyncio.gather(*(engine.record(model, p, (Embedding(),)) for p in images))
    assert gate.batches == [5]
    assert {r.batch_size for r in recordings} == {5}
    with torch.no_grad():
        network = model.network
        expected = model.projection(
            network.forward_head(network.forward_features(images), pre_logits=True)
        )
    for recording, embedding in zip(recordings, expected, strict=True):
        torch.testing.assert_close(recording.values[Embedding()], embedding, atol=1e-5, rtol=1e-5)
    await engine.stop()


async def test_batches_stay_within_their_bound_and_on_one_thread(gated):
    model, gate = gated
    engine = await started(model, max_batch=3)
    gate.reset()
    await asyncio.gather(*(engine.record(model, p, (Logits(),)) for p in pixels(model, 8)))
    assert sorted(gate.batches) == [2, 3, 3]
    assert len(gate.threads) == 1
    assert threading.get_ident() not in gate.threads
    await engine.stop()


async def test_a_cancelled_request_leaves_the_queue_and_its_mates_are_served(gated):
    model, gate = gated
    engine = await started(model, max_batch=8)
    gate.reset()
    gate.open.clear()
    first = asyncio.ensure_future(engine.record(model, pixels(model)[0], (Logits(),)))
    await until(gate.entered)
    waiting = [
        asyncio.ensure_future(engine.record(model, p, (Logits(),))) for p in pixels(model, 3)
    ]
    await asyncio.sleep(0)
    waiting[1].cancel()
    gate.open.set()
    await first
    results = await asyncio.gather(*waiting, return_exceptions=True)
    assert isinstance(results[1], asyncio.CancelledError)
    assert gate.batches == [1, 2]
    await engine.stop()


async def test_cancelling_a_request_that_is_running_harms_nobody(gated):
    model, gate = gated
    engine = await started(model, max_batch=8)
    gate.reset()
    gate.open.clear()
    both = [asyncio.ensure_future(engine.record(model, p, (Logits(),))) for p in pixels(model)]
    await until(gate.entered)
    both[0].cancel()
    gate.open.set()
    recording = await both[1]
    assert recording.batch_size == 2
    assert engine.healthy
    await engine.stop()


async def test_a_full_queue_refuses_and_serves_on(gated):
    model, gate = gated
    engine = await started(model, max_batch=1, max_queued=2)
    gate.reset()
    gate.open.clear()
    running = asyncio.ensure_future(engine.record(model, pixels(model)[0], (Logits(),)))
    await until(gate.entered)
    waiting = [asyncio.ensure_future(engine.record(model, p, (Logits(),))) for p in pixels(model)]
    await asyncio.sleep(0)
    with pytest.raises(QueueFullError):
        await engine.record(model, pixels(model)[0], (Logits(),))
    gate.open.set()
    await asyncio.gather(running, *waiting)
    await engine.record(model, pixels(model)[0], (Logits(),))
    await engine.stop()


async def test_an_expired_request_never_reaches_the_device(gated):
    model, gate = gated
    engine = await started(model)
    gate.reset()
    past = asyncio.get_running_loop().time() - 1
    with pytest.raises(DeadlineUnreachableError):
        await engine.record(model, pixels(model)[0], (Logits(),), deadline_s=past)
    assert gate.batches == []
    await engine.stop()


async def test_stop_finishes_the_batch_at_hand_and_refuses_the_rest(gated):
    model, gate = gated
    engine = await started(model, max_batch=1)
    gate.reset()
    gate.open.clear()
    running = asyncio.ensure_future(engine.record(model, pixels(model)[0], (Logits(),)))
    await until(gate.entered)
    waiting = asyncio.ensure_future(engine.record(model, pixels(model)[1], (Logits(),)))
    await asyncio.sleep(0)
    stopping = asyncio.ensure_future(engine.stop())
    await asyncio.sleep(0)
    gate.open.set()
    await stopping
    assert (await running).values[Logits()].shape == (5,)
    with pytest.raises(DrainingError):
        await waiting
    with pytest.raises(DrainingError):
        await engine.record(model, pixels(model)[0], (Logits(),))


async def test_nothing_is_served_before_the_models_are_loaded():
    model = vit()
    engine = Engine(EngineSettings())
    with pytest.raises(NotReadyError):
        engine.facts(model)
    with pytest.raises(NotReadyError):
        await engine.record(model, pixels(model)[0], (Logits(),))


async def test_it_is_healthy_until_it_is_stopped():
    engine = Engine(EngineSettings())
    await engine.start(lambda: [vit()])
    assert engine.healthy
    await engine.stop()
    assert not engine.healthy


async def test_a_broken_device_answers_everyone_and_ends_the_engine(gated):
    model, gate = gated
    engine = await started(model, max_batch=1)
    gate.reset()
    gate.error = RuntimeError("CUDA error: device-side assert triggered")
    calls = [engine.record(model, p, (Logits(),)) for p in pixels(model, 3)]
    outcomes = await asyncio.gather(*calls, return_exceptions=True)
    assert [type(outcome) for outcome in outcomes] == [NotReadyError] * 3
    assert not engine.healthy
    with pytest.raises(NotReadyError):
        await engine.record(model, pixels(model)[0], (Logits(),))
    await engine.stop()


async def test_pixels_may_come_later_and_are_asked_for_once_there_is_room(gated):
    model, gate = gated
    engine = await started(model, max_batch=2, max_wait_s=5.0, max_queued=2)
    gate.reset()
    picture, asked = pixels(model)[0], []

    async def make():
        asked.append(engine.queued_cost)
        await asyncio.sleep(0)
        return picture

    later, given = await asyncio.gather(
        engine.record(model, make, (Embedding(),), client="one"),
        engine.record(model, picture, (Embedding(),), client="other"),
    )
    torch.testing.assert_close(later.values[Embedding()], given.values[Embedding()])
    assert gate.batches == [2]
    assert asked == [2]
    assert engine.queued_cost == 0
    await engine.stop()


@pytest.mark.parametrize("seed", range(3))
async def test_whoever_cancels_when_ever_the_others_get_what_is_theirs(seed):
    model, chance = vit(), random.Random(seed)
    images = pixels(model, 150)
    with torch.no_grad():
        network = model.network
        features = network.forward_features(images)
        expected = model.projection(network.forward_head(features, pre_logits=True))
    engine = await started(model, max_batch=4, max_wait_s=0.0005)
    calls = []
    for picture in images:
        client = f"c{chance.randrange(4)}"
        calls.append(
            asyncio.ensure_future(engine.record(model, picture, (Embedding(),), client=client))
        )
        await asyncio.sleep(chance.choice([0.0, 0.0, 0.0, 0.001]))
        if chance.random() < 0.4:
            chance.choice(calls).cancel()
    found = await asyncio.gather(*calls, return_exceptions=True)
    answered = 0
    for outcome, embedding in zip(found, expected, strict=True):
        if not isinstance(outcome, asyncio.CancelledError):
            value = outcome.values[Embedding()]
            torch.testing.assert_close(value, embedding, atol=1e-5, rtol=1e-5)
            answered += 1
    assert answered >= 50
    assert engine.queued_cost == 0
    assert engine.healthy
    await engine.stop()
