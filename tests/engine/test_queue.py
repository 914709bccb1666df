import asyncio

import pytest
import torch

from pairlens_server.engine.entry import Chunk, Entry
from pairlens_server.engine.queue import BatchQueue
from pairlens_server.errors import DeadlineUnreachableError, QueueFullError
from tests.engine.conftest import Numbers


@pytest.fixture
def loop():
    made = asyncio.new_event_loop()
    yield made
    made.close()


class Models:
    a = object()
    b = object()


def entry(loop, model=Models.a, deadline_s=None, chunk=None):
    return Entry(model, torch.zeros(1), (), loop.create_future(), 0.0, deadline_s, chunk)


def chunk(start=0):
    return Chunk(Numbers("probe", 8, []), start, start + 2)


def test_a_batch_holds_the_oldest_of_one_model_in_order(loop):
    queue = BatchQueue(10)
    a1, b1, a2, a3 = (entry(loop, m) for m in (Models.a, Models.b, Models.a, Models.a))
    for waiting in (a1, b1, a2, a3):
        queue.put(waiting)
    assert queue.take(2, 0.0) == [a1, a2]
    assert queue.take(2, 0.0) == [b1]
    assert queue.take(2, 0.0) == [a3]
    assert queue.take(2, 0.0) == []


def test_one_over_the_bound_is_refused_with_a_time_to_wait(loop):
    queue = BatchQueue(2)
    queue.put(entry(loop))
    queue.put(entry(loop))
    with pytest.raises(QueueFullError, match="2 pictures") as caught:
        queue.put(entry(loop))
    assert caught.value.retry_after_s > 0
    assert len(queue) == 2


def test_abandoned_entries_make_room_and_take_no_place_in_a_batch(loop):
    queue = BatchQueue(2)
    gone, kept = entry(loop), entry(loop)
    queue.put(gone)
    queue.put(kept)
    gone.future.cancel()
    late = entry(loop)
    queue.put(late)
    assert queue.take(8, 0.0) == [kept, late]


def test_expired_entries_fail_without_taking_a_place(loop):
    queue = BatchQueue(4)
    expired, alive = entry(loop, deadline_s=1.0), entry(loop, deadline_s=3.0)
    queue.put(expired)
    queue.put(alive)
    assert queue.take(1, 2.0) == [alive]
    assert isinstance(expired.future.exception(), DeadlineUnreachableError)


def test_drain_takes_everything(loop):
    queue = BatchQueue(4)
    waiting = [entry(loop, Models.a), entry(loop, Models.b)]
    for one in waiting:
        queue.put(one)
    assert queue.drain() == waiting
    assert len(queue) == 0


def test_a_chunk_is_a_batch_by_itself_and_keeps_its_place(loop):
    queue = BatchQueue(10)
    a1, probed, a2, a3 = (entry(loop, chunk=c) for c in (None, chunk(), None, None))
    for waiting in (a1, probed, a2, a3):
        queue.put(waiting)
    assert not queue.full_batch_waits
    # Pictures behind it may pass it into the batch of the oldest one, as those of another
    # model would.
    assert queue.take(2, 0.0) == [a1, a2]
    assert queue.full_batch_waits
    assert queue.take(2, 0.0) == [probed]
    assert queue.take(2, 0.0) == [a3]
    assert not queue.full_batch_waits


def test_two_chunks_never_share_a_batch(loop):
    queue = BatchQueue(10)
    first, second = entry(loop, chunk=chunk()), entry(loop, chunk=chunk())
    queue.put(first)
    queue.put(second)
    assert queue.take(8, 0.0) == [first]
    assert queue.take(8, 0.0) == [second]


def test_a_probe_that_has_begun_is_taken_on_by_a_full_queue(loop):
    queue = BatchQueue(1)
    waiting, begun = entry(loop), entry(loop, chunk=chunk(start=2))
    queue.put(waiting)
    with pytest.raises(QueueFullError):
        queue.put(entry(loop, chunk=chunk(start=0)))
    queue.put(begun)
    assert queue.take(8, 0.0) == [waiting]
    assert queue.take(8, 0.0) == [begun]


def test_an_expired_or_abandoned_chunk_never_runs(loop):
    queue = BatchQueue(4)
    expired, gone = entry(loop, deadline_s=1.0, chunk=chunk()), entry(loop, chunk=chunk(2))
    queue.put(expired)
    queue.put(gone)
    gone.future.cancel()
    assert queue.take(8, 2.0) == []
    assert isinstance(expired.future.exception(), DeadlineUnreachableError)
