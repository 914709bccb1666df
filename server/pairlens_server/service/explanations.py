"""The use cases behind one door, as transports call them."""

from __future__ import annotations

from concurrent.futures import Executor

from pairlens_server.cache.memory import ActivationCache
from pairlens_server.engine.engine import Engine
from pairlens_server.models.registry import ModelRegistry
from pairlens_server.service.commands import (
    ExplainCommand,
    ExplainOutcome,
    PairCommand,
    PairOutcome,
)
from pairlens_server.service.embed import EmbedUseCase
from pairlens_server.service.explain import ExplainUseCase
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


class ExplanationUseCases:
    """Explain, PairSimilarity, ScoreSaliency and Embed over one engine, cache and image pool."""

    def __init__(
        self,
        registry: ModelRegistry,
        engine: Engine,
        cache: ActivationCache,
        pool: Executor,
        limits: ServiceLimits,
    ):
        recorder = PictureRecorder(engine, cache, pool, limits.images)
        self._explain = ExplainUseCase(registry, engine, recorder, limits)
        self._pair = PairUseCase(registry, engine, recorder, limits)
        source = MapSource(self._explain, self._pair)
        self._score = ScoreUseCase(registry, engine, recorder, limits, source)
        self._embed = EmbedUseCase(registry, engine, recorder, limits)

    async def explain(self, command: ExplainCommand) -> ExplainOutcome:
        """Where a model looks in one picture.

        Raises:
            PairlensError: What the caller is told went wrong.
        """
        return await self._explain(command)

    async def pair(self, command: PairCommand) -> PairOutcome:
        """Which regions made up a query's similarity to each candidate.

        Raises:
            PairlensError: What the caller is told went wrong with the whole call.
        """
        return await self._pair(command)

    async def score(self, command: ScoreCommand) -> ScoreOutcome:
        """How faithful a map is.

        Raises:
            PairlensError: What the caller is told went wrong.
        """
        return await self._score(command)

    async def embed(self, command: EmbedCommand) -> EmbedOutcome:
        """The embeddings of pictures.

        Raises:
            PairlensError: What the caller is told went wrong with the whole call.
        """
        return await self._embed(command)
