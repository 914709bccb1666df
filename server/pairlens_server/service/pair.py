"""PairSimilarity: which regions of a query and of each candidate made up their similarity."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from pairlens_server.errors import InvalidParameterError, MethodUnsupportedError, PairlensError
from pairlens_server.methods.catalogue import PairMethod, default_pair_method
from pairlens_server.methods.similarity import PooledDecomposition
from pairlens_server.recording.facts import ModelFacts
from pairlens_server.recording.primitives import Embedding
from pairlens_server.service.commands import PairCommand, PairOutcome
from pairlens_server.service.drawing import check_options, check_pixels
from pairlens_server.service.gathering import gather_or_cancel, or_error
from pairlens_server.service.limits import ServiceLimits
from pairlens_server.service.pair_matches import PairContext, PairMatcher
from pairlens_server.service.recordings import (
    AdmittedPicture,
    PictureRecording,
    zero_embedding,
)
from pairlens_server.service.stopwatch import Stopwatch
from pairlens_server.service.use_case import UseCase


def resolve_method(method: PairMethod | None, facts: ModelFacts) -> PairMethod:
    """Fill in the default method and its parameters.

    Raises:
        MethodUnsupportedError: The model cannot give the method, or any at all.
        InvalidParameterError: A parameter is out of range.
    """
    if method is None:
        chosen = default_pair_method(facts)
        if chosen is None:
            raise MethodUnsupportedError(
                "this model can give no method of PairSimilarity", field="method"
            )
        return chosen
    refusal = method.refusal(facts)
    if refusal:
        raise MethodUnsupportedError(f"no {method.name} on this model: {refusal}", field="method")
    resolved: PairMethod = method.resolve(facts)
    return resolved


def _together(first: PictureRecording, further: Sequence[PictureRecording]) -> PictureRecording:
    """A picture's recordings as one, for the books."""
    every = [first, *further]
    return replace(
        first,
        cached=all(r.cached for r in every),
        queue_s=max(r.queue_s for r in every),
        compute_s=max(r.compute_s for r in every),
    )


class PairUseCase(UseCase):
    """Answers PairSimilarity calls; each is a `_PairCall`."""

    async def __call__(self, command: PairCommand) -> PairOutcome:
        """Answer one call; an unusable candidate fails alone.

        Raises:
            PairlensError: What the caller is told went wrong with the whole call.
        """
        watch = Stopwatch()
        model = self._registry.get(command.model)
        facts = self._engine.facts(model)
        method = resolve_method(command.method, facts)
        context = PairContext(command, model, facts, method, self._recorder, watch)
        call = _PairCall(context)
        call.check(self._limits)
        await call.check_drawing(self._limits)
        with watch.stage("decode"):
            query, candidates = await call.admit()
        recorded, recordings = await call.record(query, candidates)
        matcher = PairMatcher(context)
        results = await matcher.matches(query, candidates, recorded, recordings)
        fields = ["query", *(field for _, field in call.candidate_files())]
        used = [
            _together(recording, context.further.get(field, []))
            for field, recording in zip(fields, (recorded, *recordings), strict=True)
            if isinstance(recording, PictureRecording)
        ]
        return PairOutcome(model, tuple(results), method, watch.timings(used))


class _PairCall:
    """The steps of one call up to the matches, in their order."""

    def __init__(self, context: PairContext):
        self._context = context
        self._command = context.command
        self._model = context.model
        self._method = context.method
        self._recorder = context.recorder

    def candidate_files(self) -> list[tuple[bytes, str]]:
        """Each candidate and its field."""
        return [(data, f"candidates[{i}]") for i, data in enumerate(self._command.candidates)]

    def check(self, limits: ServiceLimits) -> None:
        """Refuse what can be seen from the command alone."""
        count, limit = len(self._command.candidates), limits.max_candidates
        if not 1 <= count <= limit:
            raise InvalidParameterError(
                f"{count} candidates; a call takes 1 to {limit}", field="candidates"
            )
        values = count * self._model.layout.cells**2
        matrices = isinstance(self._method, PooledDecomposition) and self._method.match_matrix
        if matrices and values > limits.max_match_values:
            raise InvalidParameterError(
                f"the match matrices of {count} candidates hold {values} values, the limit is "
                f"{limits.max_match_values}; ask for fewer candidates at once",
                field="method.pooled_decomposition.match_matrix",
            )
        check_options(self._command.rendering, pair=True)

    async def check_drawing(self, limits: ServiceLimits) -> None:
        """Bound what will be drawn, from the headers, before any picture is decoded."""
        if self._command.rendering is None:
            return
        query = await self._recorder.measure(self._command.query, "query")
        sizes = await gather_or_cancel(
            [or_error(self._recorder.measure(d, f)) for d, f in self.candidate_files()]
        )
        drawn = [side for size in sizes if isinstance(size, tuple) for side in (query, size)]
        check_pixels(self._command.rendering, drawn, limits.max_rendered_pixels)

    async def admit(self) -> tuple[AdmittedPicture, list[AdmittedPicture | PairlensError]]:
        """Decode and prepare the pictures; a broken candidate becomes its error."""
        query = await self._admit(self._command.query, "query")
        candidates = await gather_or_cancel(
            [or_error(self._admit(d, f)) for d, f in self.candidate_files()]
        )
        return query, candidates

    async def record(
        self, query: AdmittedPicture, candidates: Sequence[AdmittedPicture | PairlensError]
    ) -> tuple[PictureRecording, list[PictureRecording | PairlensError]]:
        """Get the activations, of equal pictures once."""
        pictures = [c for c in candidates if isinstance(c, AdmittedPicture)]
        others = {p.sha256: p for p in pictures if p.sha256 != query.sha256}
        first, *rest = await gather_or_cancel(
            [self._record(query), *(or_error(self._record(p)) for p in others.values())]
        )
        assert isinstance(first, PictureRecording)
        if not bool(first.values[Embedding()].any()):
            raise zero_embedding("query")
        found = dict(zip(others, rest, strict=True)) | {query.sha256: first}
        recordings = [c if isinstance(c, PairlensError) else found[c.sha256] for c in candidates]
        return first, recordings

    async def _admit(self, data: bytes, field: str) -> AdmittedPicture:
        async with self._context.image_jobs:
            return await self._recorder.admit(data, field, self._model, self._command.rendering)

    async def _record(self, picture: AdmittedPicture) -> PictureRecording:
        return await self._recorder.record(
            self._model, picture, self._context.needs, self._command.deadline_s
        )
