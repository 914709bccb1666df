"""How long work will take, from how long it took: medians of the last batches of each size."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections import deque
from collections.abc import Hashable
from statistics import median_low

_REMEMBERED = 9
_NEEDED = 3  # one slow batch among them, the first of a process say, changes nothing
_FRESH_S = 30.0
_NEARLY = 0.9
_MARGIN = 1.25
_MOST_SLOW = 2.0
_SAID = 256


class _Size:
    """Batches whose costs are about the same power of two.

    Attributes:
        units_s: Seconds per pass of the last of them.
        unit_s: Their median.
        last_s: When the last one ended.
    """

    __slots__ = ("last_s", "unit_s", "units_s")

    def __init__(self) -> None:
        self.units_s: deque[float] = deque(maxlen=_REMEMBERED)
        self.unit_s = 0.0
        self.last_s = -math.inf

    def is_known(self, now_s: float) -> bool:
        return len(self.units_s) >= _NEEDED and now_s - self.last_s <= _FRESH_S


class _Durations:
    """Of one model's batches.

    Attributes:
        sizes: By the power of two of their cost.
        spread: What the last of all sizes took, as a share of what was expected.
        slow: See `Estimates.slow_factor`.
    """

    __slots__ = ("_said", "_until_s", "sizes", "slow", "spread")

    def __init__(self) -> None:
        self.sizes: dict[int, _Size] = {}
        self.spread: deque[float] = deque(maxlen=4 * _REMEMBERED)
        self.slow = _MARGIN
        # What was said holds until a batch is measured or forgotten; it is asked for often.
        self._said: dict[float, float | None] = {}
        self._until_s = -math.inf

    def observe(self, cost: float, seconds: float, now_s: float) -> None:
        expected = self.seconds(cost, now_s)
        if expected:
            self.spread.append(seconds / expected)
            rank = len(self.spread) - 1 - len(self.spread) // 10
            self.slow = min(_MOST_SLOW, _MARGIN * max(1.0, sorted(self.spread)[rank]))
        size = self.sizes.setdefault(_size(cost), _Size())
        if now_s - size.last_s > _FRESH_S:
            size.units_s.clear()
        size.units_s.append(seconds / cost)
        size.unit_s = median_low(size.units_s)
        size.last_s = now_s
        self._until_s = -math.inf

    def seconds(self, cost: float, now_s: float) -> float | None:
        if now_s > self._until_s or len(self._said) > _SAID:
            self._said.clear()
            ends_s = (size.last_s + _FRESH_S for size in self.sizes.values())
            self._until_s = min((end_s for end_s in ends_s if end_s >= now_s), default=math.inf)
        if cost not in self._said:
            self._said[cost] = self._seconds(cost, now_s)
        return self._said[cost]

    def _seconds(self, cost: float, now_s: float) -> float | None:
        known = sorted(number for number, size in self.sizes.items() if size.is_known(now_s))
        if not known:
            return None
        wanted = _size(cost)
        place = bisect_left(known, wanted)
        if place == 0 or (place < len(known) and known[place] == wanted):
            return self.sizes[known[place]].unit_s * cost
        if place < len(known):
            return self._between(known[place - 1], known[place], cost)
        return self._between(known[0], known[-1], cost)

    def _between(self, low: int, high: int, cost: float) -> float:
        """On the line through two sizes, which goes on above them."""
        top_s = self.sizes[high].unit_s * 2.0**high
        slope = self.sizes[high].unit_s
        if low < high:
            bottom_s = self.sizes[low].unit_s * 2.0**low
            slope = min(slope, max(0.0, (top_s - bottom_s) / (2.0**high - 2.0**low)))
        return top_s + slope * (cost - 2.0**high)


class Estimates:
    """Seconds that batches of a model take on the device.

    A batch of one costs a GPU nearly what a batch of four does, so sizes are told apart. What
    was measured long ago is forgotten: a model whose requests are all refused because it was
    slow for a while would otherwise never be measured again.
    """

    def __init__(self) -> None:
        self._models: dict[Hashable, _Durations] = {}

    def observe(self, model: Hashable, cost: float, seconds: float, now_s: float) -> None:
        """Take note of a batch of a model that ran without failure.

        Args:
            model: Which.
            cost: Of the batch, in plain forward passes of one picture.
            seconds: That it took.
            now_s: When it ended.
        """
        self._models.setdefault(model, _Durations()).observe(cost, seconds, now_s)

    def seconds(self, model: Hashable, cost: float, now_s: float) -> float | None:
        """How long a batch would take; None while too few were measured lately.

        Sizes that were not measured themselves lie on lines between those that were.
        """
        durations = self._models.get(model)
        return None if durations is None else durations.seconds(cost, now_s)

    def slow_factor(self, model: Hashable) -> float:
        """What a batch may take, as a multiple of what is expected, all but very few times."""
        durations = self._models.get(model)
        return _MARGIN if durations is None else durations.slow

    def thrifty_cost(self, model: Hashable, most: float, now_s: float) -> float:
        """The least cost of a batch that wastes little of the device.

        It runs at 90 % or more of the passes per second of a batch of cost `most`: about 1
        where a pass takes as long in any batch, as on a CPU, and `most` while unknown.
        """
        best = self.seconds(model, most, now_s)
        if best is None:
            return most
        cost = 1.0
        while cost < most:
            seconds = self.seconds(model, cost, now_s)
            if seconds is not None and _NEARLY * seconds / cost <= best / most:
                return cost
            cost *= 2
        return most

    def forget(self, model: Hashable) -> None:
        """Forget a model's, as after its warm-up, whose passes are slow."""
        self._models.pop(model, None)


def _size(cost: float) -> int:
    return round(math.log2(cost))
