"""Where the maps of a call of ScoreSaliency come from: the other use cases."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from types import MappingProxyType

from pairlens_server.errors import PairlensError
from pairlens_server.fidelity.copies import Side
from pairlens_server.methods.base import ExplanationMethod
from pairlens_server.methods.catalogue import PairMethod
from pairlens_server.service.commands import (
    ExplainCommand,
    ExplainOutcome,
    PairCommand,
    SimilarityTarget,
    Target,
    Timings,
)
from pairlens_server.service.explain import ExplainUseCase
from pairlens_server.service.pair import PairUseCase
from pairlens_server.service.score_commands import ScoreCommand, ScoredMap

PARTNER = "target.similarity.images[0]"
"""Path of the partner in the request."""

_OF_PAIR = MappingProxyType({"method": "pair_method", "query": "image", "candidates[0]": PARTNER})


@dataclass(frozen=True, eq=False)
class MethodMaps:
    """What a method gave.

    Attributes:
        maps: Of the pictures asked for.
        method, pair_method: Resolved; one of them is set.
        timings: Of the calls behind it.
    """

    maps: dict[Side, ScoredMap]
    method: ExplanationMethod | None
    pair_method: PairMethod | None
    timings: tuple[Timings, ...]


class MapSource:
    """Gets maps by the use cases of Explain and PairSimilarity."""

    def __init__(self, explain: ExplainUseCase, pair: PairUseCase):
        self._explain = explain
        self._pair = pair

    async def maps(self, command: ScoreCommand, pictures: tuple[Side, ...]) -> MethodMaps | None:
        """Maps of the image, or of its partner, or of both.

        Returns:
            None where the caller gives them.

        Raises:
            PairlensError: As Explain, or as PairSimilarity and its candidate; names the
                fields of ScoreSaliency.
        """
        if command.pair_method is not None:
            return await self._of_pair(command, command.pair_method)
        if command.method is None:
            return None
        found: dict[Side, ExplainOutcome] = {}
        for side in pictures:
            found[side] = await self._of_picture(command, command.method, side)
        return MethodMaps(
            {side: ScoredMap(o.heatmap, o.geometry) for side, o in found.items()},
            next(iter(found.values())).method,
            None,
            tuple(outcome.timings for outcome in found.values()),
        )

    async def _of_picture(
        self, command: ScoreCommand, method: ExplanationMethod, side: Side
    ) -> ExplainOutcome:
        target = _target_of(method, command.target)
        image = command.image
        if side is Side.PARTNER:
            assert isinstance(command.target, SimilarityTarget)
            image = command.target.images[0]
            target = _target_of(method, SimilarityTarget((command.image,)))
        explain = ExplainCommand(
            command.model,
            image,
            method,
            target,
            deadline_s=command.deadline_s,
            cache=command.cache,
            client=command.client,
        )
        with _renamed({"image": PARTNER} if side is Side.PARTNER else {}):
            return await self._explain(explain)

    async def _of_pair(self, command: ScoreCommand, method: PairMethod) -> MethodMaps:
        assert isinstance(command.target, SimilarityTarget)
        pair = PairCommand(
            command.model,
            command.image,
            command.target.images,
            method,
            deadline_s=command.deadline_s,
            cache=command.cache,
            client=command.client,
        )
        with _renamed(_OF_PAIR):
            outcome = await self._pair(pair)
            match = outcome.results[0]
            if isinstance(match, PairlensError):
                raise match
        sides = {Side.IMAGE: match.query, Side.PARTNER: match.candidate}
        maps = {side: ScoredMap(found.heatmap, found.geometry) for side, found in sides.items()}
        return MethodMaps(maps, None, outcome.method, (outcome.timings,))


@contextmanager
def _renamed(fields: Mapping[str, str]) -> Iterator[None]:
    """Name the fields of another call's request, known by their first part, as ours."""
    try:
        yield
    except PairlensError as error:
        first, dot, rest = error.field.partition(".")
        error.field = fields.get(first, first) + dot + rest
        raise


def _target_of(method: ExplanationMethod, target: Target | None) -> Target | None:
    """The target as Explain takes it: none for methods that depend on none."""
    return target if method.takes_class or method.takes_similarity else None


def together(own: Timings, others: tuple[Timings, ...]) -> Timings:
    """The books of a call that asked other use cases, which count in its total already."""
    return replace(
        own,
        queue_s=own.queue_s + sum(t.queue_s for t in others),
        compute_s=own.compute_s + sum(t.compute_s for t in others),
        method_s=own.method_s + sum(t.method_s for t in others),
    )
