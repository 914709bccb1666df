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
    PairlensError,
)
from pairlens_server.images.admission import Picture
from pairlens_server.images.render import Rendered, RenderOptions
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
from pairlens_server.service.recordings import PictureRecorder, PictureRecording
from pairlens_server.service.stopwatch import Stopwatch

Result = TypeVar("Result")


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
    """Runs one PairSimilarity call: check, decode, record, split, render."""

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
        self._check(command, method, model)
        with watch.stage("decode"):
            query, candidates = await self._decode(command)
        usable = [i for i, c in enumerate(candidates) if isinstance(c, Picture)]
        pictures = [query, *(c for c in candidates if isinstance(c, Picture))]
        drawn = [p for candidate in pictures[1:] for p in (query, candidate)]
        check_pixels(command.rendering, drawn, self._limits.max_rendered_pixels)
        recordings = await self._record(model, pictures, method, command.deadline_s)
        if not bool(recordings[0].values[Embedding()].any()):
            raise InvalidParameterError(
                "the model's embedding of this picture is zero; no cosine exists", field="query"
            )
        results: list[PairMatch | PairlensError | None] = [
            c if isinstance(c, PairlensError) else None for c in candidates
        ]
        if usable:
            with watch.stage("method"):
                maps = await self._recorder.run(
                    compute_maps, method, recordings[0], recordings[1:], facts
                )
            with watch.stage("render"):
                matches = await gather_or_cancel(
                    [
                        self._match(model, query, pictures[row + 1], maps, row, index, command)
                        for row, index in enumerate(usable)
                    ]
                )
            for index, match in zip(usable, matches, strict=True):
                results[index] = match
        return PairOutcome(
            model=model,
            results=tuple(result for result in results if result is not None),
            method=method,
            timings=watch.timings(recordings),
        )

    def _check(
        self, command: PairCommand, method: PooledDecomposition, model: LoadedModel
    ) -> None:
        count, limit = len(command.candidates), self._limits.max_candidates
        if not 1 <= count <= limit:
            raise InvalidParameterError(
                f"{count} candidates; a call takes 1 to {limit}", field="candidates"
            )
        values = count * model.layout.cells**2
        if method.match_matrix and values > self._limits.max_match_values:
            raise InvalidParameterError(
                f"the match matrices of {count} candidates hold {values} values, the limit is "
                f"{self._limits.max_match_values}; ask for fewer candidates at once",
                field="method.pooled_decomposition.match_matrix",
            )
        check_options(command.rendering, pair=True)

    async def _decode(self, command: PairCommand) -> tuple[Picture, list[Picture | PairlensError]]:
        async def candidate(data: bytes, field: str) -> Picture | PairlensError:
            try:
                return await self._recorder.decode(data, field)
            except (ImageUndecodableError, ImageTooLargeError) as error:
                return error

        query, *candidates = await gather_or_cancel(
            [
                self._recorder.decode(command.query, "query"),
                *(candidate(d, f"candidates[{i}]") for i, d in enumerate(command.candidates)),
            ]
        )
        assert isinstance(query, Picture)
        return query, candidates

    async def _record(
        self,
        model: LoadedModel,
        pictures: Sequence[Picture],
        method: PooledDecomposition,
        deadline_s: float | None,
    ) -> list[PictureRecording]:
        distinct = {picture.sha256: picture for picture in pictures}
        recorded = await gather_or_cancel(
            [
                self._recorder.record(model, picture, method.needs(), deadline_s)
                for picture in distinct.values()
            ]
        )
        by_content = dict(zip(distinct, recorded, strict=True))
        return [by_content[picture.sha256] for picture in pictures]

    async def _match(
        self,
        model: LoadedModel,
        query: Picture,
        candidate: Picture,
        maps: PairMaps,
        row: int,
        index: int,
        command: PairCommand,
    ) -> PairMatch | PairlensError:
        similarity = float(maps.similarity[row])
        if not np.isfinite(similarity):
            return InvalidParameterError(
                "the model's embedding of this picture is zero; no cosine exists",
                field=f"candidates[{index}]",
            )
        query_map, candidate_map = _array(maps.query_maps[row]), _array(maps.candidate_maps[row])
        both = [query_map, candidate_map]
        return PairMatch(
            similarity=similarity,
            query=SideMap(
                heatmap=query_map,
                geometry=self._recorder.geometry(model, query),
                bias_share=float(maps.query_bias[row]),
                prefix_share=float(maps.query_prefix[row]),
                rendered=await self._render(model, query, query_map, both, command.rendering),
            ),
            candidate=SideMap(
                heatmap=candidate_map,
                geometry=self._recorder.geometry(model, candidate),
                bias_share=float(maps.candidate_bias[row]),
                prefix_share=float(maps.candidate_prefix[row]),
                rendered=await self._render(
                    model, candidate, candidate_map, both, command.rendering
                ),
            ),
            match_matrix=None if maps.match is None else _array(maps.match[row]),
        )

    async def _render(
        self,
        model: LoadedModel,
        picture: Picture,
        heatmap: Float32Array,
        both: list[Float32Array],
        options: RenderOptions | None,
    ) -> Rendered | None:
        if options is None:
            return None
        geometry = self._recorder.geometry(model, picture)
        return await self._recorder.run(draw, picture, heatmap, geometry, options, both)
