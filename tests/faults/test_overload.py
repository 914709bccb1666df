"""More than the device can do: the flood waits and is refused, others are not."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from statistics import median

import grpc
import numpy as np
import pytest
from google.rpc import error_details_pb2

from tests.contract.support import Failure, array, failure_of_rpc, png
from tests.faults.calls import BYPASS, Caller, Embed, Explain, Pair, Warm, inline
from tests.faults.conftest import QUEUE

PICTURE = png(99)
SLOW = Explain(model="slow", image=inline(PICTURE), method={"raw_attention": {}}, cache=BYPASS)
OUTSTANDING = 2 * QUEUE


class Flood:
    """One client that has always more calls under way than the queue takes.

    Attributes:
        seconds: That calls took which were answered.
        refused: What others were refused with.
        answers: Values of the answered.
    """

    def __init__(self, caller: Caller):
        self.seconds: list[float] = []
        self.refused: list[Failure] = []
        self.answers: set[bytes] = set()
        self._caller = caller
        self._room = threading.Semaphore(OUTSTANDING)
        self._stop = threading.Event()

    def run(self) -> None:
        while not self._stop.is_set():
            self._room.acquire()
            begun = time.monotonic()
            future = self._caller.begin(SLOW)
            future.add_done_callback(lambda done, begun=begun: self._done(done, begun))
            if len(self.refused) > 0:
                time.sleep(0.005)
        for _ in range(OUTSTANDING):
            self._room.acquire()

    def stop(self) -> None:
        self._stop.set()

    def _done(self, future: object, begun: float) -> None:
        try:
            self.answers.add(future.result().heatmap.values.data)
            self.seconds.append(time.monotonic() - begun)
        except grpc.RpcError as error:
            self.refused.append(failure_of_rpc(error))
        self._room.release()


@contextmanager
def flood(target: str) -> Iterator[Flood]:
    with Caller(target, "flood") as caller:
        made = Flood(caller)
        thread = threading.Thread(target=made.run)
        thread.start()
        try:
            while not (made.refused and len(made.seconds) > QUEUE):
                time.sleep(0.01)
            yield made
        finally:
            made.stop()
            thread.join()


@pytest.fixture(scope="module")
def served(fleet):
    """What came of a flood, of another's calls beside it, and of calls in a hurry."""
    polite, polite_s, hurried = [], [], []
    with Caller(fleet.first.target, "polite") as other:
        reference = other.send(SLOW).heatmap.values.data
        with flood(fleet.first.target) as made:
            for _ in range(8):
                begun = time.monotonic()
                polite.append(other.send(SLOW).heatmap.values.data)
                polite_s.append(time.monotonic() - begun)
            deadline_s = median(made.seconds) / 2
            with Caller(fleet.first.target, "flood") as same:
                for _ in range(4):
                    begun = time.monotonic()
                    with pytest.raises(grpc.RpcError) as caught:
                        same.send(SLOW, timeout=deadline_s)
                    hurried.append((caught.value, time.monotonic() - begun))
        yield made, polite, polite_s, hurried, deadline_s, reference


def test_what_is_too_much_is_refused(served):
    made, *_ = served
    assert {(f.code, f.reason) for f in made.refused} == {("RESOURCE_EXHAUSTED", "QUEUE_FULL")}
    for failure in made.refused:
        delay = failure.detail(error_details_pb2.RetryInfo).retry_delay
        assert 0 < delay.ToMilliseconds() <= 5000


def test_what_is_taken_is_answered(served):
    made, polite, *_, reference = served
    for values in {*made.answers, *polite}:
        np.testing.assert_allclose(
            np.frombuffer(values, "<f4"), np.frombuffer(reference, "<f4"), atol=1e-5
        )


def test_another_client_is_served_meanwhile(served):
    made, _, polite_s, *_ = served
    # Two or three batches, where the flood waits for as many as the queue holds.
    assert median(polite_s) < median(made.seconds) / 2


def test_a_deadline_that_cannot_be_met_is_told_at_once(served):
    *_, hurried, deadline_s, _ = served
    told = []
    for error, seconds in hurried:
        assert error.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        if seconds < deadline_s:
            told.append(failure_of_rpc(error).reason)
    assert told
    assert set(told) == {"DEADLINE_UNREACHABLE"}


def test_a_bad_picture_fails_alone(first):
    """Calls that share batches, some of whose pictures are none."""
    good = [png(seed) for seed in range(200, 212)]
    bad = b"no picture"
    alone = [first.send(Embed(model="tiny-vit", images=[inline(p)], cache=BYPASS)) for p in good]
    right = [array(answer.results[0].embedding) for answer in alone]
    futures = [
        first.begin(Embed(model="tiny-vit", images=[inline(p), inline(bad)], cache=BYPASS))
        for p in good
    ]
    for future, expected in zip(futures, right, strict=True):
        fine, broken = future.result().results
        np.testing.assert_allclose(array(fine.embedding), expected, atol=1e-5)
        assert broken.WhichOneof("outcome") == "error"


def test_an_idle_server_takes_any_call_within_its_limits(second):
    """As many pictures as a call may have, of a method whose cost alone would fill the queue."""
    images = [inline(png(seed)) for seed in range(300, 364)]
    for model, method in (("tiny-vit", "occlusion"), ("tiny-vit-cls", "transformer_attribution")):
        request = Warm(model=model, images=images, methods=[{method: {}}])
        assert all(result.warmed for result in second.send(request).results)
        pair = Pair(model=model, query=images[0], candidates=images, method={method: {}})
        assert len(second.send(pair).results) == 64
