"""Threads that call a server without pause, and check each answer against what it should be."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from statistics import median

import grpc
from google.protobuf.message import Message

from tests.faults.calls import BYPASS, DEFAULT, REFRESH, Caller, content, is_warm

# Most calls may use what is cached; some run the model, and some write over what is there.
_POLICIES = (*[DEFAULT] * 4, BYPASS, REFRESH)


@dataclass(frozen=True, eq=False)
class Case:
    """A call, and what answers it.

    Attributes:
        name: For messages.
        request: Without a policy.
        expected: What `content` makes of the right answer.
    """

    name: str
    request: Message
    expected: bytes = b""

    def under(self, policy: int) -> Message:
        """The request under a policy."""
        request = type(self.request)()
        request.CopyFrom(self.request)
        request.cache = policy  # type: ignore[attr-defined]
        return request


@dataclass
class Report:
    """What calls came to.

    Attributes:
        failures: Of failed calls: the case and the status.
        wrong: Cases whose answer was another one.
        seconds: That each call took.
        cache_s: That each waited for Redis, as it says.
        warm: Answers for which no model ran.
    """

    failures: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    cache_s: list[float] = field(default_factory=list)
    warm: int = 0

    def check(self, *, slowest_s: float) -> None:
        """Nothing failed, all was right, and nothing took long."""
        assert not self.failures, self.failures[:3]
        assert not self.wrong, self.wrong[:3]
        assert max(self.seconds) < slowest_s

    @property
    def slowest_cache_s(self) -> float:
        return max(self.cache_s)

    @property
    def median_cache_s(self) -> float:
        return median(self.cache_s)


def answered(caller: Caller, cases: Sequence[Case]) -> list[Case]:
    """Cases with the answers that the server computes for them now, using no cache."""
    return [
        Case(case.name, case.request, content(caller.send(case.under(BYPASS)))) for case in cases
    ]


def all_warm(caller: Caller, cases: Sequence[Case]) -> bool:
    """Call each case once; whether no model ran for any. All answers must be right."""
    answers = [caller.send(case.under(DEFAULT)) for case in cases]
    for case, answer in zip(cases, answers, strict=True):
        assert content(answer) == case.expected, case.name
    return all(map(is_warm, answers))


@contextmanager
def load(target: str, cases: Sequence[Case], threads: int = 3, seed: int = 0) -> Iterator[Report]:
    """Call a server on some threads until the block ends; the report is whole then."""
    report = Report()
    stop = threading.Event()

    def work(number: int) -> None:
        order = random.Random(seed * 1000 + number)
        with Caller(target, f"load-{number}") as caller:
            while not stop.is_set():
                _one(caller, order.choice(cases), order.choice(_POLICIES), report)

    with beside([lambda n=n: work(n) for n in range(threads)]):
        try:
            yield report
        finally:
            stop.set()


def _one(caller: Caller, case: Case, policy: int, report: Report) -> None:
    begun = time.monotonic()
    try:
        answer = caller.send(case.under(policy))
    except grpc.RpcError as error:
        report.failures.append(f"{case.name}: {error}")
        return
    report.seconds.append(time.monotonic() - begun)
    report.cache_s.append(answer.timing.cache.ToNanoseconds() / 1e9)
    report.warm += is_warm(answer)
    if content(answer) != case.expected:
        report.wrong.append(case.name)


@contextmanager
def beside(work: Sequence[Callable[[], None]]) -> Iterator[None]:
    """Run functions on threads beside the block, which does not end before they do."""
    errors: list[BaseException] = []

    def guarded(function: Callable[[], None]) -> None:
        try:
            function()
        except BaseException as error:  # to be raised where the test sees it
            errors.append(error)

    threads = [threading.Thread(target=guarded, args=(function,)) for function in work]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        for thread in threads:
            thread.join()
    if errors:
        raise errors[0]
