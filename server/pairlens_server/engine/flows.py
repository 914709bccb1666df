"""The order in which clients get the device: in fair shares of its work, not of its calls.

A *flow* is what one client wants of one model. Its head has a start tag, a virtual time, and
the least tag is next, as in start-time fair queueing (Goyal et al., SIGCOMM 1996, section 2): a
flow's next tag is later by the cost of what ran, and a flow that comes anew starts at the
present, which is the tag of what was last begun. So whoever asks little goes first.

If ever new clients came, the present would stand still there, and an older flow would wait for
ever. Therefore it is never far behind the virtual time of WF2Q+ (Bennett and Zhang, ToN 1997,
eq. 27), which goes on with the work done over the number of flows that wait.
"""

from __future__ import annotations

import heapq
from collections import OrderedDict
from collections.abc import Hashable

from pairlens_server.engine.entry import Entry

Waiting = OrderedDict[int, Entry]
"""Entries by number, in order; a plain dict finds its first slowly after many have left."""


class Flow:
    """What one client wants of one model, first come first served."""

    __slots__ = (
        "backlog",
        "begun",
        "chunks",
        "key",
        "lapsing",
        "listed",
        "loading",
        "pictures",
        "served",
        "start",
    )

    def __init__(self, key: tuple[str, Hashable], start: float):
        self.key = key
        self.start = start
        self.served = False
        self.loading: Waiting = OrderedDict()
        self.pictures: Waiting = OrderedDict()
        self.chunks: Waiting = OrderedDict()
        self.backlog = 0.0
        self.begun = 0.0  # of the backlog: what must not be pushed out
        self.listed = False
        self.lapsing = False

    def head(self) -> Entry | None:
        """The oldest entry that can run."""
        picture, chunk = self.first_picture(), next(iter(self.chunks.values()), None)
        if picture is None or chunk is None:
            return picture or chunk
        return picture if picture.number < chunk.number else chunk

    def first_picture(self) -> Entry | None:
        """The oldest that can share a batch."""
        return next(iter(self.pictures.values()), None)

    def newest(self, cost: float) -> list[Entry]:
        """What of so much cost may be pushed out, what has cost least so far first."""
        victims: list[Entry] = []
        for held in (self.loading, self.chunks, self.pictures):
            for entry in reversed(held.values()):
                if cost <= 0:
                    return victims
                if not entry.begun:
                    victims.append(entry)
                    cost -= entry.cost
        return victims

    def shelf(self, entry: Entry) -> Waiting:
        """Where an entry that can run waits."""
        return self.pictures if entry.chunk is None else self.chunks


class Group:
    """The flows of one model.

    Attributes:
        backlog: Cost of all that waits or has its pixels made.
        pictures: Cost of what can share a batch now.
        heap: Flows by start tag; those served before stand behind those that were not.
    """

    __slots__ = ("backlog", "heap", "pictures")

    def __init__(self) -> None:
        self.backlog = 0.0
        self.pictures = 0.0
        self.heap: list[tuple[float, bool, int, Flow]] = []

    def list(self, flow: Flow, number: int) -> None:
        """Put a flow that can run where its tag belongs."""
        if not flow.listed:
            flow.listed = True
            heapq.heappush(self.heap, (flow.start, flow.served, number, flow))

    def unlist(self) -> None:
        """Take the first flow out, to be listed again or not."""
        heapq.heappop(self.heap)[-1].listed = False

    def first(self) -> tuple[float, bool, int, Flow] | None:
        """The flow that is next among these, with its rank."""
        while self.heap:
            start, served, number, flow = self.heap[0]
            if not (flow.pictures or flow.chunks):
                self.unlist()
            elif (start, served) != (flow.start, flow.served):
                # It emptied and came back later.
                heapq.heapreplace(self.heap, (flow.start, flow.served, number, flow))
            else:
                return self.heap[0]
        return None


class Flows:
    """All flows, the virtual time, and what they hold.

    Attributes:
        now: Virtual time, in cost.
        backlog: Cost of all that waits or has its pixels made.
        active: Flows that have a share in it.
        running: Those of them with something that can run.
        groups: By model.
    """

    def __init__(self) -> None:
        self.now = 0.0
        self.backlog = 0.0
        self.active = 0
        self.running = 0
        self.groups: dict[Hashable, Group] = {}
        self._flows: dict[tuple[str, Hashable], Flow] = {}
        self._shared = 0.0  # virtual time of WF2Q+
        self._widest = 0.0  # cost of the dearest batch
        self._lapsing: list[tuple[float, int, Flow]] = []
        self._largest: Flow | None = None
        self._most = 0.0  # no flow's backlog is above it

    def __len__(self) -> int:
        return len(self._flows)

    def of(self, client: str, model: Hashable) -> Flow:
        """What a client wants of a model; a new flow, which is not kept, when that is nothing."""
        return self._flows.get((client, model)) or Flow((client, model), self.now)

    def add(self, entry: Entry) -> None:
        """Take an entry on whose pixels are not there yet."""
        flow = self.of(entry.client, entry.model)
        self._flows[flow.key] = flow
        flow.loading[entry.number] = entry
        if not flow.backlog:
            self.active += 1
        self._weigh(flow, entry, entry.cost)
        if flow.backlog > self._most:
            self._largest, self._most = flow, flow.backlog

    def ready(self, entry: Entry) -> None:
        """Have an entry wait for the device."""
        flow = self._flows[(entry.client, entry.model)]
        group = self.groups[entry.model]
        del flow.loading[entry.number]
        if not (flow.pictures or flow.chunks):
            self.running += 1
            if flow.start <= self.now:
                flow.start, flow.served = self.now, False
        flow.shelf(entry)[entry.number] = entry
        if entry.chunk is None:
            group.pictures += entry.cost
        group.list(flow, entry.number)

    def remove(self, entry: Entry) -> None:
        """Let go of an entry."""
        flow = self._flows[(entry.client, entry.model)]
        if flow.loading.pop(entry.number, None) is None:
            del flow.shelf(entry)[entry.number]
            if entry.chunk is None:
                self.groups[entry.model].pictures -= entry.cost
            if not (flow.pictures or flow.chunks):
                self.running -= 1
        self._weigh(flow, entry, -entry.cost)
        if not flow.backlog:
            self.active -= 1
            self._lapse(flow, entry.number)

    def serve(self, entry: Entry) -> None:
        """Let go of an entry that runs, and have its flow stand back by what it costs."""
        flow = self._flows[(entry.client, entry.model)]
        flow.start += entry.cost
        flow.served = True
        self.remove(entry)

    def advance(self, start: float, cost: float, flows: int) -> None:
        """Move virtual time on.

        Args:
            start: Tag of the flow that led a batch.
            cost: Of the batch.
            flows: That had something to run before it was taken.
        """
        self._shared = max(self._shared, start) + cost / flows
        self._widest = max(self._widest, cost)
        # Tags of flows that share the device differ by about as much anyway.
        self.now = max(self.now, start, self._shared - self._widest)
        while self._lapsing and self._lapsing[0][0] <= self.now:
            _, number, flow = heapq.heappop(self._lapsing)
            flow.lapsing = False
            if not flow.backlog:
                self._lapse(flow, number)

    def lead(self) -> Flow | None:
        """The flow that is next."""
        firsts = [first for group in self.groups.values() if (first := group.first())]
        return min(firsts)[-1] if firsts else None

    def forget(self, model: Hashable) -> None:
        """Let go of a model for which nothing waits: all that is kept of it holds on to it."""
        self.groups.pop(model, None)
        self._flows = {key: flow for key, flow in self._flows.items() if key[1] is not model}
        self._lapsing = [lapse for lapse in self._lapsing if lapse[-1].key[1] is not model]
        heapq.heapify(self._lapsing)
        self._largest = max(self._flows.values(), key=lambda flow: flow.backlog, default=None)
        self._most = 0.0 if self._largest is None else self._largest.backlog

    def largest(self, above: float) -> Flow | None:
        """A flow with a backlog above a cost, nearly always the one with most; or None."""
        if above >= self._most:
            return None
        if self._largest is None or self._largest.backlog <= above:
            self._largest = max(self._flows.values(), key=lambda flow: flow.backlog)
            self._most = self._largest.backlog
        return self._largest if self._largest.backlog > above else None

    def _weigh(self, flow: Flow, entry: Entry, cost: float) -> None:
        group = self.groups.get(entry.model)
        if group is None:
            group = self.groups[entry.model] = Group()
        flow.backlog += cost
        group.backlog += cost
        self.backlog += cost
        if entry.begun:
            flow.begun += cost

    def _lapse(self, flow: Flow, number: int) -> None:
        """Forget a flow that has nothing waiting, as soon as the others have caught up."""
        if flow.start <= self.now:
            self._flows.pop(flow.key, None)
        elif not flow.lapsing:
            flow.lapsing = True
            heapq.heappush(self._lapsing, (flow.start, number, flow))
