"""Moves entries from callers to the device and back: all the waiting that the scheduler has not."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from functools import partial
from typing import Any

from torch import Tensor

from pairlens_server.engine.entry import Batch, BatchReport, Entry, QueueReport, Recording
from pairlens_server.engine.loads import Loads, Make
from pairlens_server.engine.scheduler import Scheduler
from pairlens_server.engine.settings import EngineSettings
from pairlens_server.engine.staging import Staged
from pairlens_server.engine.worker import Backend, Recorded
from pairlens_server.errors import DrainingError, NotReadyError, PairlensError
from pairlens_server.telemetry.record import Stage

_log = logging.getLogger(__name__)

Pixels = Tensor | Make
"""What a model sees of a picture, or how to get it: not called before there is room for it."""

Outcome = Recorded | tuple[Tensor, ...] | Exception

_Ran = tuple[Sequence[Outcome], float]
"""What became of a batch's entries, and the seconds on the device, the way back left out."""


@dataclass(eq=False)
class _Ahead:
    """A batch that is prepared while another runs.

    Attributes:
        batch: Which.
        staged: Its pictures, or nothing where that failed; not done while they are made ready.
    """

    batch: Batch
    staged: asyncio.Future[Staged | None]


class Driver:
    """Runs on the event loop; has no task of its own, so that there is none to fall asleep.

    Whatever happens (an arrival, a batch that is done, a time that has come) leads to `_pump`,
    which does all that can be done then.

    Args:
        settings: Bounds of batching.
        backend: Runs batches.
        device: Its one thread.
        stager: The thread that prepares batches.
        broken: Set when nothing can run any more.
        observe: Told of every batch that ran.
    """

    def __init__(
        self,
        settings: EngineSettings,
        backend: Backend,
        device: Executor,
        stager: Executor,
        broken: asyncio.Event,
        observe: Callable[[BatchReport], None] = lambda _: None,
    ):
        self.scheduler = Scheduler(settings, _refuse)
        self._backend = backend
        self._device = device
        self._stager = stager
        self._loop = asyncio.get_running_loop()
        self._observe = observe
        self._running: asyncio.Future[_Ran] | None = None
        self._began_s = 0.0
        self._ahead: _Ahead | None = None
        self._loads = Loads(settings.max_loading, self._ready)
        self._pumping = False
        self._timer: asyncio.TimerHandle | None = None
        self._stopped = False
        self._broken = broken

    def submit(self, entry: Entry, pixels: Pixels) -> None:
        """Admit an entry and have its pixels made, if they are not there yet.

        Raises:
            QueueFullError, DeadlineUnreachableError: As `Scheduler.admit`.
        """
        self.scheduler.admit(entry, self._loop.time())
        # The one way in which an entry gives back what it holds, however it ends.
        entry.future.add_done_callback(partial(self._left, entry))
        if isinstance(pixels, Tensor):
            self._ready(entry, pixels, made=False)
        else:
            self._loads.add(entry, pixels)
            if entry.deadline_s is not None:
                self._wake()  # to have a timer set

    def queue(self) -> QueueReport:
        """What waits and runs at this moment."""
        now_s = self._loop.time()
        running_s = None if self._running is None else now_s - self._began_s
        return QueueReport.of(self.scheduler.waiting(), now_s, running_s)

    async def stop(self) -> None:
        """Finish the batch at hand and refuse all else."""
        self._stopped = True
        self._refuse_all(DrainingError("the server is stopping"))
        if self._timer is not None:
            self._timer.cancel()
        under_way: list[asyncio.Future[Any]] = [*self._loads.under_way()]
        if self._running is not None:
            under_way.append(self._running)
        if self._ahead is not None:
            under_way.append(self._ahead.staged)
        # What fails of these has been told to whom it concerns.
        await asyncio.gather(*under_way, return_exceptions=True)

    def _ready(self, entry: Entry, pixels: Tensor, *, made: bool = True) -> None:
        entry.pixels = pixels
        self.scheduler.ready(entry, self._loop.time(), made=made)
        entry.enter(Stage.QUEUE)
        self._wake()

    def _left(self, entry: Entry, future: asyncio.Future[Recording]) -> None:
        entry.enter(None)
        self.scheduler.leave(entry)
        self._loads.drop(entry)
        if not future.cancelled():
            # A caller that left at the same moment would leave it to be logged.
            future.exception()

    def _wake(self) -> None:
        """Pump soon: after all others that are about to arrive at this moment."""
        if not self._pumping:
            self._pumping = True
            self._loop.call_soon(self._pump)

    def _pump(self) -> None:
        self._pumping = False
        if self._stopped or self._broken.is_set():
            return
        try:
            now_s = self._loop.time()
            self.scheduler.expire(now_s)
            if self._running is None:
                self._feed(now_s)
            if self._running is not None and self._ahead is None:
                self._prepare(now_s)
            self._set_timer(now_s)
        except Exception as error:
            self._break(error)

    def _feed(self, now_s: float) -> None:
        """Give an idle device something to do."""
        if self._ahead is not None:
            if not self._ahead.staged.done():
                return
            ahead, self._ahead = self._ahead, None
            batch = self.scheduler.still_wanted(ahead.batch, now_s)
            if batch is not None:
                self._run(batch, _of(ahead, batch), now_s)
                return
            self.scheduler.finished(ahead.batch, None, now_s)
        closes_s = self.scheduler.closes_at(now_s, idle=True)
        if closes_s is not None and closes_s <= now_s:
            taken = self.scheduler.take(now_s)
            if taken is not None:
                self._run(taken, None, now_s)

    def _prepare(self, now_s: float) -> None:
        """Make the next batch ready while one runs, if it would not grow any more."""
        closes_s = self.scheduler.closes_at(now_s, idle=False)
        if closes_s is None or closes_s > now_s:
            return
        batch = self.scheduler.take(now_s)
        if batch is None:
            return
        pixels = [_pixels(entry) for entry in batch.entries] if batch.chunk is None else []
        staged: asyncio.Future[Staged | None] = self._loop.run_in_executor(
            self._stager, self._backend.stage, batch.model, pixels
        )
        self._ahead = _Ahead(batch, staged)
        staged.add_done_callback(lambda _: self._wake())

    def _set_timer(self, now_s: float) -> None:
        """Come back when a batch closes by time, or something expires."""
        times = [self.scheduler.next_deadline()]
        if self._ahead is None:
            times.append(self.scheduler.closes_at(now_s, idle=self._running is None))
        due_s = min((time for time in times if time is not None), default=None)
        if due_s is None:
            return
        if self._timer is not None and not self._timer.cancelled():
            if now_s < self._timer.when() <= due_s:
                return
            self._timer.cancel()
        self._timer = self._loop.call_at(due_s, self._wake)

    def _run(self, batch: Batch, staged: Staged | None, now_s: float) -> None:
        self._began_s = now_s
        for entry in batch.entries:
            entry.enter(Stage.COMPUTE)
        self._running = self._loop.run_in_executor(self._device, self._compute, batch, staged)
        self._running.add_done_callback(partial(self._ran, batch, now_s))

    def _compute(self, batch: Batch, staged: Staged | None) -> _Ran:
        """On the device thread."""
        began_s = time.perf_counter()
        outcomes: list[Outcome]
        if batch.chunk is not None:
            pixels = _pixels(batch.entries[0])
            outcomes = [self._backend.run_chunk(batch.model, pixels, batch.chunk)]
        else:
            jobs = [(_pixels(entry), entry.activations) for entry in batch.entries]
            outcomes = list(self._backend.run(batch.model, jobs, staged))
        return outcomes, time.perf_counter() - began_s

    def _ran(self, batch: Batch, started_s: float, future: asyncio.Future[_Ran]) -> None:
        self._running = None
        error = future.exception()
        if error is not None:
            self._break(error, batch.entries)
            return
        try:
            self._settle(batch, started_s, future.result())
        except Exception as bug:
            self._break(bug, batch.entries)

    def _settle(self, batch: Batch, started_s: float, ran: _Ran) -> None:
        """Go on after a batch, and tell its callers."""
        now_s, (outcomes, seconds) = self._loop.time(), ran
        sound = not any(isinstance(outcome, Exception) for outcome in outcomes)
        self.scheduler.finished(batch, now_s - started_s if sound else None, now_s)
        self._pump()  # the device first: callers take longer to be told
        self._observe(_report(batch, seconds, outcomes))
        for entry, outcome in zip(batch.entries, outcomes, strict=True):
            if not entry.future.done():
                _tell(entry, outcome, started_s, now_s, len(batch.entries))

    def _break(self, error: BaseException, entries: Sequence[Entry] = ()) -> None:
        _log.error("the device is broken; nothing more can run", exc_info=error)
        self._broken.set()
        self._refuse_all(NotReadyError("the device is broken"), entries)

    def _refuse_all(self, error: PairlensError, entries: Sequence[Entry] = ()) -> None:
        prepared = self._ahead.batch.entries if self._ahead is not None else ()
        for entry in (*entries, *prepared, *self.scheduler.drain()):
            _refuse(entry, type(error)(error.message))


def _report(batch: Batch, seconds: float, outcomes: Sequence[Outcome]) -> BatchReport:
    chunk = batch.chunk
    return BatchReport(
        model=batch.model.name,
        pictures=len(batch.entries) if chunk is None else chunk.stop - chunk.start,
        cost=batch.cost,
        seconds=seconds,
        failures=sum(isinstance(outcome, Exception) for outcome in outcomes),
    )


def _refuse(entry: Entry, error: PairlensError) -> None:
    if not entry.future.done():
        entry.future.set_exception(error)


def _pixels(entry: Entry) -> Tensor:
    assert entry.pixels is not None
    return entry.pixels


def _of(ahead: _Ahead, batch: Batch) -> Staged | None:
    """What was prepared, cut to those that are left."""
    staged = ahead.staged.result()
    if staged is not None and batch is not ahead.batch:
        place = {entry.number: row for row, entry in enumerate(ahead.batch.entries)}
        staged.rows = tuple(place[entry.number] for entry in batch.entries)
    return staged


def _tell(entry: Entry, outcome: Outcome, started_s: float, now_s: float, size: int) -> None:
    if isinstance(outcome, Exception):
        entry.future.set_exception(outcome)
        return
    values = {} if isinstance(outcome, tuple) else outcome
    parts = outcome if isinstance(outcome, tuple) else ()
    queue_s, compute_s = started_s - entry.queued_s, now_s - started_s
    entry.future.set_result(Recording(values, queue_s, compute_s, size, parts))
