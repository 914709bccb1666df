"""PairSimilarity: which regions of a query and of each candidate made up their similarity."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from pairlens_server.errors import InvalidParameterError, MethodUnsupportedError, PairlensError
from pairlens_server.images.sources import ImageSource
from pairlens_server.methods.catalogue import PairMethod, default_pair_method
from pairlens_server.methods.similarity import PooledDecomposition
from pairlens_server.recording.facts import ModelFacts
from pairlens_server.recording.primitives import Embedding
from pairlens_server.service.commands import PairCommand, PairOutcome
from pairlens_server.service.drawing import check_options, check_pixels
from pairlens_server.service.gathering import gather_or_cancel, or_error
from pairlens_server.service.limits import ServiceLimits, check_count
from pairlens_server.service.pair_context import PairContext
from pairlens_server.service.pair_matches import PairMatcher
from pairlens_server.service.pictures import AdmittedPicture, draws
from pairlens_server.service.recorded import PictureRecording
from pairlens_server.service.recordings import zero_embedding
from pairlens_server.service.stopwatch import Stopwatch
from pairlens_server.service.use_case import UseCase
from pairlens_server.telemetry.record import name_call


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
        name_call(model=model.name)
        facts = self._engine.facts(model)
        method = resolve_method(command.method, facts)
        name_call(method=method.name)
        recorder = self._recorder.of_call(command, watch)
        context = PairContext(command, model, facts, method, recorder, watch)
        call = _PairCall(context)
        call.check(self._limits)
        query, candidates = await call.admit()
        await call.check_drawing(query, candidates, self._limits)
        recorded, recordings = await call.record(query, candidates)
        matcher = PairMatcher(context)
        results = await matcher.matches(query, candidates, recorded, recordings)
        fields = ["query", *(field for _, field in call.candidates())]
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

    def candidates(self) -> list[tuple[ImageSource, str]]:
        """Each candidate and its field."""
        return [(image, f"candidates[{i}]") for i, image in enumerate(self._command.candidates)]

    def check(self, limits: ServiceLimits) -> None:
        """Refuse what can be seen from the command alone."""
        check_count(self._command.candidates, limits.max_candidates, "candidates")
        count = len(self._command.candidates)
        values = count * self._model.layout.cells**2
        matrices = isinstance(self._method, PooledDecomposition) and self._method.match_matrix
        if matrices and values > limits.max_match_values:
            raise InvalidParameterError(
                f"the match matrices of {count} candidates hold {values} values, the limit is "
                f"{limits.max_match_values}; ask for fewer candidates at once",
                field="method.pooled_decomposition.match_matrix",
            )
        check_options(self._command.rendering, pair=True)

    async def admit(self) -> tuple[AdmittedPicture, list[AdmittedPicture | PairlensError]]:
        """Take on the pictures; a candidate that cannot be becomes its error."""
        query, *candidates = await self._recorder.pictures.take(
            [(self._command.query, "query"), *self.candidates()], self._command.rendering
        )
        if isinstance(query, PairlensError):
            raise query
        await self._context.prepare(query, candidates)
        return query, candidates

    async def check_drawing(
        self,
        query: AdmittedPicture,
        candidates: Sequence[AdmittedPicture | PairlensError],
        limits: ServiceLimits,
    ) -> None:
        """Bound what will be drawn, from the headers, before any picture is decoded."""
        options = self._command.rendering
        if options is None or not draws(options):
            return
        measure = self._recorder.pictures.measure
        first = await measure(query)
        sizes = await gather_or_cancel(
            [or_error(measure(c)) for c in candidates if isinstance(c, AdmittedPicture)]
        )
        drawn = [side for size in sizes if isinstance(size, tuple) for side in (first, size)]
        check_pixels(options, drawn, limits.max_rendered_pixels)

    async def record(
        self, query: AdmittedPicture, candidates: Sequence[AdmittedPicture | PairlensError]
    ) -> tuple[PictureRecording, list[PictureRecording | PairlensError]]:
        """Get the activations, of equal pictures once where they can be had."""
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
        for index, (picture, recording) in enumerate(zip(candidates, recordings, strict=True)):
            if not isinstance(picture, AdmittedPicture):
                continue
            if isinstance(recording, PictureRecording):
                await self._recorder.pictures.settle(picture, self._model)
            elif recording.field != picture.field:
                # Of equal pictures, each is told what is wrong with it by its own field.
                recordings[index] = await or_error(self._record(picture))
        return first, recordings

    async def _record(self, picture: AdmittedPicture) -> PictureRecording:
        return await self._recorder.record(self._model, picture, self._context.needs)
