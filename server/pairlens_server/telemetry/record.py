"""What one call tells of itself while it goes through the server.

The record is in a context variable, so that whatever works for the call, tasks of its own
included, can write into it without knowing who reads it: metrics, logs and traces do, once the
call has ended. Used by the event loop alone; a leaf, which all layers may import.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from enum import Enum
from operator import attrgetter
from typing import Any, NamedTuple

_START = attrgetter("start_s")

UNKNOWN = "unknown"
"""Stands for a model or a method that a request names and that is none, so that the values of
a label are bounded, whatever strangers ask for."""


class Stage(str, Enum):
    """What a call does, one name for metrics, logs and traces; `STAGES` says what each is."""

    CACHE_GET = "cache_get"
    DECODE = "decode"
    QUEUE = "queue"
    COMPUTE = "compute"
    CACHE_PUT = "cache_put"
    METHOD = "method"
    ENCODE = "encode"


STAGES = {
    Stage.CACHE_GET: "looking up activations and files, in memory and in Redis",
    Stage.DECODE: "decoding and preprocessing pictures, and waiting for the threads that do",
    Stage.QUEUE: "waiting for the device, the pictures ready",
    Stage.COMPUTE: "on the device, in the batch that the call's pictures are in",
    Stage.CACHE_PUT: "packing and keeping values; Redis gets activations later, in the background",
    Stage.METHOD: "turning activations into maps, or copies' scores into metrics",
    Stage.ENCODE: "drawing, and making the answer's bytes",
}
"""What a call does in each stage."""


@dataclass(eq=False, slots=True)
class Interval:
    """When a stage ran.

    Attributes:
        stage: Which.
        start_s: On the clock of `time.perf_counter`.
        end_s: Likewise; None while it runs.
    """

    stage: Stage
    start_s: float
    end_s: float | None = None

    def end(self) -> None:
        """Write down that it is over; nothing when that was done."""
        if self.end_s is None:
            self.end_s = time.perf_counter()


@dataclass(eq=False)
class _Ride:
    """A call's wait for work that is done once for several calls."""

    work: CallRecord
    since_s: float
    until_s: float | None = None


class Run(NamedTuple):
    """A stage without a pause, overlaps of the call's pictures counted once."""

    stage: Stage
    start_s: float
    end_s: float


@dataclass(eq=False)
class CallRecord:
    """Of one call.

    Attributes:
        rpc: "/pairlens.v1.Service/Method".
        request_id: As the caller named it, or made by the server.
        client: Whom its token or certificate names; "" where it came without.
        caller: For the log: `client`, or what an unnamed client calls itself, or "".
        peer: The host that it came from.
        model: Served model; "" where the request names none, `UNKNOWN` where that is none.
        method: Explanation or pair method; likewise.
        reason: Of the error; "" on success, and where the caller gave up.
        metadata: As they came, for the propagation of traces. They may hold a token: shown nowhere.
        started_s: On the clock of `time.perf_counter`.
        intervals: Stages, which may overlap: pictures of a call are worked on side by side.
        rides: Waits for work that is done once for several calls.
        is_over: Whether it has ended. What it has set off may go on in its context for hours, and
            is no longer its.
    """

    rpc: str
    request_id: str
    client: str = ""
    caller: str = ""
    peer: str = ""
    model: str = ""
    method: str = ""
    reason: str = ""
    metadata: Sequence[tuple[str, Any]] = field(default=(), repr=False)
    started_s: float = field(default_factory=time.perf_counter)
    intervals: list[Interval] = field(default_factory=list)
    rides: list[_Ride] = field(default_factory=list)
    is_over: bool = False

    def begin(self, stage: Stage) -> Interval:
        """Write down that a stage begins; who does so ends it."""
        interval = Interval(stage, time.perf_counter())
        self.intervals.append(interval)
        return interval

    def shared(self) -> CallRecord:
        """The record of work that is begun for this call, and that other calls may come to want."""
        return dataclasses.replace(self, intervals=[], rides=[])

    @contextmanager
    def riding(self, works: Iterable[CallRecord]) -> Iterator[None]:
        """Count the stages of shared work as this call's own while it waits for that work.

        Whoever came later has waited for the same pass as who came first: its stages then add up
        to where its time went. Summed over calls they are thus not the device's time; that is
        told by batch.
        """
        rides = [_Ride(work, time.perf_counter()) for work in works]
        self.rides += rides
        try:
            yield
        finally:
            now_s = time.perf_counter()
            for ride in rides:
                ride.until_s = now_s

    def runs(self, now_s: float) -> list[Run]:
        """When which stage ran from the call's start until now, in order of their beginnings.

        Args:
            now_s: On the clock of `time.perf_counter`; stages that still run are cut there.
        """
        runs = _cut(self.intervals, self.started_s, now_s)
        for ride in self.rides:
            until_s = now_s if ride.until_s is None else min(ride.until_s, now_s)
            runs += _cut(ride.work.intervals, ride.since_s, until_s)
        runs.sort(key=_START)
        return _joined(runs)

    def seconds(self, now_s: float) -> dict[Stage, float]:
        """Time in which each stage ran until now, overlaps counted once: at most the call's own."""
        return seconds_of(self.runs(now_s))


def seconds_of(runs: Iterable[Run]) -> dict[Stage, float]:
    """How long each stage ran in all."""
    spent: dict[Stage, float] = {}
    for run in runs:
        spent[run.stage] = spent.get(run.stage, 0.0) + run.end_s - run.start_s
    return spent


def _cut(intervals: Iterable[Interval], since_s: float, until_s: float) -> list[Run]:
    """What of some intervals lies within a time."""
    runs = []
    for interval in intervals:
        end_s = interval.end_s
        start_s = max(interval.start_s, since_s)
        end_s = until_s if end_s is None else min(end_s, until_s)
        if start_s <= end_s:
            runs.append(Run(interval.stage, start_s, end_s))
    return runs


def _joined(runs: Iterable[Run]) -> list[Run]:
    """Runs in order of their beginnings, those of a stage that overlap as one."""
    joined: list[Run] = []
    last: dict[Stage, int] = {}
    for run in runs:
        place = last.get(run.stage)
        if place is not None and run.start_s <= joined[place].end_s:
            if run.end_s > joined[place].end_s:
                joined[place] = joined[place]._replace(end_s=run.end_s)
            continue
        last[run.stage] = len(joined)
        joined.append(run)
    return joined


CURRENT: ContextVar[CallRecord | None] = ContextVar("pairlens_call", default=None)
"""The call that is worked for; None outside of calls."""


def current_call() -> CallRecord | None:
    """The call that is worked for; None outside of calls."""
    return CURRENT.get()


def name_call(*, model: str | None = None, method: str | None = None) -> None:
    """Write down which model or method a call is about, now that it is known to be real."""
    record = CURRENT.get()
    if record is not None:
        record.model = record.model if model is None else model
        record.method = record.method if method is None else method


@contextmanager
def staged(stage: Stage) -> Iterator[None]:
    """Add the time of a block to a stage of the current call."""
    record = CURRENT.get()
    if record is None:
        yield
        return
    interval = record.begin(stage)
    try:
        yield
    finally:
        interval.end()
