"""Getting what models leave behind of a call's pictures: from the cache, or from the engine."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from pairlens_server.cache.flights import Flights
from pairlens_server.cache.packing import Packed, pack
from pairlens_server.cache.policy import CachePolicy
from pairlens_server.cache.tiers import Cache
from pairlens_server.engine.engine import Engine
from pairlens_server.errors import InvalidParameterError, NotFiniteError, PairlensError
from pairlens_server.images.admission import ImageLimits
from pairlens_server.images.render import RenderOptions
from pairlens_server.images.sources import ImageSource
from pairlens_server.models.loaded import LoadedModel
from pairlens_server.recording.activations import Activation
from pairlens_server.recording.probes import Probe
from pairlens_server.service.call_cache import CallCache, Caller
from pairlens_server.service.call_pictures import CallPictures
from pairlens_server.service.pictures import AdmittedPicture
from pairlens_server.service.recorded import PictureRecording, Recorded
from pairlens_server.service.stopwatch import Stopwatch
from pairlens_server.service.threads import off_loop
from pairlens_server.telemetry.record import Stage, staged

PASSES = 32
"""What one call asks of the engine at a time: enough to fill batches while others are decoded."""

_DEAREST = 16
"""More than any picture costs in one batch; so a call of many never fills the engine's queue."""


@dataclass(frozen=True, eq=False)
class _Computed:
    """What the engine gave, under cache keys, and the seconds that it took."""

    values: Mapping[str, Tensor]
    queue_s: float = 0.0
    compute_s: float = 0.0


class PictureRecorder:
    """Makes the recorder of each call; they share engine, cache, image pool and limits."""

    def __init__(self, engine: Engine, cache: Cache, pool: Executor, limits: ImageLimits):
        self._engine = engine
        self._cache = cache
        self._pool = pool
        self._limits = limits
        # What is being computed, so that it is computed once.
        self._flights: Flights[Packed] = Flights()

    def of_call(self, caller: Caller, watch: Stopwatch) -> CallRecorder:
        """The recorder of one call."""
        cache = CallCache(self._cache, caller.cache, watch)
        pictures = CallPictures(cache, self._pool, self._limits, watch)
        return CallRecorder(self._engine, cache, pictures, self._flights, caller)


class CallRecorder:
    """Gets the activations of one call's pictures.

    Attributes:
        pictures: Of the call.
    """

    def __init__(
        self,
        engine: Engine,
        cache: CallCache,
        pictures: CallPictures,
        flights: Flights[Packed],
        caller: Caller,
    ):
        self._engine = engine
        self._cache = cache
        self._flights = flights
        self._caller = caller
        self._passes = asyncio.Semaphore(min(PASSES, max(1, engine.max_queued // _DEAREST)))
        self._probing = asyncio.Lock()
        self.pictures = pictures

    async def take_all(
        self, sources: Sequence[tuple[ImageSource, str]], options: RenderOptions | None = None
    ) -> list[AdmittedPicture]:
        """Take on pictures without each of which there is no call; see `CallPictures.take`.

        Raises:
            PairlensError: What is wrong with the first that cannot be used.
        """
        taken = []
        for picture in await self.pictures.take(sources, options):
            if isinstance(picture, PairlensError):
                raise picture
            taken.append(picture)
        return taken

    def cached(
        self, model: LoadedModel, picture: AdmittedPicture, activation: Activation
    ) -> Tensor | None:
        """An activation of a picture if it is at hand."""
        value = self._cache.at_hand(self._cache.key(model, activation, picture.sha256))
        return value.unpack() if isinstance(value, Packed) else None

    async def record(
        self,
        model: LoadedModel,
        picture: AdmittedPicture,
        activations: Sequence[Activation],
        *,
        unkept: Collection[Activation] = (),
    ) -> PictureRecording:
        """Get activations of a picture; no forward pass runs when all are cached.

        Afterwards the picture's geometry is known.

        Args:
            model: Who sees it.
            picture: Admitted.
            activations: What to record.
            unkept: Those of them that are not cached under these names.

        Raises:
            NotFiniteError: The model's dtype cannot hold its numbers for this picture.
            PairlensError: As `CallPictures.pixels` and `Engine.record`.
        """
        named = {self._cache.key(model, a, picture.sha256): a for a in activations}

        async def compute(keys: Sequence[str]) -> _Computed:
            recording = await self._engine.record(
                model,
                lambda: self.pictures.pixels(picture, model),
                [named[key] for key in keys],
                deadline_s=self._caller.deadline_s,
                client=self._caller.client,
            )
            values = {key: recording.values[named[key]] for key in keys}
            return _Computed(values, recording.queue_s, recording.compute_s)

        return await self._get(model, picture, named, compute, unkept)

    def renamed(
        self,
        model: LoadedModel,
        picture: AdmittedPicture,
        recording: PictureRecording,
        names: Mapping[Activation, Activation],
    ) -> PictureRecording:
        """A recording under other names, under which it is now kept, too.

        Args:
            model: Who saw the picture.
            picture: Of the recording.
            recording: Of `record`.
            names: The new name of each activation that was `unkept`.
        """
        values = recording.values.renamed(names)
        kept = {self._cache.key(model, a, picture.sha256): values.packed[a] for a in names.values()}
        # Calls that shared the pass come by here one after the other.
        new = {key: packed for key, packed in kept.items() if self._cache.at_hand(key) is None}
        self._cache.hold(new)
        self._cache.store(new)
        return replace(recording, values=values)

    async def probe(
        self,
        model: LoadedModel,
        picture: AdmittedPicture,
        name: Activation,
        make: Callable[[], Awaitable[Probe]],
        recording: PictureRecording,
    ) -> PictureRecording:
        """Add a probe's result to a recording, under a name; kept as activations are.

        Args:
            model: Who sees the picture.
            picture: Admitted.
            name: Of the result.
            make: Makes the probe, where the result is not cached.
            recording: To be added to.

        Raises:
            NotFiniteError: As `record`.
            PairlensError: As `Engine.probe`.
        """
        key = self._cache.key(model, name, picture.sha256)

        async def compute(keys: Sequence[str]) -> _Computed:
            # One keeps the device busy; the first chunks of all would overfill the queue.
            async with self._probing:
                found = await self._engine.probe(
                    model,
                    lambda: self.pictures.pixels(picture, model),
                    await make(),
                    deadline_s=self._caller.deadline_s,
                    client=self._caller.client,
                )
            return _Computed({key: found.result}, found.queue_s, found.compute_s)

        return recording.joined(await self._get(model, picture, {key: name}, compute))

    async def probe_pictures(
        self, model: LoadedModel, pictures: Sequence[AdmittedPicture], probe: Probe
    ) -> tuple[Tensor, float, float]:
        """Run a probe on one picture or several at once; its result is kept nowhere.

        Returns:
            Its result, float32 on the CPU, and the seconds it waited and computed.

        Raises:
            NotFiniteError: As `record`.
            PairlensError: As `Engine.probe`.
        """

        async def pixels() -> Tensor:
            return torch.stack([await self.pictures.pixels(p, model) for p in pictures])

        found = await self._engine.probe(
            model, pixels, probe, deadline_s=self._caller.deadline_s, client=self._caller.client
        )
        if not bool(torch.isfinite(found.result).all()):
            raise not_finite(pictures[0], model)
        return found.result, found.queue_s, found.compute_s

    async def _get(
        self,
        model: LoadedModel,
        picture: AdmittedPicture,
        named: Mapping[str, Activation],
        compute: Callable[[Sequence[str]], Awaitable[_Computed]],
        unkept: Collection[Activation] = (),
    ) -> PictureRecording:
        """What is named under its keys, of which what is not cached is computed."""
        await self._cache.look_up(key for key, a in named.items() if a not in unkept)
        held = {k: value for k in named if isinstance(value := self._cache.at_hand(k), Packed)}
        missing = [key for key in named if key not in held]
        spent: list[_Computed] = []

        async def computed(keys: Sequence[str]) -> dict[str, Packed]:
            async with self._passes:
                found = await compute(keys)
            spent.append(found)
            weight = sum(value.numel() for value in found.values.values())
            with staged(Stage.CACHE_PUT):
                packed = await off_loop(weight, self._packed, model, picture, named, found.values)
            self._cache.store({k: v for k, v in packed.items() if named[k] not in unkept})
            return packed

        if missing:
            shared = self._caller.cache is CachePolicy.DEFAULT
            made = await (self._flights.get(missing, computed) if shared else computed(missing))
            self._cache.hold(made)
            held |= made
        await self.pictures.settle(picture, model)
        return PictureRecording(
            Recorded({named[key]: packed for key, packed in held.items()}),
            cached=not missing,
            queue_s=sum(found.queue_s for found in spent),
            compute_s=sum(found.compute_s for found in spent),
        )

    def _packed(
        self,
        model: LoadedModel,
        picture: AdmittedPicture,
        named: Mapping[str, Activation],
        values: Mapping[str, Tensor],
    ) -> dict[str, Packed]:
        """Round values as the cache keeps them, so that no answer depends on what it held."""
        if not all(bool(torch.isfinite(value).all()) for value in values.values()):
            raise not_finite(picture, model)
        precision = self._cache.precision
        return {
            key: pack(value, precision, exact=named[key].exact) for key, value in values.items()
        }


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
