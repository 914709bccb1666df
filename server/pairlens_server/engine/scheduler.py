"""Who is taken on, who is next, and when a batch is closed: policy without clock or device."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence

from pairlens_server.engine.deadlines import Deadlines
from pairlens_server.engine.entry import Batch, Entry, no_longer_served
from pairlens_server.engine.estimates import Estimates
from pairlens_server.engine.flows import Flow, Flows, Waiting
from pairlens_server.engine.forecast import Forecast
from pairlens_server.engine.settings import EngineSettings
from pairlens_server.errors import DeadlineUnreachableError, PairlensError, QueueFullError
from pairlens_server.models.loaded import LoadedModel

_EXPIRED = "the deadline passed before the device was free"
_TOO_SOON = "the deadline is sooner than the work could be done"


class Scheduler:
    """The queue. Every method takes the time and none waits.

    Args:
        settings: Bounds.
        refuse: Called with each entry that leaves after it was admitted without being run, and
            why.
    """

    def __init__(self, settings: EngineSettings, refuse: Callable[[Entry, PairlensError], None]):
        self._settings = settings
        self._refuse = refuse
        self._flows = Flows()
        self._waiting: Waiting = OrderedDict()  # whatever holds cost, in order of admission
        self._queued: Waiting = OrderedDict()  # what can run, in the order in which it could
        self._deadlines = Deadlines(self._waiting)
        self._number = 0
        self.forecast = Forecast(Estimates(), settings.max_batch)

    @property
    def queued_cost(self) -> float:
        """Cost of all that waits or has its pixels made."""
        return self._flows.backlog

    def __len__(self) -> int:
        return len(self._waiting)

    def waiting(self) -> Iterable[Entry]:
        """All that waits or has its pixels made, in order of admission."""
        return self._waiting.values()

    def admit(self, entry: Entry, now_s: float) -> None:
        """Take an entry on, whose pixels may still have to be made: its cost is reserved.

        What costs more than there is room for is taken when nothing else waits. A client that
        has less waiting than another gets room at the expense of what that one asked last.

        Raises:
            QueueFullError: Too much waits.
            DeadlineUnreachableError: The deadline passed, or passes before the entry, with the
                rest of its probe, would be done.
        """
        entry.admitted_s = now_s
        entry.loading = len(self._waiting) - len(self._queued)
        self._check_deadline(entry, now_s)
        if not entry.begun:
            self._make_room(entry, now_s)
        self._number += 1
        entry.number = self._number
        self._waiting[entry.number] = entry
        self._flows.add(entry)
        self._deadlines.add(entry)

    def ready(self, entry: Entry, now_s: float, *, made: bool = True) -> None:
        """Have an admitted entry wait for the device; its pixels are there.

        Args:
            entry: Which.
            now_s: The time.
            made: Whether they had to be made, so that it tells how long that takes.
        """
        entry.queued_s = now_s
        if made and not entry.begun:
            self.forecast.pace.made(now_s - entry.admitted_s, entry.loading)
        self._queued[entry.number] = entry
        self._flows.ready(entry)

    def leave(self, entry: Entry) -> None:
        """Give back what an entry holds; nothing if it holds nothing (any more)."""
        if self._waiting.pop(entry.number, None) is not None:
            self._queued.pop(entry.number, None)
            self._flows.remove(entry)

    def forget(self, models: Sequence[LoadedModel]) -> None:
        """Let go of models, and turn away whoever still waits for one."""
        for entry in [entry for entry in self._waiting.values() if entry.model in models]:
            self._turn_away(entry, no_longer_served(entry.model))
        for model in models:
            self._flows.forget(model)
            self.forecast.forget(model)

    def expire(self, now_s: float) -> None:
        """Refuse whatever waits although its deadline has passed."""
        while (entry := self._deadlines.expired(now_s)) is not None:
            self._give_up(entry, _EXPIRED, now_s)

    def next_deadline(self) -> float | None:
        """When `expire` has something to do again."""
        return self._deadlines.next()

    def closes_at(self, now_s: float, *, idle: bool) -> float | None:
        """When the next batch should be taken; a time that has passed means now.

        On an idle device: when it is full, when its oldest entry has waited for company long
        enough, or when more waiting would cost an entry its deadline. Behind a batch that
        runs: when it is full and it is time to prepare it; it would only lose company before.

        Returns:
            None when that depends on what comes.
        """
        lead = self._flows.lead()
        head = lead.head() if lead is not None else None
        if head is None:
            return None
        if head.chunk is not None:
            # Nothing to prepare, and whoever comes while the device is busy may go first.
            return now_s if idle else None
        group = self._flows.groups[head.model]
        if max(head.cost, group.pictures) >= self._settings.max_batch:
            return now_s if idle else self.forecast.prepare_at(now_s)
        if not idle:
            return None
        wait_s = self._settings.max_wait_s
        closes_s = next(iter(self._queued.values())).queued_s + wait_s
        deadline_s = self.next_deadline()
        if deadline_s is not None:
            needed_s = self.forecast.slow_seconds(head.model, group.pictures, now_s)
            closes_s = min(closes_s, deadline_s - needed_s - wait_s)
        return closes_s

    def take(self, now_s: float) -> Batch | None:
        """Form the next batch: the entry that is next, and others of its model while they fit.

        Entries that can no longer be done in time are refused first. No deadline makes a batch
        so small that it wastes the device while others wait.

        Returns:
            None when nothing can run.
        """
        while (lead := self._flows.lead()) is not None:
            head, start, flows = lead.head(), lead.start, self._flows.running
            assert head is not None
            if not self._is_wanted(head, now_s):
                continue
            if head.chunk is not None:
                members = [head]
                self._serve(head)
            else:
                members = self._fill(head, now_s)
            batch = Batch(tuple(members))
            self._flows.advance(start, batch.cost, flows)
            self.forecast.begin(batch, now_s)
            return batch
        return None

    def still_wanted(self, batch: Batch, now_s: float) -> Batch | None:
        """What of a batch that was prepared ahead should run, now that it can."""
        needed_s = self.forecast.slow_seconds(batch.model, batch.cost, now_s)
        kept: list[Entry] = []
        for entry in batch.entries:
            if entry.abandoned:
                continue
            if entry.deadline_s is not None and entry.deadline_s <= now_s + needed_s:
                self._give_up(entry, _TOO_SOON, now_s)
            else:
                kept.append(entry)
        if len(kept) == len(batch.entries):
            return batch
        return Batch(tuple(kept)) if kept else None

    def finished(self, batch: Batch, seconds: float | None, now_s: float) -> None:
        """Take note that the batch that was taken first is no longer run.

        Args:
            batch: What ran of it.
            seconds: That it took; None when that says nothing, as after a failure.
            now_s: The time.
        """
        self.forecast.end(batch, seconds, now_s)
        if seconds is not None:
            self.forecast.learn(batch.entries, now_s)
        if not self._waiting and not self.forecast.busy:
            # Nobody is owed anything where there is enough for all.
            self._flows = Flows()
            self._deadlines.clear()

    def drain(self) -> list[Entry]:
        """Take everything that waits or has its pixels made."""
        waiting = list(self._waiting.values())
        self._waiting.clear()
        self._queued.clear()
        self._flows = Flows()
        self._deadlines.clear()
        return waiting

    def _check_deadline(self, entry: Entry, now_s: float) -> None:
        if entry.deadline_s is None:
            return
        if entry.deadline_s <= now_s:
            raise DeadlineUnreachableError(_EXPIRED)
        flow = self._flows.of(entry.client, entry.model)
        if not self.forecast.promises(entry, self._flows, flow, now_s):
            raise DeadlineUnreachableError(_TOO_SOON)

    def _make_room(self, entry: Entry, now_s: float) -> None:
        over = self._over(entry)
        if over > 0:
            self.expire(now_s)
            over = self._over(entry)
        if over <= 0:
            return
        own = self._flows.of(entry.client, entry.model).backlog + entry.cost
        flow = self._flows.largest(own)
        if flow is None or min(flow.backlog - own, flow.backlog - flow.begun) < over:
            raise self._full(over, now_s)
        for victim in flow.newest(over):
            self._turn_away(victim, self._full(over, now_s))

    def _over(self, entry: Entry) -> float:
        """Cost that is too much if an entry is taken on."""
        if not self._waiting:
            return 0.0
        return self._flows.backlog + entry.cost - self._settings.max_queued

    def _full(self, over: float, now_s: float) -> QueueFullError:
        return QueueFullError(
            f"work of {self._settings.max_queued} forward passes waits for the device already",
            retry_after_s=self.forecast.retry_s(over, self._flows, now_s),
        )

    def _is_wanted(self, entry: Entry, now_s: float) -> bool:
        """Whether an entry can run; it has left otherwise."""
        if entry.abandoned:
            self.leave(entry)
            return False
        mates = self._flows.groups[entry.model].pictures
        if self.forecast.is_reachable(entry, mates, now_s):
            return True
        self._give_up(entry, _TOO_SOON, now_s)
        return False

    def _fill(self, head: Entry, now_s: float) -> list[Entry]:
        """Take a picture and others of its model, flow by flow in order of their tags."""
        group = self._flows.groups[head.model]
        members: list[Entry] = []
        cost, deadline_s = 0.0, math.inf
        passed: list[tuple[Flow, int]] = []
        while cost < self._settings.max_batch and len(passed) <= self._settings.max_batch:
            first = group.first()
            if first is None:
                break
            flow, entry = first[-1], first[-1].first_picture()
            if entry is None or (members and cost + entry.cost > self._settings.max_batch):
                group.unlist()
                passed.append((flow, first[2]))
                continue
            if entry is not head and not self._is_wanted(entry, now_s):
                continue
            own_s = math.inf if entry.deadline_s is None else entry.deadline_s
            nearest_s = min(deadline_s, own_s)
            joined = cost + entry.cost
            if members and self.forecast.is_late(head.model, joined, nearest_s, now_s):
                break
            group.unlist()
            self._serve(entry)
            members.append(entry)
            cost, deadline_s = joined, nearest_s
            following = flow.head()
            if following is not None:
                group.list(flow, following.number)
        for flow, number in passed:
            group.list(flow, number)
        return members

    def _serve(self, entry: Entry) -> None:
        del self._waiting[entry.number]
        del self._queued[entry.number]
        self._flows.serve(entry)

    def _give_up(self, entry: Entry, why: str, now_s: float) -> None:
        self.forecast.missed(entry, now_s)
        self._turn_away(entry, DeadlineUnreachableError(why))

    def _turn_away(self, entry: Entry, error: PairlensError) -> None:
        self.leave(entry)
        self._refuse(entry, error)
