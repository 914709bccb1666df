"""How far forecasts were off, seen afterwards.

A forecast knows neither who comes later and goes first, nor how long pixels take to be made,
nor who else uses the machine. All that shows in what admitted work took.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import deque
from statistics import median_low

_REMEMBERED = 4096
_FRESH_S = 30.0
# Above the 99th percentile that is to be in time: with just that, it would be in time by luck.
_RANK = 0.995
_MOST = 0.5
_MISSED = 1.2
_LOADS = 31


class Hindsight:
    """What has to be kept of the time that work is allowed, so that nearly all is in time."""

    def __init__(self) -> None:
        self._seen: deque[tuple[float, float]] = deque()  # when, and how far
        self._shares: list[float] = []  # how far, in order

    def took(self, seconds: float, forecast_s: float, allowed_s: float, now_s: float) -> None:
        """Take note of an entry that was done.

        Args:
            seconds: From its admission.
            forecast_s: What had been foreseen, without any reserve.
            allowed_s: Until its deadline.
            now_s: The time.
        """
        share = (seconds - forecast_s) / allowed_s
        self._seen.append((now_s, share))
        insort(self._shares, share)
        if len(self._seen) > _REMEMBERED:
            self._forget()

    def missed(self, forecast_s: float, allowed_s: float, now_s: float) -> None:
        """Take note of an entry that was given up: it would have taken more than allowed."""
        self.took(_MISSED * allowed_s, forecast_s, allowed_s, now_s)

    def reserve(self, now_s: float) -> float:
        """A share of the time allowed, 0 to 0.5; 0 when nothing was seen lately."""
        while self._seen and now_s - self._seen[0][0] > _FRESH_S:
            self._forget()
        if not self._shares:
            return 0.0
        place = min(len(self._shares) - 1, int(_RANK * len(self._shares)))
        return min(_MOST, max(0.0, self._shares[place]))

    def _forget(self) -> None:
        _, share = self._seen.popleft()
        del self._shares[bisect_left(self._shares, share)]


class Pace:
    """How fast pixels are made, where pictures wait for that."""

    def __init__(self) -> None:
        self._seen: deque[float] = deque(maxlen=_LOADS)
        self._each_s = 0.0

    def made(self, seconds: float, before: int) -> None:
        """Take note of a picture whose pixels were there so long after it was admitted.

        Args:
            seconds: From its admission.
            before: Pictures whose pixels were not there when it came.
        """
        self._seen.append(seconds / (before + 1))
        self._each_s = median_low(self._seen)

    def seconds(self, before: int) -> float:
        """Until the pixels of a picture that comes now are there."""
        return self._each_s * (before + 1)
