"""What the engine tells a call of where its time went, whatever becomes of it."""

import asyncio
import time
from contextlib import contextmanager

import pytest
import torch

from pairlens_server.errors import DeadlineUnreachableError
from pairlens_server.recording.primitives import Embedding
from pairlens_server.telemetry.record import CURRENT, CallRecord, Stage, current_call, seconds_of
from tests.engine.conftest import Numbers, started, until
from tests.support import pixels

HELD_S = 0.1


@contextmanager
def called(name: str = "a"):
    """Work for a call, as tasks that are made meanwhile do, too."""
    call = CallRecord("r", name)
    reset = CURRENT.set(call)
    try:
        yield call
    finally:
        CURRENT.reset(reset)


def ask(engine, model, picture=None, **options):
    picture = pixels(model, 1)[0] if picture is None else picture
    return asyncio.ensure_future(engine.record(model, picture, [Embedding()], **options))


def stages(call: CallRecord) -> dict[Stage, float]:
    return seconds_of(call.runs(time.perf_counter()))


async def test_waiting_and_computing_are_told_apart(gated):
    model, gate = gated
    engine = await started(model, max_batch=1)
    gate.open.clear()
    with called() as first:
        running = ask(engine, model)
    await until(gate.entered)
    with called("b") as second:
        waiting = ask(engine, model)
    await asyncio.sleep(HELD_S)
    assert stages(second).keys() == {Stage.QUEUE}
    assert stages(first)[Stage.COMPUTE] >= HELD_S
    gate.open.set()
    recordings = await asyncio.gather(running, waiting)
    for call, recording in zip((first, second), recordings, strict=True):
        spent = stages(call)
        assert spent.keys() == {Stage.QUEUE, Stage.COMPUTE}
        # The engine's own clock says the same.
        assert spent[Stage.QUEUE] == pytest.approx(recording.queue_s, abs=0.05)
        assert spent[Stage.COMPUTE] == pytest.approx(recording.compute_s, abs=0.05)
    assert stages(second)[Stage.QUEUE] >= HELD_S
    await engine.stop()


async def test_a_call_that_gives_up_in_the_queue_has_waited(gated):
    model, gate = gated
    engine = await started(model, max_batch=1)
    gate.open.clear()
    running = ask(engine, model)
    await until(gate.entered)
    with called() as call:
        waiting = ask(engine, model)
    await asyncio.sleep(HELD_S)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    spent = stages(call)
    assert spent.keys() == {Stage.QUEUE}
    assert spent[Stage.QUEUE] >= HELD_S
    gate.open.set()
    await running
    assert stages(call) == spent
    await engine.stop()


async def test_a_call_whose_deadline_passes_in_the_queue_has_waited(gated):
    model, gate = gated
    engine = await started(model, max_batch=1)
    gate.open.clear()
    running = ask(engine, model)
    await until(gate.entered)
    prepared = ask(engine, model)
    with called() as call:
        loop = asyncio.get_running_loop()
        waiting = ask(engine, model, deadline_s=loop.time() + HELD_S)
    with pytest.raises(DeadlineUnreachableError):
        await waiting
    assert stages(call)[Stage.QUEUE] >= 0.9 * HELD_S
    gate.open.set()
    await asyncio.gather(running, prepared)
    await engine.stop()


async def test_a_failed_pass_was_computed(gated):
    model, gate = gated
    engine = await started(model)
    gate.error = ValueError("no")
    with called() as call, pytest.raises(ValueError, match="no"):
        await ask(engine, model)
    assert stages(call).keys() == {Stage.QUEUE, Stage.COMPUTE}
    gate.error = None
    await engine.stop()


async def test_a_probe_tells_of_each_chunk(gated):
    model, _ = gated
    engine = await started(model, probe_chunk=2)
    with called() as call:
        await engine.probe(model, pixels(model, 1)[0], Numbers("p", 6, []))
    assert [interval.stage for interval in call.intervals] == [Stage.QUEUE, Stage.COMPUTE] * 3
    assert all(interval.end_s is not None for interval in call.intervals)
    await engine.stop()


async def test_waiting_for_the_threads_that_decode_is_decoding(gated):
    """And pixels are made for their own call, whoever made room for them."""
    model, _ = gated
    engine = await started(model, max_loading=1)
    go_on, made_for = asyncio.Event(), []

    async def make() -> torch.Tensor:
        made_for.append(current_call())
        await go_on.wait()
        return pixels(model, 1)[0]

    with called("first") as first:
        loading = ask(engine, model, make)
    with called("second") as second:
        behind = ask(engine, model, make)
    await asyncio.sleep(HELD_S)
    assert stages(first) == {}
    assert stages(second).keys() == {Stage.DECODE}
    go_on.set()
    await asyncio.gather(loading, behind)
    assert stages(second)[Stage.DECODE] >= HELD_S
    assert made_for == [first, second]
    await engine.stop()
