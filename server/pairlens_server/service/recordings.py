"""Pictures on their way through a call: admitted, prepared, and their activations recorded."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, replace
from typing import TypeVar

import torch
from PIL import Image
from torch import Tensor

from pairlens.rendering import GridGeometry, rendered_size
from pairlens_server.cache.keys import activation_key
from pairlens_server.cache.memory import ActivationCache
from pairlens_server.engine.engine import Engine
from pairlens_server.errors import InvalidParameterError, NotFiniteError
from pairlens_server.images.admission import ImageLimits, Picture, decode, measure
from pairlens_server.images.preprocess import grid_geometry, input_pixels
from pairlens_server.images.render import RenderOptions
from pairlens_server.models.loaded import LoadedModel
from pairlens_server.recording.activations import Activation
from pairlens_server.recording.probes import Probe

Result = TypeVar("Result")


@dataclass(frozen=True, eq=False)
class AdmittedPicture:
    """What a call keeps of a picture: its decoded pixels are let go before it waits.

    Attributes:
        sha256: Hex hash of the file.
        field: Path of the request field that held it, for error messages.
        geometry: Where the cells of the model's maps lie on it.
        pixels: The model's input: float32 [3, H, W], normalised, on the CPU.
        drawable: The picture at the size that will be drawn; None when nothing will.
    """

    sha256: str
    field: str
    geometry: GridGeometry
    pixels: Tensor
    drawable: Picture | None


@dataclass(frozen=True, eq=False)
class PictureRecording:
    """Activations of one picture and where they came from.

    Attributes:
        values: float32 CPU tensors without a batch dimension.
        cached: Whether all of them were in the cache.
        queue_s, compute_s: Seconds; 0 when cached.
    """

    values: Mapping[Activation, Tensor]
    cached: bool
    queue_s: float = 0.0
    compute_s: float = 0.0


def _shrunk(picture: Picture, options: RenderOptions | None) -> Picture | None:
    if options is None or not (options.overlay or options.upsampled):
        return None
    height, width = rendered_size(picture.height, picture.width, options.max_side)
    image = picture.image
    if (height, width) != (picture.height, picture.width):
        image = image.resize((width, height), Image.Resampling.BICUBIC, reducing_gap=2.0)
    return Picture(image, picture.sha256, height, width)


def _admit(
    data: bytes, limits: ImageLimits, field: str, model: LoadedModel, options: RenderOptions | None
) -> AdmittedPicture:
    picture = decode(data, limits, field)
    return AdmittedPicture(
        sha256=picture.sha256,
        field=field,
        geometry=grid_geometry(picture.height, picture.width, model.preprocessing, model.layout),
        pixels=input_pixels(picture, model.preprocessing),
        drawable=_shrunk(picture, options),
    )


class PictureRecorder:
    """Admits pictures and gets their activations; image work runs on a small pool."""

    def __init__(self, engine: Engine, cache: ActivationCache, pool: Executor, limits: ImageLimits):
        self._engine = engine
        self._cache = cache
        self._pool = pool
        self._limits = limits

    async def run(self, function: Callable[..., Result], *arguments: object) -> Result:
        """Run a function on the image pool."""
        return await asyncio.get_running_loop().run_in_executor(self._pool, function, *arguments)

    async def measure(self, data: bytes, field: str) -> tuple[int, int]:
        """Sides of an encoded file in pixels, from its header.

        Raises:
            ImageUndecodableError: Names `field`.
            ImageTooLargeError: Names `field` and the limit.
        """
        return await self.run(measure, data, self._limits, field)

    async def admit(
        self, data: bytes, field: str, model: LoadedModel, options: RenderOptions | None
    ) -> AdmittedPicture:
        """Decode an encoded file and prepare it for a model and for drawing.

        Raises:
            ImageUndecodableError: Names `field`.
            ImageTooLargeError: Names `field` and the limit.
        """
        return await self.run(_admit, data, self._limits, field, model, options)

    def cached(
        self, model: LoadedModel, picture: AdmittedPicture, activation: Activation
    ) -> Tensor | None:
        """An activation of a picture if it is at hand."""
        return self._cache.get(activation_key(model, activation, picture.sha256))

    async def record(
        self,
        model: LoadedModel,
        picture: AdmittedPicture,
        activations: Sequence[Activation],
        deadline_s: float | None,
    ) -> PictureRecording:
        """Get activations of a picture; no forward pass runs when all are cached.

        Raises:
            NotFiniteError: The model's dtype cannot hold its numbers for this picture.
            PairlensError: As `Engine.record`.
        """
        keys = {a: activation_key(model, a, picture.sha256) for a in activations}
        held = {a: self._cache.get(key) for a, key in keys.items()}
        cached = {a: value for a, value in held.items() if value is not None}
        missing = [a for a in keys if a not in cached]
        if not missing:
            return PictureRecording(cached, cached=True)
        recording = await self._engine.record(model, picture.pixels, missing, deadline_s=deadline_s)
        if not all(bool(torch.isfinite(value).all()) for value in recording.values.values()):
            raise not_finite(picture, model)
        self._cache.put({keys[a]: value for a, value in recording.values.items()})
        return PictureRecording(
            {**cached, **recording.values},
            cached=False,
            queue_s=recording.queue_s,
            compute_s=recording.compute_s,
        )

    async def probe(
        self,
        model: LoadedModel,
        picture: AdmittedPicture,
        name: Activation,
        probe: Probe,
        recording: PictureRecording,
        deadline_s: float | None,
    ) -> PictureRecording:
        """Add a probe's result to a recording, under a name; kept as activations are.

        Raises:
            NotFiniteError: As `record`.
            PairlensError: As `Engine.probe`.
        """
        key = activation_key(model, name, picture.sha256)
        held = self._cache.get(key)
        if held is not None:
            return replace(recording, values={**recording.values, name: held})
        found = await self._engine.probe(model, picture.pixels, probe, deadline_s=deadline_s)
        if not bool(torch.isfinite(found.result).all()):
            raise not_finite(picture, model)
        self._cache.put({key: found.result})
        return PictureRecording(
            {**recording.values, name: found.result},
            cached=False,
            queue_s=recording.queue_s + found.queue_s,
            compute_s=recording.compute_s + found.compute_s,
        )


def not_finite(picture: AdmittedPicture, model: LoadedModel) -> NotFiniteError:
    """The error of a picture whose numbers a dtype cannot hold."""
    return NotFiniteError(
        f"{picture.field}: the model's numbers for this picture overflow {model.dtype}",
        field=picture.field,
    )


def zero_embedding(field: str) -> InvalidParameterError:
    """The error of a picture that has no cosine similarity to any other."""
    return InvalidParameterError(
        f"{field}: the model's embedding of this picture is zero; no cosine exists", field=field
    )
