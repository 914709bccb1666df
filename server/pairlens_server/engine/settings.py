"""Bounds of batching."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class EngineSettings:
    """Bounds of batching; costs are in plain forward passes of one picture.

    Attributes:
        max_batch: Most cost of a batch; an entry that costs more runs alone.
        max_wait_s: Seconds that a batch that is not full waits for company on an idle device.
        max_queued: Cost that may wait; more is refused with QUEUE_FULL.
        probe_chunk: Changed copies of a picture that a probe runs before others may.
        max_loading: Pictures whose pixels are made at the same time; a little above the number
            of threads that make them.
    """

    max_batch: int = 16
    max_wait_s: float = 0.002
    max_queued: int = 512
    probe_chunk: int = 32
    max_loading: int = 16
