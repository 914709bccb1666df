from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from pairlens_server.engine.engine import Engine, EngineSettings
from pairlens_server.models.loaded import LoadedModel
from pairlens_server.recording.probes import Probe, ProbeModel
from tests.support import vit

WAIT_S = 20


class Gate:
    """Stands before every pass of a model: counts it, keeps it waiting, fails it."""

    def __init__(self, model: LoadedModel):
        self.batches: list[int] = []
        self.threads: set[int] = set()
        self.open = threading.Event()
        self.open.set()
        self.entered = threading.Event()
        self.error: Exception | None = None
        model.network.patch_embed.register_forward_pre_hook(self._pass)

    def reset(self) -> None:
        """Forget the passes with which an engine looks its models over."""
        self.batches.clear()
        self.threads.clear()
        self.entered.clear()

    def _pass(self, _module: torch.nn.Module, inputs: tuple[Tensor]) -> None:
        self.batches.append(len(inputs[0]))
        self.threads.add(threading.get_ident())
        self.entered.set()
        assert self.open.wait(WAIT_S)
        if self.error is not None:
            raise self.error


class Numbers(Probe):
    """Reads i from copy i, logs each run, and waits in copy `stop_at` to be let on."""

    def __init__(self, name: str, steps: int, log: list[object], stop_at: int | None = None):
        self._name = name
        self._steps = steps
        self._log = log
        self._stop_at = stop_at
        self.entered = threading.Event()
        self.open = threading.Event()

    @property
    def steps(self) -> int:
        return self._steps

    def run(self, model: ProbeModel, pixels: Tensor, start: int, stop: int) -> Tensor:
        self._log.append((self._name, start, stop))
        if self._stop_at is not None and start <= self._stop_at < stop:
            self.entered.set()
            assert self.open.wait(WAIT_S)
        return torch.arange(start, stop).float()

    def combine(self, parts: Sequence[Tensor]) -> Tensor:
        return torch.cat(list(parts))


@pytest.fixture
def gated() -> tuple[LoadedModel, Gate]:
    model = vit()
    return model, Gate(model)


async def started(model: LoadedModel, **settings: float) -> Engine:
    engine = Engine(EngineSettings(**settings))
    await engine.start(lambda: [model])
    return engine


async def until(event: threading.Event) -> None:
    assert await asyncio.get_running_loop().run_in_executor(None, event.wait, WAIT_S)
