"""An event loop whose time passes only when nothing else happens, and a device on it."""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Callable, Coroutine, Sequence
from concurrent.futures import Executor, Future
from typing import Any

import torch

from pairlens_server.engine.engine import Engine, EngineSettings
from pairlens_server.engine.entry import Chunk


class _Waits(selectors.SelectSelector):
    """Skips the time that a loop would sleep."""

    def __init__(self) -> None:
        super().__init__()
        self.now_s = 0.0

    def select(self, timeout: float | None = None) -> list[Any]:
        if timeout is None:
            raise RuntimeError("everybody waits and nothing will happen any more")
        self.now_s += max(0.0, timeout)
        return super().select(0)


class SimulatedLoop(asyncio.SelectorEventLoop):
    """Its clock starts at 0 and jumps to the next timer."""

    def __init__(self) -> None:
        self._waits = _Waits()
        super().__init__(self._waits)
        self._clock_resolution = 1e-9

    def time(self) -> float:
        return self._waits.now_s


def simulate(scenario: Callable[[], Coroutine[Any, Any, Any]]) -> Any:
    loop = SimulatedLoop()
    try:
        return loop.run_until_complete(scenario())
    finally:
        loop.close()


class SimulatedThread(Executor):
    """Takes one call after another, each for the seconds that it says it needs."""

    def __init__(self, seconds: Callable[..., float] = lambda *_: 0.0):
        self._seconds = seconds
        self._free_s = 0.0

    def submit(self, function: Callable[..., Any], /, *args: Any) -> Future[Any]:
        loop = asyncio.get_running_loop()
        future: Future[Any] = Future()
        self._free_s = max(loop.time(), self._free_s) + self._seconds(*args)

        def finish() -> None:
            try:
                future.set_result(function(*args))
            except Exception as error:
                future.set_exception(error)

        loop.call_at(self._free_s, finish)
        return future


class Model:
    """As much of a model as an engine looks at."""

    def __init__(self, name: str = "model"):
        self.name = name


class Work:
    """An activation that costs so much, and is answered with its own name."""

    def __init__(self, name: object = None, cost: float = 1.0):
        self.name = name
        self.cost = cost


class FakeBackend:
    """Answers each job with its own activations, and each chunk with its copies."""

    def __init__(self, models: Sequence[Model] = ()) -> None:
        self.batches: list[list[object]] = []
        self.chunks: list[tuple[object, int, int]] = []
        self.staged: list[int] = []
        self.error: Exception | None = None

    def facts(self, model: Model) -> None:
        raise NotImplementedError

    def cost(self, model: Model, activations: tuple[Work, ...]) -> float:
        return sum(work.cost for work in activations)

    def stage(self, model: Model, pixels: Sequence[torch.Tensor]) -> None:
        self.staged.append(len(pixels))

    def run(self, model: Model, jobs: Sequence[Any], staged: object = None) -> list[Any]:
        if self.error is not None:
            raise self.error
        self.batches.append([work.name for _, activations in jobs for work in activations])
        return [dict.fromkeys(activations, pixels) for pixels, activations in jobs]

    def run_chunk(self, model: Model, pixels: torch.Tensor, chunk: Chunk) -> Any:
        if self.error is not None:
            raise self.error
        self.chunks.append((chunk.probe, chunk.start, chunk.stop))
        return (torch.arange(chunk.start, chunk.stop).float(),)


class Bench:
    """An engine on a simulated device.

    Args:
        seconds: What a batch takes, from its cost.
        settings: Of the engine.
    """

    def __init__(self, seconds: Callable[[float], float], **settings: Any):
        self.backend = FakeBackend()
        self.device = SimulatedThread(lambda batch, _: seconds(batch.cost))
        self.engine = Engine(
            EngineSettings(**settings),
            make_backend=lambda _models: self.backend,
            device=self.device,
            stager=SimulatedThread(),
        )
        self.busy_s = 0.0

    async def start(self) -> Engine:
        # Loading and making the backend are calls of the same thread.
        seconds, self.device._seconds = self.device._seconds, lambda *_: 0.0
        await self.engine.start(lambda: [])
        self.device._seconds = seconds
        return self.engine


PIXELS = torch.zeros(1)
