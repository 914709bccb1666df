"""What waits for the device, and what comes back from it."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from contextvars import Context, copy_context
from dataclasses import dataclass, field
from functools import cached_property

from torch import Tensor

from pairlens_server.errors import ModelNotFoundError
from pairlens_server.models.loaded import LoadedModel
from pairlens_server.recording.activations import Activation
from pairlens_server.recording.probes import Probe
from pairlens_server.telemetry.record import CallRecord, Interval, Stage, current_call


@dataclass(frozen=True, eq=False)
class Recording:
    """Activations of one picture.

    Attributes:
        values: float32 CPU tensors without a batch dimension, each owning its memory.
        parts: Of an entry with a chunk: its partial results, on the CPU.
        queue_s: Seconds from the moment its pixels were there to the start of the batch.
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

    @property
    def cost(self) -> float:
        """Plain forward passes of one picture that it takes."""
        return float((self.stop - self.start) * self.probe.weight)

    @property
    def remaining_cost(self) -> float:
        """The same of this chunk and all after it."""
        return float((self.probe.steps - self.start) * self.probe.weight)


@dataclass(eq=False)
class Entry:
    """One picture on its way to a forward pass, or a probe's pictures to a chunk of its passes.

    Attributes:
        model: The model to run.
        client: Who asks; what one client wants of one model is a flow of its own.
        cost: Plain forward passes of one picture that it takes, a multiple of 1/2.
        deadline_s: Event-loop time after which nobody waits, or None.
        future: Where the recording goes; done when nobody waits any more.
        activations: What to record, derived ones included.
        chunk: Of a probe, instead of activations; runs alone.
        pixels: float32 [3, H, W], normalised, on the CPU; with a chunk, what its probe
            takes, [pictures, 3, H, W] for some. None until they are there.
        number: Its place in the order of admission.
        admitted_s: Event-loop time at which it was admitted.
        forecast_s: Seconds that it was to take from then on; None while unknown.
        loading: How many had no pixels yet when it was admitted.
        queued_s: Event-loop time at which its pixels were there.
        call: For which it was made; told what the entry goes through.
        context: In which it was made, and its pixels are.
    """

    model: LoadedModel
    client: str
    cost: float
    deadline_s: float | None
    future: asyncio.Future[Recording]
    activations: tuple[Activation, ...] = ()
    chunk: Chunk | None = None
    pixels: Tensor | None = None
    number: int = 0
    admitted_s: float = 0.0
    forecast_s: float | None = None
    loading: int = 0
    queued_s: float = 0.0
    call: CallRecord | None = field(default_factory=current_call)
    context: Context = field(default_factory=copy_context)
    _interval: Interval | None = None

    def enter(self, stage: Stage | None) -> None:
        """Tell the call what the entry goes through from now on; None: nothing any more."""
        if self._interval is not None:
            self._interval.end()
            self._interval = None
        if self.call is not None and stage is not None:
            self._interval = self.call.begin(stage)

    @property
    def abandoned(self) -> bool:
        """Whether nobody waits for it any more."""
        return self.future.done()

    @property
    def begun(self) -> bool:
        """Whether it goes on with what has run in part; such an entry is never refused."""
        return self.chunk is not None and self.chunk.start > 0


@dataclass(frozen=True)
class BatchReport:
    """What ran on the device, for whoever watches it.

    Attributes:
        model: Name.
        pictures: That shared the pass; of a probe, its copies.
        cost: Plain forward passes of one picture.
        seconds: On the device thread.
        failures: Of the pictures, those that failed.
    """

    model: str
    pictures: int
    cost: float
    seconds: float
    failures: int


@dataclass(frozen=True)
class QueueReport:
    """What waits for the device, for whoever watches it.

    Attributes:
        cost: Plain forward passes of one picture that wait for each model, by its name, those of
            unmade pixels included.
        oldest_s: Seconds that the oldest has waited since it was admitted; 0 when nothing waits.
        running_s: Seconds that the batch on the device has run so far; None while it is idle.
    """

    cost: Mapping[str, float]
    oldest_s: float
    running_s: float | None

    @classmethod
    def of(cls, waiting: Iterable[Entry], now_s: float, running_s: float | None) -> QueueReport:
        """Of entries in order of their admission."""
        cost: dict[str, float] = {}
        oldest_s: float | None = None
        for entry in waiting:
            cost[entry.model.name] = cost.get(entry.model.name, 0.0) + entry.cost
            oldest_s = now_s - entry.admitted_s if oldest_s is None else oldest_s
        return cls(cost, oldest_s or 0.0, running_s)


def no_longer_served(model: LoadedModel) -> ModelNotFoundError:
    """The error of what asks for a model after it was let go of.

    It names a field, so that whoever shares the work, perhaps with another model of the same
    weights, tries for itself.
    """
    return ModelNotFoundError(f"{model.name} is no longer served", field="model")


@dataclass(frozen=True, eq=False)
class Batch:
    """Entries of one model that run together, or one entry with a chunk."""

    entries: tuple[Entry, ...]

    @property
    def model(self) -> LoadedModel:
        """Whose they are."""
        return self.entries[0].model

    @property
    def chunk(self) -> Chunk | None:
        """What runs instead of a recording."""
        return self.entries[0].chunk

    @cached_property
    def cost(self) -> float:
        """Plain forward passes of one picture."""
        return sum(entry.cost for entry in self.entries)
