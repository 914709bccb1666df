"""The engine: admits pictures, batches them, and runs batches on the device thread."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import torch
from torch import Tensor

from pairlens_server.engine.entry import Chunk, Entry, ProbeRecording, Recording
from pairlens_server.engine.queue import BatchQueue
from pairlens_server.engine.worker import DeviceWorker
from pairlens_server.errors import DrainingError, NotReadyError, OutOfMemoryError
from pairlens_server.methods.catalogue import EXPLANATION_METHODS
from pairlens_server.models.loaded import LoadedModel
from pairlens_server.recording.activations import Activation
from pairlens_server.recording.facts import ModelFacts
from pairlens_server.recording.primitives import Embedding, Logits
from pairlens_server.recording.probes import Probe
from pairlens_server.recording.targets import ClassLogit, Similarity

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class EngineSettings:
    """Bounds of batching.

    Attributes:
        max_batch: Most pictures in one forward pass.
        max_wait_s: Seconds that a batch that is not full waits for company.
        max_queued: Pictures that may wait; one more is refused with QUEUE_FULL.
        probe_chunk: Changed copies of a picture that a probe runs before others may.
    """

    max_batch: int = 16
    max_wait_s: float = 0.002
    max_queued: int = 512
    probe_chunk: int = 32


class Engine:
    """One event-loop task forms batches; one thread owns models, hooks and device."""

    def __init__(self, settings: EngineSettings):
        self._settings = settings
        self._queue = BatchQueue(settings.max_queued)
        self._arrived = asyncio.Event()
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="device")
        self._worker: DeviceWorker | None = None
        self._models: tuple[LoadedModel, ...] = ()
        self._task: asyncio.Task[None] | None = None
        self._stopped = False

    async def start(self, load: Callable[[], Sequence[LoadedModel]]) -> tuple[LoadedModel, ...]:
        """Load the models on the device thread and begin to serve batches.

        Args:
            load: Called once, on the device thread.

        Returns:
            What `load` returned.
        """
        loop = asyncio.get_running_loop()
        self._models = tuple(await loop.run_in_executor(self._thread, load))
        self._worker = await loop.run_in_executor(self._thread, DeviceWorker, self._models)
        self._task = asyncio.create_task(self._serve(), name="engine")
        return self._models

    async def warm_up(self) -> None:
        """Run each model once with each of its methods, so that no caller pays for first use.

        A method that does not fit on the device is logged, and refused when it is called.

        Raises:
            OutOfMemoryError: A model does not fit by itself.
        """
        for model in self._models:
            facts = self.facts(model)
            size = (3, model.preprocessing.height, model.preprocessing.width)
            similarity = Similarity.to(torch.ones(1, facts.embedding_size))
            basic = [Embedding(), *([Logits()] if facts.classes else [])]
            await self.record(model, torch.zeros(size), basic)
            for method in EXPLANATION_METHODS:
                if method.refusal(facts):
                    continue
                target = ClassLogit(0) if method.takes_class and facts.classes else similarity
                wanted = method().resolve(facts).needs(facts, target)
                try:
                    await self.record(model, torch.zeros(size), wanted)
                except OutOfMemoryError:
                    _log.warning("%s does not fit on the device with %s", model.name, method.name)

    def facts(self, model: LoadedModel) -> ModelFacts:
        """What a model can give.

        Raises:
            NotReadyError: Before the models are loaded.
        """
        if self._worker is None:
            raise NotReadyError("the models are still loading")
        return self._worker.facts(model)

    @property
    def healthy(self) -> bool:
        """Whether batches are being served."""
        return self._task is not None and not self._task.done()

    async def record(
        self,
        model: LoadedModel,
        pixels: Tensor,
        activations: Sequence[Activation],
        *,
        deadline_s: float | None = None,
    ) -> Recording:
        """Record activations of one picture, sharing a pass with whoever else waits.

        Args:
            model: One of the loaded models.
            pixels: float32 [3, H, W] of the model's input size, normalised, on the CPU.
            activations: What to record.
            deadline_s: Event-loop time after which the work is not begun.

        Raises:
            QueueFullError: Too many pictures wait.
            DeadlineUnreachableError: The deadline passed first.
            OutOfMemoryError: The picture does not fit on the device, even alone.
            DrainingError: The engine has stopped.
        """
        return await self._enqueue(model, pixels, tuple(activations), deadline_s, None)

    async def probe(
        self,
        model: LoadedModel,
        pixels: Tensor,
        probe: Probe,
        *,
        deadline_s: float | None = None,
    ) -> ProbeRecording:
        """Run a probe chunk by chunk; whoever waits meanwhile gets the device in between.

        When the caller gives up, or the deadline passes, no further chunk runs.

        Args:
            model: One of the loaded models.
            pixels: float32, normalised, on the CPU: [3, H, W], or, where the probe says so,
                [pictures, 3, H, W]: one picture, or both of a pair.
            probe: What to ask.
            deadline_s: Event-loop time after which no chunk is begun.

        Raises:
            PairlensError: As `record`.
        """
        parts: list[Tensor] = []
        queue_s = compute_s = 0.0
        size = max(1, self._settings.probe_chunk // probe.weight)
        for start in range(0, probe.steps, size):
            chunk = Chunk(probe, start, min(start + size, probe.steps))
            recording = await self._enqueue(model, pixels, (), deadline_s, chunk)
            parts += recording.parts
            queue_s += recording.queue_s
            compute_s += recording.compute_s
        return ProbeRecording(probe.combine(parts), queue_s, compute_s)

    async def _enqueue(
        self,
        model: LoadedModel,
        pixels: Tensor,
        activations: tuple[Activation, ...],
        deadline_s: float | None,
        chunk: Chunk | None,
    ) -> Recording:
        if self._stopped:
            raise DrainingError("the server is stopping")
        if not self.healthy:
            raise NotReadyError("the engine is not running")
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Recording] = loop.create_future()
        entry = Entry(model, pixels, activations, future, loop.time(), deadline_s, chunk)
        self._queue.put(entry)
        self._arrived.set()
        return await future

    async def stop(self) -> None:
        """Finish the batch at hand, refuse what waits, and end the device thread."""
        self._stopped = True
        for entry in self._queue.drain():
            if not entry.future.done():
                entry.future.set_exception(DrainingError("the server is stopping"))
        self._arrived.set()
        if self._task is not None:
            # A task that died has said why already.
            await asyncio.gather(self._task, return_exceptions=True)
        self._thread.shutdown(wait=True)

    async def _serve(self) -> None:
        loop = asyncio.get_running_loop()
        while not self._stopped:
            await self._arrived.wait()
            waits = len(self._queue) < self._settings.max_batch
            if waits and not self._queue.full_batch_waits and not self._stopped:
                await asyncio.sleep(self._settings.max_wait_s)
            batch = self._queue.take(self._settings.max_batch, loop.time())
            if not len(self._queue):
                self._arrived.clear()
            if batch:
                try:
                    await self._run(batch)
                except Exception:
                    _log.exception("the device is broken; nothing more can run")
                    self._fail(batch)
                    raise

    def _fail(self, batch: Sequence[Entry]) -> None:
        for entry in (*batch, *self._queue.drain()):
            if not entry.future.done():
                entry.future.set_exception(NotReadyError("the device is broken"))

    async def _run_chunk(self, entry: Entry, chunk: Chunk) -> None:
        assert self._worker is not None
        loop = asyncio.get_running_loop()
        started_s = loop.time()
        outcome = await loop.run_in_executor(
            self._thread, self._worker.run_chunk, entry.model, entry.pixels, chunk
        )
        if entry.future.done():
            return
        if isinstance(outcome, Exception):
            entry.future.set_exception(outcome)
            return
        queue_s, compute_s = started_s - entry.admitted_s, loop.time() - started_s
        entry.future.set_result(Recording({}, queue_s, compute_s, 1, outcome))

    async def _run(self, batch: list[Entry]) -> None:
        if batch[0].chunk is not None:
            await self._run_chunk(batch[0], batch[0].chunk)
            return
        assert self._worker is not None
        loop = asyncio.get_running_loop()
        started_s = loop.time()
        jobs = [(entry.pixels, entry.activations) for entry in batch]
        outcomes = await loop.run_in_executor(self._thread, self._worker.run, batch[0].model, jobs)
        compute_s = loop.time() - started_s
        for entry, outcome in zip(batch, outcomes, strict=True):
            if entry.future.done():
                continue
            if isinstance(outcome, Exception):
                entry.future.set_exception(outcome)
            else:
                queue_s = started_s - entry.admitted_s
                entry.future.set_result(Recording(outcome, queue_s, compute_s, len(batch)))
