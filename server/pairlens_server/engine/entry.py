"""What waits for the device, and what comes back from it."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from pairlens_server.models.loaded import LoadedModel
from pairlens_server.recording.activations import Activation
from pairlens_server.recording.probes import Probe


@dataclass(frozen=True, eq=False)
class Recording:
    """Activations of one picture.

    Attributes:
        values: float32 CPU tensors without a batch dimension, each owning its memory.
        parts: Of an entry with a chunk: its partial results, on the CPU.
        queue_s: Seconds from admission to the start of the batch.
        compute_s: Seconds that the batch took on the device thread.
        batch_size: Pictures that shared the pass.
    """

    values: Mapping[Activation, Tensor]
    queue_s: float
    compute_s: float
    batch_size: int
    parts: tuple[Tensor, ...] = ()


@dataclass(frozen=True, eq=False)
class ProbeRecording:
    """What a probe came to.

    Attributes:
        result: float32, on the CPU.
        queue_s: Seconds that its chunks waited, together.
        compute_s: Seconds on the device thread.
    """

    result: Tensor
    queue_s: float
    compute_s: float


@dataclass(frozen=True, eq=False)
class Chunk:
    """Copies start..stop-1 of a probe."""

    probe: Probe
    start: int
    stop: int


@dataclass(frozen=True, eq=False)
class Entry:
    """One picture waiting for a forward pass, or a probe's pictures for a chunk of its passes.

    Attributes:
        model: The model to run.
        pixels: float32 [3, H, W], normalised, on the CPU; with a chunk, what its probe
            takes, [pictures, 3, H, W] for some.
        activations: What to record, derived ones included.
        future: Where the recording goes; done when nobody waits any more.
        admitted_s: Event-loop time of admission.
        deadline_s: Event-loop time after which nobody waits, or None.
        chunk: Of a probe, instead of activations; runs alone.
    """

    model: LoadedModel
    pixels: Tensor
    activations: tuple[Activation, ...]
    future: asyncio.Future[Recording]
    admitted_s: float
    deadline_s: float | None
    chunk: Chunk | None = None
