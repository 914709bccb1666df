"""Timing of a call's stages."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from pairlens_server.service.commands import Timings
from pairlens_server.service.recorded import PictureRecording


class Stopwatch:
    """Measures named stages of one call, from its construction on."""

    def __init__(self) -> None:
        self._started_s = time.perf_counter()
        self._stages: dict[str, float] = {}

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Add the time of a block to a stage."""
        started_s = time.perf_counter()
        try:
            yield
        finally:
            spent = time.perf_counter() - started_s
            self._stages[name] = self._stages.get(name, 0.0) + spent

    def timings(self, recordings: Sequence[PictureRecording]) -> Timings:
        """Close the books; decoding includes preprocessing, and pictures overlap."""
        return Timings(
            total_s=time.perf_counter() - self._started_s,
            decode_s=self._stages.get("decode", 0.0),
            queue_s=max((r.queue_s for r in recordings), default=0.0),
            compute_s=max((r.compute_s for r in recordings), default=0.0),
            method_s=self._stages.get("method", 0.0),
            render_s=self._stages.get("render", 0.0),
            cached_images=sum(r.cached for r in recordings),
            images=len(recordings),
            cache_s=self._stages.get("cache", 0.0),
        )
