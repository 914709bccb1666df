"""The engine: admits pictures, batches them, and runs batches on the device thread."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor

import torch
from torch import Tensor

from pairlens_server.engine.driver import Driver, Pixels
from pairlens_server.engine.entry import Chunk, Entry, ProbeRecording, Recording
from pairlens_server.engine.settings import EngineSettings
from pairlens_server.engine.worker import Backend, DeviceWorker
from pairlens_server.errors import DrainingError, NotReadyError, OutOfMemoryError
from pairlens_server.methods.catalogue import EXPLANATION_METHODS
from pairlens_server.models.loaded import LoadedModel
from pairlens_server.recording.activations import Activation
from pairlens_server.recording.facts import ModelFacts
from pairlens_server.recording.primitives import Embedding, Logits
from pairlens_server.recording.probes import Probe
from pairlens_server.recording.targets import ClassLogit, Similarity

__all__ = ["Engine", "EngineSettings", "Pixels"]

_log = logging.getLogger(__name__)


class Engine:
    """Callers come on the event loop; one thread owns models, hooks and device.

    Args:
        settings: Bounds of batching.
        make_backend: Makes what runs batches of the loaded models, on the device thread.
        device: Runs the backend, one call at a time; a thread of its own by default.
        stager: Prepares batches meanwhile; likewise.
    """

    def __init__(
        self,
        settings: EngineSettings,
        *,
        make_backend: Callable[[Sequence[LoadedModel]], Backend] = DeviceWorker,
        device: Executor | None = None,
        stager: Executor | None = None,
    ):
        self._settings = settings
        self._make_backend = make_backend
        self._device = device or ThreadPoolExecutor(1, thread_name_prefix="device")
        self._stager = stager or ThreadPoolExecutor(1, thread_name_prefix="staging")
        self._backend: Backend | None = None
        self._driver: Driver | None = None
        self._models: tuple[LoadedModel, ...] = ()
        self._stopped = False
        self.broken = asyncio.Event()
        """Set once the device can run nothing any more; the process should end then."""

    async def start(self, load: Callable[[], Sequence[LoadedModel]]) -> tuple[LoadedModel, ...]:
        """Load the models on the device thread and begin to serve batches.

        Args:
            load: Called once, on the device thread.

        Returns:
            What `load` returned.
        """
        loop = asyncio.get_running_loop()
        self._models = tuple(await loop.run_in_executor(self._device, load))
        self._backend = await loop.run_in_executor(self._device, self._make_backend, self._models)
        self._driver = Driver(
            self._settings, self._backend, self._device, self._stager, self.broken
        )
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
        if self._driver is not None:
            # First passes are slow, and no measure of those to come.
            self._driver.scheduler.forecast.forget()

    def facts(self, model: LoadedModel) -> ModelFacts:
        """What a model can give.

        Raises:
            NotReadyError: Before the models are loaded.
        """
        if self._backend is None:
            raise NotReadyError("the models are still loading")
        return self._backend.facts(model)

    @property
    def healthy(self) -> bool:
        """Whether batches are being served."""
        return self._driver is not None and not self._stopped and not self.broken.is_set()

    @property
    def max_queued(self) -> int:
        """Bound of `queued_cost`."""
        return self._settings.max_queued

    @property
    def queued_cost(self) -> float:
        """Plain forward passes of one picture that wait, those of unmade pixels included."""
        return 0.0 if self._driver is None else self._driver.scheduler.queued_cost

    async def record(
        self,
        model: LoadedModel,
        pixels: Pixels,
        activations: Sequence[Activation],
        *,
        deadline_s: float | None = None,
        client: str = "",
    ) -> Recording:
        """Record activations of one picture, sharing a pass with whoever else waits.

        Args:
            model: One of the loaded models.
            pixels: float32 [3, H, W] of the model's input size, normalised, on the CPU; or
                what makes them, which is called once there is room for the picture, cancelled
                when nobody waits any more, and whose errors are raised here.
            activations: What to record.
            deadline_s: Event-loop time after which the work is not begun.
            client: Who asks; clients share the device fairly.

        Raises:
            QueueFullError: Too much waits, or another client with less of it needed the room.
            DeadlineUnreachableError: The deadline passed first, or would have.
            OutOfMemoryError: The picture does not fit on the device, even alone.
            DrainingError: The engine has stopped.
        """
        wanted = tuple(activations)
        cost = self._serving().cost(model, wanted)
        entry = Entry(model, client, cost, deadline_s, _future(), wanted)
        return await self._submit(entry, pixels)

    async def probe(
        self,
        model: LoadedModel,
        pixels: Pixels,
        probe: Probe,
        *,
        deadline_s: float | None = None,
        client: str = "",
    ) -> ProbeRecording:
        """Run a probe chunk by chunk; whoever waits meanwhile gets the device in between.

        When the caller gives up, or the deadline passes or cannot be met any more, no further
        chunk runs.

        Args:
            model: One of the loaded models.
            pixels: As in `record`; or, where the probe says so, [pictures, 3, H, W]: one
                picture, or both of a pair.
            probe: What to ask.
            deadline_s: Event-loop time after which no chunk is begun.
            client: Who asks.

        Raises:
            PairlensError: As `record`.
        """
        parts: list[Tensor] = []
        queue_s = compute_s = 0.0
        size = max(1, self._settings.probe_chunk // probe.weight)
        for start in range(0, probe.steps, size):
            self._serving()
            chunk = Chunk(probe, start, min(start + size, probe.steps))
            entry = Entry(model, client, chunk.cost, deadline_s, _future(), chunk=chunk)
            recording = await self._submit(entry, pixels)
            assert entry.pixels is not None
            pixels = entry.pixels
            parts += recording.parts
            queue_s += recording.queue_s
            compute_s += recording.compute_s
        return ProbeRecording(probe.combine(parts), queue_s, compute_s)

    async def stop(self) -> None:
        """Finish the batch at hand, refuse what waits, and end the threads."""
        self._stopped = True
        if self._driver is not None:
            await self._driver.stop()
        self._device.shutdown(wait=True)
        self._stager.shutdown(wait=True)

    def _serving(self) -> Backend:
        if self._stopped:
            raise DrainingError("the server is stopping")
        if self._backend is None or not self.healthy:
            raise NotReadyError("the engine is not running")
        return self._backend

    async def _submit(self, entry: Entry, pixels: Pixels) -> Recording:
        assert self._driver is not None
        self._driver.submit(entry, pixels)
        return await entry.future


def _future() -> asyncio.Future[Recording]:
    return asyncio.get_running_loop().create_future()
