"""Timing of a call's stages, for its answer and for whoever watches the server."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from pairlens_server.service.commands import Timings
from pairlens_server.service.recorded import PictureRecording
from pairlens_server.telemetry.record import Stage, staged


class Stopwatch:
    """Measures named stages of one call, from its construction on."""

    def __init__(self) -> None:
        self._started_s = time.perf_counter()
        self._stages: dict[Stage, float] = {}

    @contextmanager
    def stage(self, stage: Stage) -> Iterator[None]:
        """Add the time of a block to a stage, of the answer and of the call's record."""
        started_s = time.perf_counter()
        try:
            with staged(stage):
                yield
        finally:
            spent = time.perf_counter() - started_s
            self._stages[stage] = self._stages.get(stage, 0.0) + spent

    def timings(self, recordings: Sequence[PictureRecording]) -> Timings:
        """Close the books; decoding includes preprocessing, and pictures overlap."""
        return Timings(
            total_s=time.perf_counter() - self._started_s,
            decode_s=self._stages.get(Stage.DECODE, 0.0),
            queue_s=max((r.queue_s for r in recordings), default=0.0),
            compute_s=max((r.compute_s for r in recordings), default=0.0),
            method_s=self._stages.get(Stage.METHOD, 0.0),
            render_s=self._stages.get(Stage.ENCODE, 0.0),
            cached_images=sum(r.cached for r in recordings),
            images=len(recordings),
            cache_s=self._stages.get(Stage.CACHE_GET, 0.0),
        )
