"""The scheduler by itself: no loop, no device, and a clock that is a number."""

from concurrent.futures import Future

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pairlens_server.engine.entry import Chunk, Entry
from pairlens_server.engine.scheduler import Scheduler
from pairlens_server.engine.settings import EngineSettings
from pairlens_server.errors import DeadlineUnreachableError, QueueFullError
from tests.engine.conftest import Numbers
from tests.engine.simulation import Model

A, B = Model("a"), Model("b")


class Desk:
    """A scheduler, and what it refused."""

    def __init__(self, **changes):
        self.refused = {}
        self.scheduler = Scheduler(EngineSettings(**changes), self.refuse)

    def refuse(self, entry, error):
        assert entry not in self.refused
        self.refused[entry] = error
        if not entry.future.done():
            entry.future.set_exception(error)

    def put(self, model=A, client="", cost=1.0, deadline_s=None, chunk=None, now_s=0.0):
        entry = self.admit(model, client, cost, deadline_s, chunk, now_s)
        self.scheduler.ready(entry, now_s)
        return entry

    def admit(self, model=A, client="", cost=1.0, deadline_s=None, chunk=None, now_s=0.0):
        entry = Entry(model, client, cost, deadline_s, Future(), chunk=chunk)
        self.scheduler.admit(entry, now_s)
        return entry

    def take(self, now_s=0.0):
        """The next batch, run in no time; [] when there is none."""
        batch = self.scheduler.take(now_s)
        if batch is None:
            return []
        self.scheduler.finished(batch, None, now_s)
        return list(batch.entries)

    def measure(self, cost, seconds, now_s=0.0, model=A):
        """Have batches of a cost known to take so long."""
        for _ in range(3):
            self.run(Entry(model, "", cost, None, Future()), seconds, now_s)

    def run(self, entry, seconds, now_s=0.0):
        self.scheduler.admit(entry, now_s)
        self.scheduler.ready(entry, now_s)
        self.scheduler.finished(self.scheduler.take(now_s), seconds, now_s)


def chunk(start=0, steps=8, size=2):
    return Chunk(Numbers("probe", steps, []), start, start + size)


def test_a_batch_holds_the_oldest_of_one_model_in_order():
    desk = Desk(max_batch=2)
    a1, b1, a2, a3 = (desk.put(model) for model in (A, B, A, A))
    assert desk.take() == [a1, a2]
    assert desk.take() == [b1]
    assert desk.take() == [a3]
    assert desk.take() == []


def test_batches_are_filled_by_cost_and_a_client_is_served_in_order():
    desk = Desk(max_batch=8)
    dear, middling, small, more = (desk.put(cost=c) for c in (5.0, 4.0, 2.5, 1.5))
    assert desk.take() == [dear]
    assert desk.take() == [middling, small, more]


def test_what_does_not_fit_is_passed_and_leads_the_next_batch():
    desk = Desk(max_batch=8)
    dear, other = desk.put(cost=5.0, client="x"), desk.put(cost=4.0, client="y")
    small = [desk.put(client="z") for _ in range(5)]
    assert desk.take() == [dear, *small[:3]]
    assert desk.take() == [other, *small[3:]]


def test_an_entry_dearer_than_a_batch_runs_alone():
    desk = Desk(max_batch=4)
    dear, mate = desk.put(cost=10.0), desk.put()
    assert desk.scheduler.closes_at(0.0, idle=True) == 0.0
    assert desk.take() == [dear]
    assert desk.take() == [mate]


def test_one_over_the_bound_is_refused_with_a_time_to_wait():
    desk = Desk(max_queued=2)
    desk.put()
    desk.put()
    with pytest.raises(QueueFullError, match="2 forward passes") as caught:
        desk.put()
    assert 0.05 <= caught.value.retry_after_s <= 5
    assert desk.scheduler.queued_cost == 2


def test_the_time_to_wait_is_that_until_there_is_room():
    desk = Desk(max_queued=10)
    desk.measure(8.0, 2.4)
    for _ in range(10):
        desk.put()
    with pytest.raises(QueueFullError) as caught:
        desk.put(cost=2.0)
    assert caught.value.retry_after_s == pytest.approx(2 * 0.3, rel=0.01)


def test_the_queue_is_bounded_by_cost_and_an_empty_one_takes_anything():
    desk = Desk(max_queued=4)
    desk.put(cost=100.0)
    with pytest.raises(QueueFullError):
        desk.put(cost=0.5)
    assert [entry.cost for entry in desk.take()] == [100.0]
    desk.put(cost=3.0)
    with pytest.raises(QueueFullError):
        desk.put(cost=1.5)
    desk.put(cost=1.0)


def test_cost_is_held_from_admission_until_the_batch_or_until_the_caller_leaves():
    desk = Desk(max_queued=4)
    loading, waiting, gone = desk.admit(cost=1.5), desk.put(), desk.put(cost=1.5)
    assert desk.scheduler.queued_cost == 4
    with pytest.raises(QueueFullError):
        desk.admit(cost=0.5)
    desk.scheduler.leave(gone)
    desk.scheduler.leave(gone)
    assert desk.scheduler.queued_cost == 2.5
    assert desk.take() == [waiting]
    assert desk.scheduler.queued_cost == 1.5
    assert desk.take() == []
    desk.scheduler.ready(loading, 0.0)
    assert desk.take() == [loading]
    assert desk.scheduler.queued_cost == 0


def test_abandoned_entries_take_no_place_in_a_batch():
    desk = Desk(max_batch=1)
    gone, kept = desk.put(), desk.put()
    gone.future.cancel()
    assert desk.take() == [kept]
    assert desk.scheduler.queued_cost == 0


def test_expired_entries_fail_and_give_their_room_back():
    desk = Desk(max_batch=1, max_queued=3)
    expired, alive = desk.put(deadline_s=1.0), desk.put(deadline_s=3.0)
    loading = desk.admit(deadline_s=1.5)
    assert desk.scheduler.next_deadline() == 1.0
    desk.scheduler.expire(0.9)
    assert not desk.refused
    late = desk.put(now_s=2.0)  # the queue is full of what has expired
    assert set(desk.refused) == {expired, loading}
    assert all(isinstance(e, DeadlineUnreachableError) for e in desk.refused.values())
    assert desk.scheduler.next_deadline() == 3.0
    assert desk.take(2.0) == [alive]
    assert desk.take(2.0) == [late]


def test_a_deadline_that_has_passed_is_refused_at_once():
    desk = Desk()
    with pytest.raises(DeadlineUnreachableError):
        desk.put(deadline_s=1.0, now_s=1.0)
    assert desk.scheduler.queued_cost == 0


def test_drain_takes_everything():
    desk = Desk()
    entries = [desk.put(A), desk.admit(B), desk.put(B, chunk=chunk())]
    assert desk.scheduler.drain() == entries
    assert desk.scheduler.queued_cost == 0
    assert desk.take() == []


def test_a_chunk_is_a_batch_by_itself_and_keeps_its_place():
    desk = Desk(max_batch=2)
    a1, probed, a2, a3 = (desk.put(chunk=c) for c in (None, chunk(), None, None))
    # Pictures behind it may pass it into the batch of the oldest one, as those of another
    # model would.
    assert desk.take() == [a1, a2]
    assert desk.take() == [probed]
    assert desk.take() == [a3]


def test_two_chunks_never_share_a_batch():
    desk = Desk()
    first, second = desk.put(chunk=chunk(), cost=2.0), desk.put(chunk=chunk(), cost=2.0)
    assert desk.take() == [first]
    assert desk.take() == [second]


def test_a_probe_that_has_begun_is_taken_on_by_a_full_queue_and_stays():
    desk = Desk(max_queued=1)
    waiting = desk.put(client="x")
    with pytest.raises(QueueFullError):
        desk.put(chunk=chunk(), client="y", cost=2.0)
    begun = desk.put(chunk=chunk(start=2), client="y", cost=2.0)
    # The client with most is y, but what has begun is not pushed out.
    with pytest.raises(QueueFullError):
        desk.put(client="z")
    assert not desk.refused
    assert desk.take() == [waiting]
    assert desk.take() == [begun]


def test_an_expired_or_abandoned_chunk_never_runs():
    desk = Desk()
    expired, gone = desk.put(chunk=chunk(), deadline_s=1.0), desk.put(chunk=chunk(2))
    gone.future.cancel()
    assert desk.take(2.0) == []
    assert set(desk.refused) == {expired}


class TestWhoWaitsForWhom:
    def test_a_flood_stands_behind_a_client_that_comes_later(self):
        desk = Desk(max_batch=4)
        flood = [desk.put(client="hog") for _ in range(40)]
        assert desk.take() == flood[:4]
        late = desk.put(client="other")
        assert late in desk.take()

    def test_a_flood_of_one_model_does_not_hold_up_another(self):
        desk = Desk(max_batch=4)
        flood = [desk.put(A) for _ in range(40)]
        assert desk.take() == flood[:4]
        late = desk.put(B)
        assert desk.take() == [late]

    def test_a_client_that_cancels_is_not_set_back_for_what_did_not_run(self):
        desk = Desk(max_batch=1)
        for _ in range(50):
            desk.scheduler.leave(desk.put(client="x"))
        others = [desk.put(client="y") for _ in range(10)]
        mine = desk.put(client="x")
        assert desk.take() == [others[0]]
        assert desk.take() == [mine]

    def test_room_is_made_for_a_client_with_less_at_the_cost_of_the_newest_of_the_flood(self):
        desk = Desk(max_queued=6)
        flood = [desk.put(client="hog") for _ in range(5)]
        loading = desk.admit(client="hog")
        one = desk.put(client="other")
        two = desk.put(client="other")
        assert list(desk.refused) == [loading, flood[4]]
        assert all(e.retry_after_s for e in desk.refused.values())
        desk.put(client="other")  # 4 and 2 become 3 and 3
        with pytest.raises(QueueFullError):
            desk.put(client="other")
        assert desk.scheduler.queued_cost == 6
        with pytest.raises(QueueFullError):
            desk.put(client="hog")
        assert {one, two} <= set(desk.take())

    def test_the_flood_is_found_again_after_it_has_shrunk(self):
        desk = Desk(max_queued=8, max_batch=3)
        [desk.put(client="first") for _ in range(4)]
        second = [desk.put(client="second") for _ in range(3)]
        desk.put(client="third")
        assert {entry.client for entry in desk.take()} == {"first", "second", "third"}
        [desk.put(client="second") for _ in range(3)]
        desk.put(client="third")
        assert [entry.client for entry in desk.refused] == ["second"]
        assert second[0] not in desk.refused

    def test_those_who_had_little_are_remembered_no_longer_than_needed(self):
        desk = Desk(max_batch=1)
        busy = [desk.put(client="busy") for _ in range(300)]
        for number in range(100):
            desk.put(client=f"passing {number}")
            desk.take()
            desk.take()
        assert len(desk.scheduler._flows) <= 3
        assert not busy[-1].future.done()


class TestWhenABatchCloses:
    def test_company_is_waited_for_on_an_idle_device_only(self):
        desk = Desk(max_batch=2, max_wait_s=0.002)
        assert desk.scheduler.closes_at(1.0, idle=True) is None
        desk.put(now_s=1.0)
        assert desk.scheduler.closes_at(1.001, idle=True) == pytest.approx(1.002)
        assert desk.scheduler.closes_at(1.001, idle=False) is None
        desk.put(now_s=1.001)
        assert desk.scheduler.closes_at(1.001, idle=True) == 1.001
        assert desk.scheduler.closes_at(1.001, idle=False) == 1.001

    def test_it_is_the_oldest_that_must_not_wait_whoever_leads(self):
        desk = Desk(max_wait_s=0.002, max_batch=4)
        for _ in range(5):
            desk.put(A, client="x", now_s=1.0)
        desk.take(1.0)
        desk.put(B, client="y", now_s=1.001)
        assert desk.scheduler.closes_at(1.001, idle=True) == pytest.approx(1.002)

    def test_pictures_that_are_being_made_are_not_waited_for(self):
        desk = Desk(max_wait_s=0.002)
        loading = desk.admit(now_s=1.0)
        assert desk.scheduler.closes_at(5.0, idle=True) is None
        desk.put(now_s=6.0)
        desk.scheduler.ready(loading, 6.5)
        assert desk.scheduler.closes_at(6.5, idle=True) == pytest.approx(6.002)

    def test_a_near_deadline_ends_the_wait(self):
        desk = Desk(max_wait_s=0.5)
        desk.put(now_s=0.0)
        desk.put(now_s=0.1, deadline_s=0.8)
        assert desk.scheduler.closes_at(0.1, idle=True) == pytest.approx(0.3)

    def test_a_chunk_does_not_wait_and_is_not_prepared(self):
        desk = Desk()
        desk.put(chunk=chunk(), now_s=1.0)
        assert desk.scheduler.closes_at(1.0, idle=True) == 1.0
        assert desk.scheduler.closes_at(1.0, idle=False) is None


class TestDeadlines:
    def test_nothing_is_refused_of_a_model_that_is_not_known(self):
        desk = Desk()
        desk.put(deadline_s=1e-9)
        assert len(desk.take()) == 1

    def test_what_could_not_be_done_in_time_is_refused_at_once(self):
        desk = Desk(max_queued=1000)
        desk.measure(1.0, 0.1)
        desk.measure(16.0, 1.6)
        with pytest.raises(DeadlineUnreachableError):
            desk.put(deadline_s=0.09)
        desk.put(deadline_s=0.11)  # idle: no margin is kept
        for _ in range(49):
            desk.put()
        with pytest.raises(DeadlineUnreachableError):
            desk.put(deadline_s=5.0)  # after 5 s of others
        desk.put(deadline_s=10.0)

    def test_a_flood_of_others_is_no_reason_to_refuse_who_would_be_next(self):
        desk = Desk(max_queued=1000)
        desk.measure(1.0, 0.1)
        desk.measure(16.0, 1.6)
        for _ in range(500):
            desk.put(client="hog")
        desk.put(client="other", deadline_s=2.5)
        with pytest.raises(DeadlineUnreachableError):
            desk.put(client="hog", deadline_s=2.5)

    def test_a_probe_counts_as_a_whole_at_its_beginning_and_with_the_rest_later(self):
        desk = Desk()
        desk.measure(2.0, 0.2)
        with pytest.raises(DeadlineUnreachableError):
            desk.put(chunk=chunk(steps=80), cost=2.0, deadline_s=7.0)
        desk.put(chunk=chunk(steps=80), cost=2.0, deadline_s=9.0)
        desk.take()
        with pytest.raises(DeadlineUnreachableError):
            desk.put(chunk=chunk(start=20, steps=80), cost=2.0, deadline_s=9.0, now_s=4.0)
        desk.put(chunk=chunk(start=40, steps=80), cost=2.0, deadline_s=9.0, now_s=4.0)

    def test_one_slow_batch_among_others_refuses_nobody(self):
        desk = Desk()
        desk.measure(1.0, 0.1)
        desk.run(Entry(A, "", 1.0, None, Future()), 60.0)
        desk.put(deadline_s=0.2)
        assert len(desk.take()) == 1

    def test_a_model_that_was_slow_for_a_while_is_tried_again(self):
        desk = Desk()
        desk.measure(1.0, 10.0)
        with pytest.raises(DeadlineUnreachableError):
            desk.put(deadline_s=31.0, now_s=29.0)
        desk.put(deadline_s=33.0, now_s=31.0)
        assert len(desk.take(31.0)) == 1

    def test_a_deadline_makes_batches_smaller_where_that_costs_nothing(self):
        desk = Desk(max_batch=16)
        desk.measure(1.0, 0.1)
        desk.measure(16.0, 1.6)
        entries = [desk.put(deadline_s=None if n else 1.0) for n in range(16)]
        assert desk.take() == entries[:7]  # 8 would take 0.8 s with a margin of a quarter
        assert not desk.refused

    def test_who_is_in_a_hurry_is_refused_where_a_small_batch_would_cost_all_others_time(self):
        desk = Desk(max_batch=16)
        desk.measure(1.0, 0.1)
        desk.measure(16.0, 0.2)
        entries = [desk.put(deadline_s=None if n else 0.15) for n in range(16)]
        assert desk.take() == entries[1:]
        assert list(desk.refused) == [entries[0]]

    def test_a_batch_that_was_prepared_is_looked_through_again(self):
        desk = Desk(max_batch=4)
        desk.measure(1.0, 0.1)
        gone, late, kept, other = (
            desk.put(deadline_s=deadline) for deadline in (None, 1.0, 3.0, None)
        )
        batch = desk.scheduler.take(0.0)
        assert desk.scheduler.still_wanted(batch, 0.0) is batch
        gone.future.cancel()
        left = desk.scheduler.still_wanted(batch, 0.9)
        assert left.entries == (kept, other)
        assert left.cost == 2
        assert list(desk.refused) == [late]
        for entry in (kept, other):
            entry.future.cancel()
        assert desk.scheduler.still_wanted(left, 0.9) is None


OPERATIONS = st.lists(
    st.tuples(
        st.sampled_from(["put", "put", "put", "admit", "ready", "leave", "cancel", "take"]),
        st.integers(0, 5),
        st.sampled_from([0.5, 1.0, 2.5, 10.0]),
        st.sampled_from([None, 3.0, 40.0]),
        st.floats(0, 2),
    ),
    max_size=120,
)


@settings(max_examples=150, deadline=None)
@given(OPERATIONS)
def test_whatever_happens_nothing_is_lost_run_twice_or_counted_wrongly(operations):
    desk, now_s = Desk(max_batch=4, max_queued=12), 0.0
    loading, waiting, done, flight = [], [], [], []
    for kind, pick, cost, patience_s, pause_s in operations:
        now_s += pause_s
        model, client = (A, B)[pick % 2], "xyz"[pick % 3]
        if kind in ("put", "admit"):
            part = chunk(start=2 * (pick % 2)) if pick == 5 else None
            deadline_s = None if patience_s is None else now_s + patience_s
            entry = Entry(model, client, cost, deadline_s, Future(), chunk=part)
            try:
                desk.scheduler.admit(entry, now_s)
            except (QueueFullError, DeadlineUnreachableError):
                continue
            loading.append(entry)
            if kind == "put":
                loading.remove(entry)
                desk.scheduler.ready(entry, now_s)
                waiting.append(entry)
        elif kind == "ready" and loading:
            entry = loading.pop(pick % len(loading))
            if entry not in desk.refused:
                desk.scheduler.ready(entry, now_s)
                waiting.append(entry)
        elif kind in ("leave", "cancel") and waiting:
            entry = waiting.pop(pick % len(waiting))
            entry.future.cancel()
            if kind == "leave":
                desk.scheduler.leave(entry)
        elif kind == "take":
            if len(flight) == 2:
                desk.scheduler.finished(flight.pop(0), cost, now_s)
            batch = desk.scheduler.take(now_s)
            if batch is not None:
                flight.append(batch)
                assert len({e.model for e in batch.entries}) == 1
                assert batch.cost <= 4 or len(batch.entries) == 1
                done += batch.entries
    for batch in flight:
        desk.scheduler.finished(batch, None, now_s)
    for entry in loading:
        if entry not in desk.refused:
            desk.scheduler.ready(entry, now_s)
            waiting.append(entry)
    while taken := desk.take(now_s):
        done += taken
    assert len(set(done)) == len(done)
    assert not set(done) & set(desk.refused)
    assert set(waiting) <= set(done) | set(desk.refused)
    assert desk.scheduler.queued_cost == 0
    assert len(desk.scheduler) == 0
    desk.put()
    assert len(desk.take()) == 1
    assert len(desk.scheduler._flows) == 0


@pytest.mark.parametrize(("decoding_s", "batches"), [(0.0, 1), (0.05, 2)])
def test_one_whose_pixels_miss_the_next_batch_is_reckoned_with_the_one_after(decoding_s, batches):
    def done_s(comes_s):
        desk = Desk(max_batch=4)
        desk.measure(2.0, 1.0)  # as long as a batch of one
        for _ in range(40):
            entry = desk.admit()
            desk.scheduler.ready(entry, decoding_s)
            desk.scheduler.finished(desk.scheduler.take(decoding_s), 1.0, decoding_s)
        # Ends at 2.0; the next batch is prepared from 1.75 on.
        desk.put(now_s=1.0)
        desk.scheduler.take(1.0)
        desk.put(now_s=1.1)
        entry = desk.admit(deadline_s=100.0, now_s=comes_s)
        return comes_s + entry.forecast_s

    slow = 1.25
    assert done_s(1.2) == pytest.approx(2.0 + slow * 1.0)
    assert done_s(1.7) == pytest.approx(2.0 + slow * batches)


def test_one_that_misses_the_next_batch_while_nothing_waits_for_its_own_model():
    desk = Desk(max_batch=4)
    desk.measure(2.0, 1.0)
    desk.measure(2.0, 1.0, model=B)
    for _ in range(40):
        entry = desk.admit()
        desk.scheduler.ready(entry, 0.5)
        desk.scheduler.finished(desk.scheduler.take(0.5), 1.0, 0.5)
    desk.put(now_s=1.0)
    desk.scheduler.take(1.0)
    desk.put(B, now_s=1.1)
    # Its pixels come too late for the batch after the one that runs, which is all of B's.
    entry = desk.admit(deadline_s=100.0, now_s=1.7)
    assert 1.7 + entry.forecast_s == pytest.approx(2.0 + 1.25 * (0.5 + 1.0))
