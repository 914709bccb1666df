"""When to leave a failing Redis alone."""

from __future__ import annotations

from collections.abc import Callable


class Breaker:
    """Opens after failures in a row, for longer each time; a success closes it.

    Args:
        clock: Seconds, of any beginning.
        failures: How many in a row open it.
        first_s: Seconds that it stays open at first; doubled by each failed trial.
        longest_s: Bound of that.
    """

    def __init__(
        self,
        clock: Callable[[], float],
        failures: int = 5,
        first_s: float = 1.0,
        longest_s: float = 30.0,
    ):
        self._clock = clock
        self._most_failures = failures
        self._first_s = first_s
        self._longest_s = longest_s
        self._failures = 0
        self._pause_s = first_s
        self._until: float | None = None

    @property
    def closed(self) -> bool:
        """Whether all is well."""
        return self._until is None

    @property
    def rest_s(self) -> float:
        """Seconds until a trial is due; 0 when closed, or when it is."""
        return 0.0 if self._until is None else max(self._until - self._clock(), 0.0)

    @property
    def allows(self) -> bool:
        """Whether something may be tried: it is closed, or a trial is due."""
        return self.rest_s == 0.0

    def failed(self) -> bool:
        """Count a failure; whether it opened the breaker just now.

        One of something that began before it opened does not count while it is open.
        """
        if not self.allows:
            return False
        self._failures += 1
        if self._until is not None:
            self._pause_s = min(2 * self._pause_s, self._longest_s)
        elif self._failures < self._most_failures:
            return False
        opened = self._until is None
        self._until = self._clock() + self._pause_s
        return opened

    def trip(self) -> None:
        """Open it whatever was counted, if it is closed."""
        if self._until is None:
            self._until = self._clock() + self._pause_s

    def succeeded(self) -> bool:
        """Count a success; whether it closed the breaker just now.

        The next opening is as long as the last unless one more follows, so that what comes up only
        to fail again is left alone for longer and longer.
        """
        if not self.allows:
            return False
        self._failures = 0
        if self._until is None:
            self._pause_s = self._first_s
            return False
        self._until = None
        self._pause_s = min(2 * self._pause_s, self._longest_s)
        return True

    def hurry(self) -> None:
        """Make a trial due at once, since there is news."""
        if self._until is not None:
            self._until = self._clock()
