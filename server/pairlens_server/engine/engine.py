"""The engine: admits pictures, batches them, and runs batches on the device thread."""

from __future__ import annotations

import asyncio
import weakref
from collections.abc import Callable, Sequence
from concurrent.futures import Executor

import torch
from torch import Tensor, nn

from pairlens_server import torch_threads
from pairlens_server.allocator import give_back_freed_memory
from pairlens_server.engine.driver import Driver, Pixels
from pairlens_server.engine.entry import (
    BatchReport,
    Chunk,
    Entry,
    ProbeRecording,
    QueueReport,
    Recording,
)
from pairlens_server.engine.settings import EngineSettings
from pairlens_server.engine.worker import Backend, DeviceWorker
from pairlens_server.errors import DrainingError, NotReadyError
from pairlens_server.garbage import collect_all
from pairlens_server.models.loaded import LoadedModel
from pairlens_server.recording.activations import Activation
from pairlens_server.recording.facts import ModelFacts
from pairlens_server.recording.probes import Probe

__all__ = ["Engine", "EngineSettings", "Pixels"]


class Engine:
    """Callers come on the event loop; one thread owns models, hooks and device.

    Args:
        settings: Bounds of batching.
        make_backend: Makes what runs batches of the loaded models, on the device thread.
        device: Runs the backend, one call at a time; a thread of its own by default.
        stager: Prepares batches meanwhile; likewise.
        observe: Told of every batch that ran, on the event loop.
    """

    def __init__(
        self,
        settings: EngineSettings,
        *,
        make_backend: Callable[[Sequence[LoadedModel]], Backend] = DeviceWorker,
        device: Executor | None = None,
        stager: Executor | None = None,
        observe: Callable[[BatchReport], None] = lambda _: None,
    ):
        self._settings = settings
        self._observe = observe
        self._make_backend = make_backend
        self._device = device or torch_threads.pool(1, "device")
        self._stager = stager or torch_threads.pool(1, "staging")
        self._loading = torch_threads.pool(1, "loading")
        self._backend: Backend | None = None
        self._driver: Driver | None = None
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
        models = tuple(await loop.run_in_executor(self._device, load))
        self._backend = await loop.run_in_executor(self._device, self._make_backend, models)
        self._driver = Driver(
            self._settings, self._backend, self._device, self._stager, self.broken, self._observe
        )
        return models

    async def add(self, load: Callable[[], Sequence[LoadedModel]]) -> tuple[LoadedModel, ...]:
        """Load further models while batches are served, and make them ready to run.

        This is done on a thread of its own, since nobody else knows these models yet: batches
        share the machine with it, and wait for no step of it.

        Args:
            load: Called once, on that thread. What it raises is raised here.

        Returns:
            What `load` returned.

        Raises:
            PairlensError: As `record`.
        """
        backend = self._serving()

        def loaded() -> tuple[LoadedModel, ...]:
            models = tuple(load())
            backend.add(models)
            return models

        return await asyncio.get_running_loop().run_in_executor(self._loading, loaded)

    async def remove(self, models: list[LoadedModel]) -> None:
        """Let go of models that no call uses any more, and give back their memory.

        Args:
            models: Taken out of this list, since whoever holds on to one keeps its memory.
        """
        networks = [weakref.ref(model.network) for model in models]
        if self._driver is not None and self._backend is not None:
            self._driver.scheduler.forget(models)
            await self._on_device(self._backend.remove, tuple(models))
        models.clear()
        await self._on_device(_give_back, networks)

    def forget_speed(self, model: LoadedModel) -> None:
        """Forget how long a model takes, as after its first passes, which are slow."""
        if self._driver is not None:
            self._driver.scheduler.forecast.forget(model)

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

    def queue(self) -> QueueReport:
        """What waits and runs at this moment."""
        return QueueReport({}, 0.0, None) if self._driver is None else self._driver.queue()

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
        # Nobody waits for models that are still loading.
        self._loading.shutdown(wait=False)
        self._device.shutdown(wait=True)
        self._stager.shutdown(wait=True)

    def _serving(self) -> Backend:
        if self._stopped:
            raise DrainingError("the server is stopping")
        if self._backend is None or not self.healthy:
            raise NotReadyError("the engine is not running")
        return self._backend

    async def _on_device(self, function: Callable[..., None], *arguments: object) -> None:
        await asyncio.get_running_loop().run_in_executor(self._device, function, *arguments)

    async def _submit(self, entry: Entry, pixels: Pixels) -> Recording:
        assert self._driver is not None
        self._driver.submit(entry, pixels)
        return await entry.future


def _give_back(networks: Sequence[weakref.ref[nn.Module]]) -> None:
    # Of one that failed to run, the error's traceback holds on to it, and to itself. Not done
    # where nothing is left, as nearly always: it holds up all threads for up to half a second.
    if any(network() is not None for network in networks):
        collect_all()
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        torch.cuda.empty_cache()
    give_back_freed_memory()


def _future() -> asyncio.Future[Recording]:
    return asyncio.get_running_loop().create_future()
