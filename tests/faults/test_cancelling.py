"""A thousand calls that are given up at random moments, while others go on."""

from __future__ import annotations

import itertools
import random
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest

from tests.contract.support import array, unseen
from tests.faults.calls import (
    BYPASS,
    REFRESH,
    Caller,
    Embed,
    Explain,
    Pair,
    by_digest,
    inline,
)
from tests.faults.conftest import QUEUE, Fleet
from tests.faults.load import beside

CANCELLED = 1000
THREADS = 5
LATEST_S = 0.02
"""When a call is given up at the latest; most take about half of that when alone."""

SLOW = 24
"""So many calls are of a model whose batches take some tens of milliseconds."""

END_S = 60.0


def requests(pictures: Sequence[bytes]) -> list[Any]:
    """Calls of many costs: of no pass of their own, of one, with gradients, in chunks."""
    images = [inline(p) if i % 2 else by_digest(p) for i, p in enumerate(pictures)]
    made = [Explain(model="slow", image=i, method={"raw_attention": {}}) for i in images[:SLOW]]
    for i, image in enumerate(images):
        near = [images[(i + k) % len(images)] for k in (1, 2, 3)]
        made += [
            Explain(model="tiny-vit-cls", image=image, method={"rollout": {}}),
            Explain(model="tiny-resnet", image=image, method={"grad_cam": {}}),
            Explain(model="tiny-vit-cls", image=image, method={"attention_relevance": {}}),
            Pair(model="tiny-vit", query=image, candidates=near),
            Embed(model="tiny-vit", images=[image, *near]),
        ]
        if i % 8 == 0:
            made += [
                Explain(model="tiny-resnet", image=image, method={"score_cam": {}}),
                Explain(model="tiny-vit", image=image, method={"occlusion": {}}),
            ]
    return made


def numbers(answer: Any) -> np.ndarray:
    """All values of an answer."""
    if hasattr(answer, "heatmap"):
        return array(answer.heatmap.values).ravel()
    parts = []
    for result in answer.results:
        if result.WhichOneof("outcome") == "embedding":
            parts.append(array(result.embedding))
        else:
            assert result.WhichOneof("outcome") == "match", result
            parts += [[result.match.similarity], array(result.match.query.heatmap.values)]
    return np.concatenate([np.ravel(part) for part in parts])


class Storm:
    """Calls of one server, most of which are given up.

    Attributes:
        cancelled: How many were.
        answers: The requests that were answered, with the answers.
        failures: Statuses of calls that failed.
        opened: Files and threads of the server, before and after.
        fresh, fresh_s: A call that came after all others, and how long it took.
    """

    def __init__(self, target: str, wanted: list[Any]):
        self.cancelled = 0
        self.answers: list[tuple[int, Any]] = []
        self.failures: list[str] = []
        self.opened: list[tuple[int, int]] = []
        self.fresh: Any = None
        self.fresh_s = 0.0
        self._target, self._wanted = target, wanted
        self._over = threading.Event()
        self._end = time.monotonic() + END_S

    def give_up(self, number: int) -> None:
        """Call, and give up, until that was done often enough."""
        chance = random.Random(number)
        with Caller(self._target, "storm") as caller:
            while self.cancelled < CANCELLED and time.monotonic() < self._end:
                if chance.random() < 0.1:
                    self._give_up_some(caller, chance)
                    continue
                index, policy = self._next(chance)
                future = caller.begin(self._request(index, policy))
                time.sleep(chance.uniform(0, LATEST_S))
                self._give_up(index, future)
        self._over.set()

    def _give_up_some(self, caller: Caller, chance: random.Random) -> None:
        """Begin calls that share a batch, which takes a while, and give up half of them."""
        indices = chance.sample(range(SLOW), 6)
        futures = [(i, caller.begin(self._request(i, BYPASS))) for i in indices]
        for index, future in futures[::2]:
            time.sleep(chance.uniform(0, LATEST_S))
            self._give_up(index, future)
        for index, future in futures[1::2]:
            self._note(index, future)

    def _give_up(self, index: int, future: Any) -> None:
        if future.cancel():
            self.cancelled += 1
        else:
            self._note(index, future)

    def go_on(self, number: int) -> None:
        """Call beside, and wait for each answer."""
        chance = random.Random(100 + number)
        with Caller(self._target, f"bystander-{number}") as caller:
            while not self._over.is_set():
                index, policy = self._next(chance)
                self._note(index, caller.begin(self._request(index, policy)))

    def _next(self, chance: random.Random) -> tuple[int, int]:
        return chance.randrange(len(self._wanted)), chance.choice((0, 0, 0, BYPASS, REFRESH))

    def _request(self, index: int, policy: int) -> Any:
        request = type(self._wanted[index])()
        request.CopyFrom(self._wanted[index])
        request.cache = policy
        return request

    def _note(self, index: int, future: Any) -> None:
        try:
            self.answers.append((index, future.result()))
        except grpc.RpcError as error:
            self.failures.append(str(error))


@pytest.fixture(scope="module")
def storm(fleet: Fleet) -> Storm:
    """The storm after it is over, and what the server had open before and after it."""
    target = fleet.first.target
    pictures = [unseen() for _ in range(48)]
    wanted = requests(pictures)
    with Caller(target, "storm") as caller:
        caller.upload(*pictures)
        # Connections to Redis, threads and whatever else is made at first use.
        for future in [caller.begin(request) for request in wanted[SLOW : SLOW + 20]]:
            future.result()
        made = Storm(target, wanted)
        made.opened.append(opened(fleet.first.process.pid))
        work = [lambda n=n: made.give_up(n) for n in range(THREADS)]
        work += [lambda n=n: made.go_on(n) for n in range(2)]
        with beside(work):
            pass
        made.fresh_s, made.fresh = fresh_call(caller)
        made.opened.append(opened(fleet.first.process.pid))
    return made


def opened(pid: int) -> tuple[int, int]:
    """How many files and threads a process has; 0 where that cannot be told."""
    folder = Path("/proc") / str(pid)
    if not folder.exists():
        return 0, 0
    return len(list((folder / "fd").iterdir())), len(list((folder / "task").iterdir()))


def fresh_call(caller: Caller) -> tuple[float, Any]:
    """A call about many new pictures, which takes all of the queue but a little."""
    images = [inline(unseen()) for _ in range(64)]
    begun = time.monotonic()
    answer = caller.send(Embed(model="tiny-vit", images=images))
    return time.monotonic() - begun, answer


def test_no_wrong_answer_reaches_anyone(fleet, storm):
    assert storm.cancelled >= CANCELLED
    assert not storm.failures, storm.failures[:3]
    assert len(storm.answers) > 50
    with Caller(fleet.first.target) as caller:
        asked = sorted({index for index, _ in storm.answers})
        right = {i: numbers(caller.send(storm._request(i, BYPASS))) for i in asked}
    # A wrong one would be seen: no two pictures have nearly the same.
    for one, other in itertools.pairwise(asked):
        if right[one].shape == right[other].shape:
            assert np.abs(right[one] - right[other]).max() > 1e-3 * np.abs(right[one]).max()
    for index, answer in storm.answers:
        scale = np.abs(right[index]).max()
        np.testing.assert_allclose(numbers(answer), right[index], atol=1e-4 * scale, rtol=0)


def test_the_queue_is_empty_afterwards(storm):
    """The last call has room only if all else gave its cost back: it takes 64 of the queue."""
    assert QUEUE - 64 < 4
    answer, seconds = storm.fresh, storm.fresh_s
    assert all(result.WhichOneof("outcome") == "embedding" for result in answer.results)
    assert answer.timing.cached_images == 0
    assert seconds < 3


def test_nothing_piles_up(storm):
    (files, threads), (files_after, threads_after) = storm.opened
    assert files_after <= files + 8
    assert threads_after <= threads + 4


def test_the_server_is_well(fleet, storm):
    assert storm.cancelled
    assert fleet.first.process.poll() is None
    log = fleet.first.read_log()
    assert "internal error" not in log, log
    assert "Traceback" not in log, log
