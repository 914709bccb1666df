"""Activations of a picture: from the cache when all are there, else from the engine."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import TypeVar

from torch import Tensor

from pairlens.rendering import GridGeometry
from pairlens_server.cache.keys import activation_key
from pairlens_server.cache.memory import ActivationCache
from pairlens_server.engine.engine import Engine
from pairlens_server.images.admission import ImageLimits, Picture, decode
from pairlens_server.images.preprocess import grid_geometry, input_pixels
from pairlens_server.models.loaded import LoadedModel
from pairlens_server.recording.activations import Activation

Result = TypeVar("Result")


@dataclass(frozen=True, eq=False)
class PictureRecording:
    """Activations of one picture and where they came from.

    Attributes:
        values: float32 CPU tensors without a batch dimension.
        cached: Whether all of them were in the cache.
        preprocess_s, queue_s, compute_s: Seconds; 0 when cached.
    """

    values: Mapping[Activation, Tensor]
    cached: bool
    preprocess_s: float = 0.0
    queue_s: float = 0.0
    compute_s: float = 0.0


class PictureRecorder:
    """Decodes pictures and gets their activations; image work runs on a small pool."""

    def __init__(self, engine: Engine, cache: ActivationCache, pool: Executor, limits: ImageLimits):
        self._engine = engine
        self._cache = cache
        self._pool = pool
        self._limits = limits

    async def run(self, function: Callable[..., Result], *arguments: object) -> Result:
        """Run a function on the image pool."""
        return await asyncio.get_running_loop().run_in_executor(self._pool, function, *arguments)

    async def decode(self, data: bytes, field: str) -> Picture:
        """Admit and decode an encoded file.

        Raises:
            ImageUndecodableError: Names `field`.
            ImageTooLargeError: Names `field` and the limit.
        """
        return await self.run(decode, data, self._limits, field)

    def geometry(self, model: LoadedModel, picture: Picture) -> GridGeometry:
        """Where the cells of a model's maps lie on a picture."""
        return grid_geometry(picture.height, picture.width, model.preprocessing, model.layout)

    async def record(
        self,
        model: LoadedModel,
        picture: Picture,
        activations: Sequence[Activation],
        deadline_s: float | None,
    ) -> PictureRecording:
        """Get activations of a picture; no forward pass runs when all are cached.

        Raises:
            PairlensError: As `Engine.record`.
        """
        keys = {a: activation_key(model, a, picture.sha256) for a in activations}
        cached = {
            a: value for a, key in keys.items() if (value := self._cache.get(key)) is not None
        }
        missing = [a for a in keys if a not in cached]
        if not missing:
            return PictureRecording(cached, cached=True)
        loop = asyncio.get_running_loop()
        started_s = loop.time()
        pixels = await self.run(input_pixels, picture, model.preprocessing)
        preprocess_s = loop.time() - started_s
        recording = await self._engine.record(model, pixels, missing, deadline_s=deadline_s)
        self._cache.put({keys[a]: value for a, value in recording.values.items()})
        return PictureRecording(
            {**cached, **recording.values},
            cached=False,
            preprocess_s=preprocess_s,
            queue_s=recording.queue_s,
            compute_s=recording.compute_s,
        )
