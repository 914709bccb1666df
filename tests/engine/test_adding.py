"""Models that come and go while batches run."""

from __future__ import annotations

import asyncio
import gc
import threading
import weakref
from dataclasses import replace

import pytest
import torch

from pairlens_server.engine.engine import Engine, EngineSettings
from pairlens_server.engine.warm_up import warm_up
from pairlens_server.errors import ModelNotFoundError
from pairlens_server.models.loaded import LoadedModel
from pairlens_server.recording.primitives import Embedding, Logits
from tests.engine.conftest import WAIT_S, Numbers, started, until
from tests.support import pixels, resnet, vit


async def embedding(engine: Engine, model: LoadedModel, client: str = "") -> torch.Tensor:
    recording = await engine.record(model, pixels(model)[0], (Embedding(),), client=client)
    return recording.values[Embedding()]


async def test_batches_wait_for_no_step_of_loading():
    model, added = vit(), resnet()
    engine = await started(model)
    entered, go_on = threading.Event(), threading.Event()

    def load() -> list[LoadedModel]:
        entered.set()
        assert go_on.wait(WAIT_S)
        return [added]

    adding = asyncio.create_task(engine.add(load))
    await until(entered)
    for _ in range(5):
        await embedding(engine, model)
    assert not adding.done()
    with pytest.raises(ModelNotFoundError):
        engine.facts(added)
    go_on.set()
    assert await adding == (added,)
    assert engine.facts(added).classes == added.classes
    await embedding(engine, added)
    await engine.stop()


async def test_a_load_that_fails_changes_nothing():
    model = vit()
    engine = await started(model)

    def load() -> list[LoadedModel]:
        raise OSError("no such file")

    with pytest.raises(OSError, match="no such file"):
        await engine.add(load)
    await embedding(engine, model)
    await engine.stop()


async def test_two_models_of_one_name_answer_each_for_itself():
    old = vit()
    new = replace(vit(pooling="token"), name=old.name)
    engine = await started(old)
    before = await embedding(engine, old)
    await engine.add(lambda: [new])
    both = await asyncio.gather(embedding(engine, old), embedding(engine, new))
    assert torch.equal(both[0], before)
    assert not torch.allclose(both[0], both[1])
    assert engine.facts(old).layout.readout != engine.facts(new).layout.readout
    await engine.stop()


async def test_a_removed_model_is_gone_while_others_are_served():
    engine = await started(kept := vit())
    (added,) = await engine.add(lambda: [resnet()])
    network = weakref.ref(added.network)
    served, stop = 0, asyncio.Event()

    async def load() -> None:
        nonlocal served
        while not stop.is_set():
            # Several at a time, so that the queue is never empty.
            await asyncio.gather(*(embedding(engine, kept, f"c{n}") for n in range(6)))
            served += 6

    loading = [asyncio.create_task(load()) for _ in range(2)]
    # Flows and estimates know of it then.
    await warm_up(engine, [added])
    await asyncio.gather(*(embedding(engine, added, f"c{n}") for n in range(6)))
    models = [added]
    del added
    # What earlier tests have left behind must not hide what this one does.
    gc.collect()
    before = served
    await engine.remove(models)
    assert not models
    assert network() is None
    while served == before:
        await asyncio.sleep(0.01)
    stop.set()
    await asyncio.gather(*loading)
    assert engine.healthy
    await engine.stop()


async def test_what_still_waits_for_a_removed_model_is_refused_and_fails_nobody_else(gated):
    model, gate = gated
    engine = await started(model, max_batch=1)
    (added,) = await engine.add(lambda: [resnet()])
    gate.reset()
    gate.open.clear()
    running = asyncio.ensure_future(embedding(engine, model))
    await until(gate.entered)
    waiting = [asyncio.ensure_future(embedding(engine, m)) for m in (added, model)]
    probe = Numbers("a", 4, [])
    probing = asyncio.ensure_future(engine.probe(added, pixels(added)[0], probe))
    await asyncio.sleep(0.05)
    removing = asyncio.create_task(engine.remove([added]))
    await asyncio.sleep(0.05)
    gate.open.set()
    await removing
    for refused in (waiting[0], probing):
        with pytest.raises(ModelNotFoundError) as caught:
            await refused
        # So that whoever shares the work tries for itself.
        assert caught.value.field == "model"
    await asyncio.gather(running, waiting[1])
    with pytest.raises(ModelNotFoundError):
        await embedding(engine, added)
    assert engine.healthy
    assert engine.queued_cost == 0
    await engine.stop()


async def test_a_full_queue_does_not_fail_the_warm_up():
    model = vit()
    engine = Engine(EngineSettings(max_batch=1, max_queued=8))
    await engine.start(lambda: [model])
    (added,) = await engine.add(lambda: [resnet()])
    stop = asyncio.Event()

    async def load(number: int) -> None:
        while not stop.is_set():
            picture = pixels(model)[0]
            calls = [
                engine.record(model, picture, (Logits(),), client=f"{number}") for _ in range(4)
            ]
            await asyncio.gather(*calls, return_exceptions=True)

    loading = [asyncio.create_task(load(number)) for number in range(3)]
    await asyncio.wait_for(warm_up(engine, [added]), WAIT_S)
    stop.set()
    await asyncio.gather(*loading)
    await engine.stop()


async def test_the_forecast_of_a_new_model_starts_fresh():
    """A warm-up takes long, and says nothing of later passes; others are remembered."""
    model = vit()
    engine = await started(model)
    for _ in range(5):
        await embedding(engine, model)
    assert engine._driver is not None
    estimates = engine._driver.scheduler.forecast._estimates
    now_s = asyncio.get_running_loop().time()
    assert estimates.seconds(model, 1.0, now_s) is not None
    (added,) = await engine.add(lambda: [resnet()])
    await warm_up(engine, [added])
    assert estimates.seconds(added, 1.0, now_s) is None
    assert estimates.seconds(model, 1.0, now_s) is not None
    await engine.stop()
