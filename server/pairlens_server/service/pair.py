"""PairSimilarity: which regions of a query and of each candidate made up their similarity."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Sequence
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from pairlens_server.engine.engine import Engine
from pairlens_server.errors import (
    ImageTooLargeError,
    ImageUndecodableError,
    InvalidParameterError,
    MethodUnsupportedError,
    NotFiniteError,
    PairlensError,
)
from pairlens_server.methods.catalogue import default_pair_method
from pairlens_server.methods.similarity import PairMaps, PooledDecomposition
from pairlens_server.models.loaded import LoadedModel
from pairlens_server.models.registry import ModelRegistry
from pairlens_server.recording.activations import Embedding
from pairlens_server.recording.facts import ModelFacts
from pairlens_server.service.commands import (
    Float32Array,
    PairCommand,
    PairMatch,
    PairOutcome,
    SideMap,
)
from pairlens_server.service.drawing import check_options, check_pixels, draw
from pairlens_server.service.limits import ServiceLimits
from pairlens_server.service.recordings import AdmittedPicture, PictureRecorder, PictureRecording
from pairlens_server.service.stopwatch import Stopwatch

Result = TypeVar("Result")

# What fails one candidate and leaves the call alone.
_OF_ONE_CANDIDATE = (ImageUndecodableError, ImageTooLargeError, NotFiniteError)

# Image jobs of one call under way; more would keep other calls waiting behind all of them.
_IMAGE_JOBS = 2


def resolve_method(method: PooledDecomposition | None, facts: ModelFacts) -> PooledDecomposition:
    """Fill in the default method and its parameters.

    Raises:
        MethodUnsupportedError: The model cannot give the method, or any at all.
    """
    chosen = PooledDecomposition() if method is None else method
    refusal = chosen.refusal(facts)
    if refusal:
        raise MethodUnsupportedError(f"no {chosen.name} on this model: {refusal}", field="method")
    return (default_pair_method(facts) or chosen) if method is None else chosen.resolve(facts)


async def gather_or_cancel(awaitables: Sequence[Awaitable[Result]]) -> list[Result]:
    """Await all; when one fails, or the caller gives up, cancel the others."""
    tasks = [asyncio.ensure_future(awaitable) for awaitable in awaitables]
    try:
        return list(await asyncio.gather(*tasks))
    finally:
        for task in tasks:
            task.cancel()


async def _or_error(awaitable: Awaitable[Result]) -> Result | PairlensError:
    try:
        return await awaitable
    except _OF_ONE_CANDIDATE as error:
        return error


def compute_maps(
    method: PooledDecomposition,
    query: PictureRecording,
    candidates: Sequence[PictureRecording],
    facts: ModelFacts,
) -> PairMaps:
    """Run the method on one query and its usable candidates."""
    needed = method.needs()
    stacked = {a: torch.stack([c.values[a] for c in candidates]) for a in needed}
    with torch.no_grad():
        return method.maps(query.values, stacked, facts)


def _array(tensor: Tensor) -> Float32Array:
    return np.ascontiguousarray(tensor.numpy())


class PairUseCase:
    """Answers PairSimilarity calls; each is a `_PairCall`."""

    def __init__(
        self,
        registry: ModelRegistry,
        engine: Engine,
        recorder: PictureRecorder,
        limits: ServiceLimits,
    ):
        self._registry = registry
        self._engine = engine
        self._recorder = recorder
        self._limits = limits

    async def __call__(self, command: PairCommand) -> PairOutcome:
        """Answer one call; an unusable candidate fails alone.

        Raises:
            PairlensError: What the caller is told went wrong with the whole call.
        """
        watch = Stopwatch()
        model = self._registry.get(command.model)
        facts = self._engine.facts(model)
        method = resolve_method(command.method, facts)
        call = _PairCall(command, model, facts, method, self._recorder, watch)
        call.check(self._limits)
        await call.check_drawing(self._limits)
        with watch.stage("decode"):
            query, candidates = await call.admit()
        recorded, recordings = await call.record(query, candidates)
        results = await call.matches(query, candidates, recorded, recordings)
        used = [r for r in (recorded, *recordings) if isinstance(r, PictureRecording)]
        return PairOutcome(model, tuple(results), method, watch.timings(used))


class _PairCall:
    """The steps of one call, in their order."""

    def __init__(
        self,
        command: PairCommand,
        model: LoadedModel,
        facts: ModelFacts,
        method: PooledDecomposition,
        recorder: PictureRecorder,
        watch: Stopwatch,
    ):
        self._command = command
        self._model = model
        self._facts = facts
        self._method = method
        self._recorder = recorder
        self._watch = watch
        self._image_jobs = asyncio.Semaphore(_IMAGE_JOBS)

    def check(self, limits: ServiceLimits) -> None:
        """Refuse what can be seen from the command alone."""
        count, limit = len(self._command.candidates), limits.max_candidates
        if not 1 <= count <= limit:
            raise InvalidParameterError(
                f"{count} candidates; a call takes 1 to {limit}", field="candidates"
            )
        values = count * self._model.layout.cells**2
        if self._method.match_matrix and values > limits.max_match_values:
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
            [_or_error(self._recorder.measure(d, f)) for d, f in self._candidate_files()]
        )
        drawn = [side for size in sizes if isinstance(size, tuple) for side in (query, size)]
        check_pixels(self._command.rendering, drawn, limits.max_rendered_pixels)

    async def admit(self) -> tuple[AdmittedPicture, list[AdmittedPicture | PairlensError]]:
        """Decode and prepare the pictures; a broken candidate becomes its error."""
        query = await self._admit(self._command.query, "query")
        candidates = await gather_or_cancel(
            [_or_error(self._admit(d, f)) for d, f in self._candidate_files()]
        )
        return query, candidates

    async def record(
        self, query: AdmittedPicture, candidates: Sequence[AdmittedPicture | PairlensError]
    ) -> tuple[PictureRecording, list[PictureRecording | PairlensError]]:
        """Get the activations, of equal pictures once."""
        pictures = [c for c in candidates if isinstance(c, AdmittedPicture)]
        others = {p.sha256: p for p in pictures if p.sha256 != query.sha256}
        first, *rest = await gather_or_cancel(
            [self._record(query), *(_or_error(self._record(p)) for p in others.values())]
        )
        assert isinstance(first, PictureRecording)
        if not bool(first.values[Embedding()].any()):
            raise _zero_embedding("query")
        found = dict(zip(others, rest, strict=True)) | {query.sha256: first}
        recordings = [c if isinstance(c, PairlensError) else found[c.sha256] for c in candidates]
        return first, recordings

    async def matches(
        self,
        query: AdmittedPicture,
        candidates: Sequence[AdmittedPicture | PairlensError],
        recorded: PictureRecording,
        recordings: Sequence[PictureRecording | PairlensError],
    ) -> list[PairMatch | PairlensError]:
        """Split the similarity to every usable candidate, and draw."""
        usable = [r for r in recordings if isinstance(r, PictureRecording)]
        if not usable:
            return [r for r in recordings if isinstance(r, PairlensError)]
        with self._watch.stage("method"):
            maps = await asyncio.to_thread(
                compute_maps, self._method, recorded, usable, self._facts
            )
        places = [i for i, r in enumerate(recordings) if isinstance(r, PictureRecording)]
        row_of = {index: row for row, index in enumerate(places)}

        async def result(index: int) -> PairMatch | PairlensError:
            recording, candidate = recordings[index], candidates[index]
            if isinstance(recording, PairlensError):
                return recording
            assert isinstance(candidate, AdmittedPicture)
            return await self._match(query, candidate, maps, row_of[index])

        with self._watch.stage("render"):
            return await gather_or_cancel([result(index) for index in range(len(recordings))])

    def _candidate_files(self) -> list[tuple[bytes, str]]:
        return [(data, f"candidates[{i}]") for i, data in enumerate(self._command.candidates)]

    async def _admit(self, data: bytes, field: str) -> AdmittedPicture:
        async with self._image_jobs:
            return await self._recorder.admit(data, field, self._model, self._command.rendering)

    async def _record(self, picture: AdmittedPicture) -> PictureRecording:
        return await self._recorder.record(
            self._model, picture, self._method.needs(), self._command.deadline_s
        )

    async def _match(
        self, query: AdmittedPicture, candidate: AdmittedPicture, maps: PairMaps, row: int
    ) -> PairMatch | PairlensError:
        similarity = float(maps.similarity[row])
        if not np.isfinite(similarity):
            return _zero_embedding(candidate.field)
        query_map, candidate_map = _array(maps.query_maps[row]), _array(maps.candidate_maps[row])
        both = [query_map, candidate_map]
        return PairMatch(
            similarity=similarity,
            query=await self._side(
                query, query_map, both, maps.query_bias[row], maps.query_prefix[row]
            ),
            candidate=await self._side(
                candidate,
                candidate_map,
                both,
                maps.candidate_bias[row],
                maps.candidate_prefix[row],
            ),
            match_matrix=None if maps.match is None else _array(maps.match[row]),
        )

    async def _side(
        self,
        picture: AdmittedPicture,
        heatmap: Float32Array,
        both: list[Float32Array],
        bias_share: Tensor,
        prefix_share: Tensor,
    ) -> SideMap:
        rendered = None
        options = self._command.rendering
        if options is not None and picture.drawable is not None:
            async with self._image_jobs:
                rendered = await self._recorder.run(
                    draw, picture.drawable, heatmap, picture.geometry, options, both
                )
        return SideMap(heatmap, picture.geometry, float(bias_share), float(prefix_share), rendered)


def _zero_embedding(field: str) -> InvalidParameterError:
    return InvalidParameterError(
        f"{field}: the model's embedding of this picture is zero; no cosine exists", field=field
    )
