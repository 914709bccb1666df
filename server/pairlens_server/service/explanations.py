"""The use cases behind one door, as transports call them."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from concurrent.futures import Executor

from pairlens_server.cache.stats import CacheKind, CacheStats, Cleared
from pairlens_server.cache.tiers import Cache
from pairlens_server.engine.engine import Engine
from pairlens_server.errors import InvalidParameterError, PairlensError
from pairlens_server.images.sources import ImageDigest
from pairlens_server.models.registry import ModelRegistry
from pairlens_server.service.commands import (
    ExplainCommand,
    ExplainOutcome,
    PairCommand,
    PairOutcome,
    WarmCommand,
    WarmOutcome,
)
from pairlens_server.service.embed import EmbedUseCase
from pairlens_server.service.explain import ExplainUseCase
from pairlens_server.service.image_store import ImageStore, Upload
from pairlens_server.service.limits import ServiceLimits
from pairlens_server.service.pair import PairUseCase
from pairlens_server.service.recordings import PictureRecorder
from pairlens_server.service.score import ScoreUseCase
from pairlens_server.service.score_commands import (
    EmbedCommand,
    EmbedOutcome,
    ScoreCommand,
    ScoreOutcome,
)
from pairlens_server.service.score_sources import MapSource
from pairlens_server.service.warm import WarmUseCase
from pairlens_server.telemetry.record import name_call


class ExplanationUseCases:
    """What the services of the contract do, over one engine, cache and image pool.

    A call has the models that were served when it began, to its end.
    """

    def __init__(
        self,
        registry: ModelRegistry,
        engine: Engine,
        cache: Cache,
        pool: Executor,
        limits: ServiceLimits,
    ):
        recorder = PictureRecorder(engine, cache, pool, limits.images)
        self._explain = ExplainUseCase(registry, engine, recorder, limits)
        self._pair = PairUseCase(registry, engine, recorder, limits)
        source = MapSource(self._explain, self._pair)
        self._score = ScoreUseCase(registry, engine, recorder, limits, source)
        self._embed = EmbedUseCase(registry, engine, recorder, limits)
        self._warm = WarmUseCase(registry, engine, recorder, limits)
        self._store = ImageStore(cache, pool, limits)
        self._registry = registry
        self._cache = cache

    async def explain(self, command: ExplainCommand) -> ExplainOutcome:
        """Where a model looks in one picture.

        Raises:
            PairlensError: What the caller is told went wrong.
        """
        with self._registry.call():
            return await self._explain(command)

    async def pair(self, command: PairCommand) -> PairOutcome:
        """Which regions made up a query's similarity to each candidate.

        Raises:
            PairlensError: What the caller is told went wrong with the whole call.
        """
        with self._registry.call():
            return await self._pair(command)

    async def score(self, command: ScoreCommand) -> ScoreOutcome:
        """How faithful a map is.

        Raises:
            PairlensError: What the caller is told went wrong.
        """
        with self._registry.call():
            return await self._score(command)

    async def embed(self, command: EmbedCommand) -> EmbedOutcome:
        """The embeddings of pictures.

        Raises:
            PairlensError: What the caller is told went wrong with the whole call.
        """
        with self._registry.call():
            return await self._embed(command)

    async def warm(self, command: WarmCommand) -> WarmOutcome:
        """Fill the cache.

        Raises:
            PairlensError: What the caller is told went wrong with the whole call.
        """
        with self._registry.call():
            return await self._warm(command)

    async def find_missing(self, digests: Sequence[ImageDigest]) -> list[ImageDigest]:
        """Which files have to be uploaded before they can be looked at.

        Raises:
            PairlensError: As `ImageStore.find_missing`.
        """
        return await self._store.find_missing(digests)

    async def upload(self, files: Sequence[Upload]) -> list[ImageDigest | PairlensError]:
        """Keep files.

        Raises:
            PairlensError: As `ImageStore.upload`.
        """
        return await self._store.upload(files)

    async def cache_stats(self) -> CacheStats:
        """What the cache holds and has done."""
        return await self._cache.stats()

    async def clear_cache(self, model: str, kinds: Collection[CacheKind]) -> Cleared:
        """Empty the cache.

        Args:
            model: Whose activations go; "" for all models'.
            kinds: What goes; none: both kinds, or activations alone where a model is named.

        Raises:
            ModelNotFoundError: There is no such model.
            InvalidParameterError: Images of one model.
        """
        if not model:
            return await self._cache.clear(None, kinds or tuple(CacheKind))
        if CacheKind.IMAGE in kinds:
            raise InvalidParameterError("images belong to no model; leave model out", field="kinds")
        fingerprint = self._registry.get(model).fingerprint
        name_call(model=model)
        return await self._cache.clear(fingerprint, (CacheKind.ACTIVATION,))
