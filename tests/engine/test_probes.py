"""Probes in the engine: chunks between which others get the device."""

import asyncio

import pytest
import torch

from pairlens_server.engine.engine import Engine, EngineSettings
from pairlens_server.errors import (
    DeadlineUnreachableError,
    DrainingError,
    NotReadyError,
    OutOfMemoryError,
    QueueFullError,
)
from pairlens_server.recording.baselines import Baseline, Fill
from pairlens_server.recording.primitives import Logits
from pairlens_server.recording.probes import OcclusionScores, PathGradients
from pairlens_server.recording.recorder import Recorder
from pairlens_server.recording.targets import ClassLogit
from tests.engine.conftest import Numbers, started, until
from tests.support import pixels, vit

MEAN_COLOUR = Baseline(Fill.MEAN, (0.0, 0.0, 0.0), 0)


@pytest.fixture
async def bench():
    """An engine that waits for nobody and runs two copies at a time, with its model."""
    model = vit()
    engine = await started(model, max_wait_s=0.0, probe_chunk=2, max_queued=3)
    yield engine, model, pixels(model, 1)[0]
    await engine.stop()


def spawn(coroutine):
    return asyncio.ensure_future(coroutine)


def logged_record(engine, model, picture, log):
    """A recording whose pass is told to the log."""
    model.network.patch_embed.register_forward_pre_hook(
        lambda _module, inputs: log.append(("pictures", len(inputs[0])))
    )
    return engine.record(model, picture, (Logits(),))


@pytest.mark.parametrize("size", [1, 3, 7, 1000])
@pytest.mark.parametrize("kind", [OcclusionScores, PathGradients])
async def test_any_chunks_come_to_what_one_run_gives(size, kind):
    model = vit()
    picture = pixels(model, 1)[0]
    if kind is OcclusionScores:
        probe = OcclusionScores(ClassLogit(2), model.layout, 3, MEAN_COLOUR)
    else:
        probe = PathGradients(ClassLogit(2), model.layout, MEAN_COLOUR, 5)
    whole = probe.combine([probe.run(Recorder(model), picture, 0, probe.steps)])
    engine = Engine(EngineSettings(probe_chunk=size))
    await engine.start(lambda: [model])
    found = await engine.probe(model, picture, probe)
    torch.testing.assert_close(found.result, whole, atol=1e-4, rtol=1e-4)
    assert found.result.dtype == torch.float32
    assert found.compute_s > 0
    assert found.queue_s >= 0
    await engine.stop()


async def test_the_last_chunk_may_be_smaller(bench):
    engine, model, picture = bench
    log = []
    found = await engine.probe(model, picture, Numbers("p", 5, log))
    assert log == [("p", 0, 2), ("p", 2, 4), ("p", 4, 5)]
    assert found.result.tolist() == [0, 1, 2, 3, 4]


async def test_others_get_the_device_between_chunks(bench):
    engine, model, picture = bench
    log = []
    slow, quick = Numbers("slow", 6, log, stop_at=0), Numbers("quick", 4, log)
    first = spawn(engine.probe(model, picture, slow))
    await until(slow.entered)
    record = spawn(logged_record(engine, model, picture, log))
    await asyncio.sleep(0)
    second = spawn(engine.probe(model, picture, quick))
    await asyncio.sleep(0)
    slow.open.set()
    await asyncio.gather(first, record, second)
    assert log == [
        ("slow", 0, 2),
        ("pictures", 1),
        ("quick", 0, 2),
        ("slow", 2, 4),
        ("quick", 2, 4),
        ("slow", 4, 6),
    ]


async def test_a_cancelled_probe_stops_within_one_chunk(bench):
    engine, model, picture = bench
    log = []
    probe = Numbers("p", 100, log, stop_at=2)
    call = spawn(engine.probe(model, picture, probe))
    await until(probe.entered)
    call.cancel()
    probe.open.set()
    with pytest.raises(asyncio.CancelledError):
        await call
    # The queue is first come first served: a further chunk would run before this.
    await engine.record(model, picture, (Logits(),))
    assert log == [("p", 0, 2), ("p", 2, 4)]


async def test_an_expired_probe_stops_within_one_chunk(bench, monkeypatch):
    engine, model, picture = bench
    loop, log, hours = asyncio.get_running_loop(), [], [0.0]
    clock = loop.time
    monkeypatch.setattr(loop, "time", lambda: clock() + 3600 * hours[0])
    probe = Numbers("p", 100, log, stop_at=0)
    call = spawn(engine.probe(model, picture, probe, deadline_s=loop.time() + 1800))
    await until(probe.entered)
    hours[0] = 1.0
    probe.open.set()
    with pytest.raises(DeadlineUnreachableError):
        await call
    await engine.record(model, picture, (Logits(),))
    assert log == [("p", 0, 2)]


async def test_a_probe_that_has_begun_outlives_a_full_queue(bench):
    engine, model, picture = bench
    log = []
    probe = Numbers("p", 6, log, stop_at=0)
    begun = spawn(engine.probe(model, picture, probe))
    await until(probe.entered)
    waiting = [spawn(engine.record(model, picture, (Logits(),))) for _ in range(3)]
    await asyncio.sleep(0)
    with pytest.raises(QueueFullError):
        await engine.record(model, picture, (Logits(),))
    with pytest.raises(QueueFullError):
        await engine.probe(model, picture, Numbers("late", 6, log))
    probe.open.set()
    assert (await begun).result.tolist() == list(range(6))
    await asyncio.gather(*waiting)
    assert not any(entry[0] == "late" for entry in log)


async def test_a_failing_probe_fails_alone(gated):
    model, gate = gated
    engine = await started(model, probe_chunk=2)
    probe = OcclusionScores(ClassLogit(0), model.layout, 1, MEAN_COLOUR)
    picture = pixels(model, 1)[0]
    gate.error = ValueError("this probe")
    with pytest.raises(ValueError, match="this probe"):
        await engine.probe(model, picture, probe)
    gate.error = torch.OutOfMemoryError("CUDA out of memory")
    with pytest.raises(OutOfMemoryError):
        await engine.probe(model, picture, probe)
    gate.error = None
    assert (await engine.probe(model, picture, probe)).result.shape == (25,)
    assert engine.healthy
    await engine.stop()


async def test_a_device_that_breaks_in_a_probe_ends_the_engine(gated):
    model, gate = gated
    engine = await started(model, probe_chunk=2)
    gate.error = RuntimeError("CUDA error: device-side assert triggered")
    probe = OcclusionScores(ClassLogit(0), model.layout, 1, MEAN_COLOUR)
    with pytest.raises(NotReadyError):
        await engine.probe(model, pixels(model, 1)[0], probe)
    assert not engine.healthy
    await engine.stop()


async def test_a_stop_ends_a_probe_after_its_chunk():
    model, log = vit(), []
    engine = await started(model, probe_chunk=2)
    probe = Numbers("p", 100, log, stop_at=0)
    call = spawn(engine.probe(model, pixels(model, 1)[0], probe))
    await until(probe.entered)
    stopping = spawn(engine.stop())
    await asyncio.sleep(0)
    probe.open.set()
    await stopping
    with pytest.raises(DrainingError):
        await call
    assert log == [("p", 0, 2)]
