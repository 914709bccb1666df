"""How far a run is: one line that is redrawn on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from typing import TextIO

_REDRAWN_EVERY_S = 0.2
_WRITTEN_EVERY_S = 10.0


class ProgressLine:
    """Writes how much is done, how fast, and how long the rest will take.

    Attributes:
        done, failed: Units of this run.
    """

    def __init__(
        self,
        what: str,
        total: int,
        resumed: int,
        stream: TextIO | None,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Begin to count.

        Args:
            what: Is done.
            total: Units of a complete evaluation.
            resumed: Of these, how many an earlier run did.
            stream: Where to write; None for nowhere.
            clock: Seconds.
        """
        self.done = self.failed = 0
        self._what, self._total, self._resumed = what, total, resumed
        self._stream, self._clock = stream, clock
        self._terminal = stream is not None and stream.isatty()
        self._begun = clock()
        self._last = self._begun if not self._terminal else -_REDRAWN_EVERY_S
        self._drawn = False

    def drop(self, units: int) -> None:
        """So many units will not be done."""
        self._total -= units

    def show(self, *, last: bool = False) -> None:
        """Write, unless that was just done.

        Args:
            last: Write in any case, and end the line.
        """
        if self._stream is None:
            return
        now = self._clock()
        if not last and now - self._last < (
            _REDRAWN_EVERY_S if self._terminal else _WRITTEN_EVERY_S
        ):
            return
        self._last = now
        text = self.text(now)
        if self._terminal:
            width = shutil.get_terminal_size().columns - 1
            self._stream.write(f"\r\x1b[2K{text[:width]}" + ("\n" if last else ""))
        else:
            self._stream.write(text + "\n")
        self._stream.flush()

    def text(self, now: float) -> str:
        """The line at a time of the clock."""
        finished = self._resumed + self.done
        parts = [f"{self._what}: {finished} of {self._total}"]
        if self._resumed:
            parts[0] += f" ({self._resumed} from before)"
        seconds = now - self._begun
        # Not of the first moment: a rate needs some time to be one.
        if self.done and seconds > 0.1:
            rate = self.done / seconds
            parts.append(f"{rate:.3g} per second")
            if finished < self._total:
                parts.append(f"{duration((self._total - finished) / rate)} left")
        if self.failed:
            parts.append(f"{self.failed} failed")
        return ", ".join(parts)


def duration(seconds: float) -> str:
    """A time for people: "42 s", "3 min 20 s", "5 h 12 min"."""
    whole = max(0, round(seconds))
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


class StepsLine:
    """Writes how far the work before a run is, step after step."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._what = ""
        self._line = ProgressLine("", 0, 0, None)

    def __call__(self, what: str, done: int, total: int) -> None:
        """Tell that so many of `total` units are done."""
        if what != self._what:
            self._what = what
            self._line = ProgressLine(what, total, 0, self._stream)
        self._line.done = done
        self._line.show(last=done == total)
