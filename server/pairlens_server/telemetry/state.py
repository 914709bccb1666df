"""Whether the server is alive and ready, as any thread may ask."""

from __future__ import annotations

import threading
import time
from enum import Enum

SILENT_S = 10.0
"""Seconds without a beat after which the event loop counts as hanging."""


class Phase(str, Enum):
    """Where a server is in its life."""

    LOADING = "loading"  # models load and warm up
    SERVING = "serving"
    DRAINING = "draining"  # it finishes what it has, and takes nothing new after a while
    DEAD = "dead"  # the engine can run nothing any more


class ServerState:
    """Written by the event loop, read by any thread: each value is replaced as a whole.

    Liveness says whether a new process would do better, readiness whether calls are welcome.
    Neither depends on Redis, whose loss costs time alone.

    Args:
        stall_s: Seconds that one batch may take.
    """

    def __init__(self, stall_s: float):
        self._stall_s = stall_s
        self._lock = threading.Lock()
        self._phase = Phase.LOADING
        self._beat_s: float | None = None
        self._batch_since_s: float | None = None
        self._broken = False

    @property
    def phase(self) -> Phase:
        """Where the server is in its life; it never goes back."""
        return self._phase

    @phase.setter
    def phase(self, phase: Phase) -> None:
        order = list(Phase)
        with self._lock:
            # A server that is told to stop while it warms up does not get ready after that.
            self._phase = max(self._phase, phase, key=order.index)

    def beat(self, *, running_s: float | None = None, broken: bool = False) -> None:
        """Say that the event loop runs.

        Args:
            running_s: Seconds that the batch on the device has run so far; None while it is idle.
            broken: Whether the device can run nothing any more.
        """
        now_s = time.monotonic()
        self._batch_since_s = None if running_s is None else now_s - running_s
        self._broken = broken
        self._beat_s = now_s

    def live(self, now_s: float | None = None) -> list[str]:
        """What a new process would mend; nothing while all is well.

        Args:
            now_s: On the clock of `time.monotonic`; by default the time it is.
        """
        now_s = time.monotonic() if now_s is None else now_s
        problems = []
        if self._broken or self._phase is Phase.DEAD:
            problems.append("the device can run nothing any more")
        # Nothing is said before the first beat, when there is no event loop to hang.
        beat_s, since_s = self._beat_s, self._batch_since_s
        if beat_s is not None and now_s - beat_s > SILENT_S:
            problems.append(f"the event loop has been silent for {now_s - beat_s:.0f} s")
        if since_s is not None and now_s - since_s > self._stall_s:
            problems.append(f"a batch has been on the device for {now_s - since_s:.0f} s")
        return problems

    def ready(self, now_s: float | None = None) -> str:
        """Why calls are not welcome; "" when they are.

        Args:
            now_s: As of `live`: whoever hangs answers none, whether or not somebody restarts it.
        """
        if self._broken:
            return Phase.DEAD.value
        problems = "\n".join(self.live(now_s))
        return problems if self._phase is Phase.SERVING else self._phase.value
