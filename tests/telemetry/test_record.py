"""What a call's record says of where its time went."""

import asyncio

import pytest

from pairlens_server.telemetry.record import (
    CURRENT,
    STAGES,
    CallRecord,
    Interval,
    Stage,
    current_call,
    name_call,
    seconds_of,
    staged,
)


def record(*intervals: tuple[Stage, float, float | None], started_s: float = 0.0) -> CallRecord:
    call = CallRecord("/pairlens.v1.ExplanationService/Explain", "id", started_s=started_s)
    call.intervals = [Interval(*interval) for interval in intervals]
    return call


@pytest.fixture
def call():
    made = CallRecord("/pairlens.v1.ExplanationService/Explain", "id")
    reset = CURRENT.set(made)
    yield made
    CURRENT.reset(reset)


def test_overlaps_of_a_stage_count_once():
    call = record(
        (Stage.DECODE, 1.0, 3.0),
        (Stage.DECODE, 2.0, 2.5),
        (Stage.DECODE, 2.0, 4.0),
        (Stage.DECODE, 6.0, 7.0),
        (Stage.COMPUTE, 3.0, 5.0),
    )
    runs = call.runs(10.0)
    assert [tuple(run) for run in runs] == [
        (Stage.DECODE, 1.0, 4.0),
        (Stage.COMPUTE, 3.0, 5.0),
        (Stage.DECODE, 6.0, 7.0),
    ]
    assert seconds_of(runs) == {Stage.DECODE: 4.0, Stage.COMPUTE: 2.0}


def test_what_still_runs_is_counted_until_now_and_no_further():
    call = record((Stage.QUEUE, 2.0, None), (Stage.COMPUTE, 4.0, 9.0), started_s=1.0)
    assert seconds_of(call.runs(5.0)) == {Stage.QUEUE: 3.0, Stage.COMPUTE: 1.0}


def test_nothing_before_the_call_is_its_own():
    assert seconds_of(record((Stage.DECODE, 0.0, 5.0), started_s=3.0).runs(9.0)) == {
        Stage.DECODE: 2.0
    }
    assert record((Stage.DECODE, 0.0, 2.0), started_s=3.0).runs(9.0) == []


def test_a_call_has_waited_through_the_stages_of_shared_work_while_it_waited():
    work = record((Stage.QUEUE, 1.0, 4.0), (Stage.COMPUTE, 4.0, 6.0))
    call = record(started_s=2.0)
    with call.riding([work]):
        (ride,) = call.rides
        ride.since_s = 2.5
    ride.until_s = 5.0
    assert seconds_of(call.runs(9.0)) == {Stage.QUEUE: 1.5, Stage.COMPUTE: 1.0}


def test_a_ride_that_goes_on_counts_until_now():
    work = record((Stage.QUEUE, 1.0, None))
    call = record(started_s=0.0)
    with call.riding([work]):
        (ride,) = call.rides
        ride.since_s = 2.0
        assert seconds_of(call.runs(3.5)) == {Stage.QUEUE: 1.5}
    assert ride.until_s is not None


def test_shared_work_has_books_of_its_own():
    call = record((Stage.DECODE, 1.0, 2.0))
    work = call.shared()
    work.begin(Stage.COMPUTE)
    assert work.request_id == call.request_id
    assert [interval.stage for interval in call.intervals] == [Stage.DECODE]


def test_a_block_counts_however_it_ends(call):
    with staged(Stage.METHOD):
        pass
    with pytest.raises(ValueError, match="x"), staged(Stage.ENCODE):
        raise ValueError("x")
    assert [interval.stage for interval in call.intervals] == [Stage.METHOD, Stage.ENCODE]
    assert all(interval.end_s is not None for interval in call.intervals)


def test_outside_of_calls_nothing_is_kept():
    assert current_call() is None
    with staged(Stage.METHOD):
        name_call(model="m")


def test_names(call):
    name_call(model="m")
    name_call(method="rollout")
    assert (call.model, call.method) == ("m", "rollout")


async def test_tasks_of_a_call_write_into_its_record(call):
    async def work() -> None:
        with staged(Stage.CACHE_GET):
            await asyncio.sleep(0)

    await asyncio.gather(*(work() for _ in range(3)))
    assert len(call.intervals) == 3


def test_what_came_with_a_call_is_not_shown():
    call = CallRecord("r", "id", metadata=(("authorization", "Bearer secret-secret"),))
    assert "secret" not in repr(call)


def test_every_stage_is_explained():
    assert list(STAGES) == list(Stage)
