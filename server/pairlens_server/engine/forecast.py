"""When work would be done: what runs, what is ahead of it, and how long it takes itself."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Hashable, Sequence

from pairlens_server.engine.entry import Batch, Entry
from pairlens_server.engine.estimates import Estimates
from pairlens_server.engine.flows import Flow, Flows
from pairlens_server.engine.hindsight import Hindsight, Pace
from pairlens_server.models.loaded import LoadedModel

_PREPARATION_S = 0.005  # to stack and copy 16 pictures takes about as long
_PREPARATION = 0.25
# Times what pixels take to be made as a rule: of many pictures nearly always, and of one.
_SLOWLY = 2.0
_TARDY = 3.0
_RETRY_S = (0.05, 5.0)
_RETRY_UNKNOWN_S = 0.5


class Forecast:
    """Estimates of when the device is free and when an entry would be done.

    Nothing is said, and so nothing refused, of a model that too little is known about.

    Args:
        estimates: Of batches; filled by `end`.
        max_batch: Cost of a full batch.

    Attributes:
        pace: At which pixels are made.
    """

    def __init__(self, estimates: Estimates, max_batch: float):
        self._estimates = estimates
        self._max_batch = max_batch
        self._flight: deque[float] = deque()  # seconds expected of what runs and is prepared
        self._started_s = 0.0
        self._hindsight = Hindsight()
        self.pace = Pace()

    @property
    def busy(self) -> bool:
        """Whether a batch runs or is prepared."""
        return bool(self._flight)

    def begin(self, batch: Batch, now_s: float) -> None:
        """A batch was taken; it runs at once or after the one that runs."""
        if not self._flight:
            self._started_s = now_s
        expected = self._estimates.seconds(batch.model, batch.cost, now_s)
        self._flight.append(expected or 0.0)

    def end(self, batch: Batch, seconds: float | None, now_s: float) -> None:
        """The batch that was taken first is over; see `Scheduler.finished`."""
        self._flight.popleft()
        self._started_s = now_s
        if seconds is not None:
            self._estimates.observe(batch.model, batch.cost, seconds, now_s)

    def prepare_at(self, now_s: float) -> float:
        """When to make the next batch ready: shortly before the device is free.

        Whoever comes until then can be in it, and whoever cannot wait any longer is known.
        """
        if not self._flight:
            return now_s
        seconds = self._flight[0]
        early_s = max(_PREPARATION_S, _PREPARATION * seconds)
        return max(now_s, self._started_s + seconds - early_s)

    def forget(self, model: Hashable) -> None:
        """Forget what was measured of a model."""
        self._estimates.forget(model)

    def promises(self, entry: Entry, flows: Flows, flow: Flow, now_s: float) -> bool:
        """Whether an entry that comes now will be done by its deadline, all but surely.

        Where nothing waits, it is tried: else one that is always refused could never show that
        it can be done by now.
        """
        done_s = self.done_at(entry, flows, flow, now_s)
        if done_s is None or entry.deadline_s is None:
            return True
        allowed_s, reserve = entry.deadline_s - now_s, 0.0
        if entry.chunk is None:
            if entry.loading:
                made_s = _SLOWLY * self.pace.seconds(entry.loading)
                done_s = max(done_s, now_s + made_s)
            entry.forecast_s = done_s - now_s
            if flows.backlog:
                reserve = self._hindsight.reserve(now_s)
        return done_s <= now_s + (1.0 - reserve) * allowed_s

    def learn(self, entries: Sequence[Entry], now_s: float) -> None:
        """Compare entries that are done with what was foreseen."""
        for entry in entries:
            if entry.forecast_s and entry.deadline_s is not None:
                allowed_s = entry.deadline_s - entry.admitted_s
                self._hindsight.took(now_s - entry.admitted_s, entry.forecast_s, allowed_s, now_s)

    def missed(self, entry: Entry, now_s: float) -> None:
        """The same for one that was admitted and cannot be done in time any more."""
        if entry.forecast_s and entry.deadline_s is not None:
            allowed_s = entry.deadline_s - entry.admitted_s
            self._hindsight.missed(entry.forecast_s, allowed_s, now_s)

    def slow_seconds(self, model: LoadedModel, cost: float, now_s: float) -> float:
        """What a batch takes at most, nearly always; 0 while unknown."""
        seconds = self._estimates.seconds(model, cost, now_s) or 0.0
        return seconds * self._estimates.slow_factor(model)

    def is_reachable(self, entry: Entry, mates: float, now_s: float) -> bool:
        """Whether an entry that is next can be done in time.

        It must be in time in a batch of a size that wastes little, as far as there is company
        for one, lest few in a hurry slow down many.

        Args:
            entry: Which; a chunk counts with the rest of its probe.
            mates: Cost of the company that it may have, its own included.
            now_s: The time.
        """
        if entry.deadline_s is None:
            return True
        if entry.deadline_s <= now_s:
            return False
        if entry.chunk is None and mates > entry.cost:
            thrifty = self._estimates.thrifty_cost(entry.model, self._max_batch, now_s)
            cost = max(entry.cost, min(mates, thrifty))
            return not self.is_late(entry.model, cost, entry.deadline_s, now_s)
        cost = entry.cost if entry.chunk is None else entry.chunk.remaining_cost
        seconds = self._estimates.seconds(entry.model, cost, now_s) or 0.0
        return self._free_s(now_s) + seconds <= entry.deadline_s

    def is_late(self, model: LoadedModel, cost: float, deadline_s: float, now_s: float) -> bool:
        """Whether a batch that is next might not be done by a deadline, if it is slow."""
        return self._free_s(now_s) + self.slow_seconds(model, cost, now_s) >= deadline_s

    def done_at(self, entry: Entry, flows: Flows, flow: Flow, now_s: float) -> float | None:
        """When an entry would be done if it came now; None while unknown.

        Args:
            entry: Which; a chunk counts with the rest of its probe, for which alone others are
                reckoned with once it has begun, since it is not sure to wait for them.
            flows: What waits.
            flow: The entry's own.
            now_s: The time.
        """
        cost = entry.chunk.remaining_cost if entry.chunk is not None else entry.cost
        own = self._estimates.seconds(entry.model, cost, now_s)
        if own is None:
            return None
        free_s = self._free_s(now_s)
        if entry.begun or not flows.backlog:
            return free_s + own
        share = self._ahead(cost, flows, flow) / flows.backlog
        seconds = 0.0
        mine = cost
        for model, group in flows.groups.items():
            if not group.backlog:
                continue
            if model is entry.model:
                before = share * group.backlog
                if self._leaves_behind(entry, now_s):
                    full = min(self._max_batch, group.backlog)
                    seconds += self._estimates.seconds(model, full, now_s) or 0.0
                    before = max(0.0, before - full)
                mine += before
            else:
                full = min(self._max_batch, group.backlog)
                seconds += share * group.backlog * self._unit_seconds(model, full, now_s)
        seconds += self._in_batches(entry.model, mine, now_s)
        return free_s + self._estimates.slow_factor(entry.model) * seconds

    def retry_s(self, cost: float, flows: Flows, now_s: float) -> float:
        """Seconds after which one may come again that so much less has to wait for."""
        seconds = self._drain_seconds(cost, flows, now_s)
        return min(max(seconds, _RETRY_S[0]), _RETRY_S[1]) if seconds else _RETRY_UNKNOWN_S

    def _drain_seconds(self, cost: float, flows: Flows, now_s: float) -> float:
        """Seconds until so much less waits; 0 while unknown."""
        waiting = flows.backlog
        if not waiting:
            return 0.0
        seconds = sum(
            group.backlog * self._unit_seconds(model, min(self._max_batch, group.backlog), now_s)
            for model, group in flows.groups.items()
            if group.backlog > 0
        )
        return seconds * min(1.0, cost / waiting)

    def _free_s(self, now_s: float) -> float:
        """When what was taken is done; what is late is taken to be done at any moment."""
        if not self._flight:
            return now_s
        running, *prepared = self._flight
        return max(now_s, self._started_s + running) + sum(prepared)

    def _ahead(self, cost: float, flows: Flows, flow: Flow) -> float:
        """Cost that runs before an entry: fair shares up to its tag, at most all that waits.

        Batches of other models are filled beyond it.
        """
        until = max(0.0, flow.start - flows.now) + flow.backlog + cost
        others = sum(
            self._max_batch
            for model, group in flows.groups.items()
            if group.backlog and model is not flow.key[1]
        )
        return min(flows.backlog, (flows.active + 1) * until + others)

    def _leaves_behind(self, entry: Entry, now_s: float) -> bool:
        """Whether the next batch is taken before the entry's pixels are there."""
        if entry.chunk is not None or len(self._flight) != 1:
            return False
        ready_s = now_s + _TARDY * self.pace.seconds(entry.loading)
        return ready_s > self.prepare_at(now_s)

    def _unit_seconds(self, model: Hashable, cost: float, now_s: float) -> float:
        """Seconds per pass in a batch of that cost; 0 while unknown."""
        return (self._estimates.seconds(model, cost, now_s) or 0.0) / cost

    def _in_batches(self, model: LoadedModel, cost: float, now_s: float) -> float:
        """Seconds of so much of one model's work, the last batch being as full as the others."""
        seconds = self._estimates.seconds(model, min(cost, self._max_batch), now_s) or 0.0
        return seconds * max(1, math.ceil(cost / self._max_batch))
