"""From what was recorded of a query and its candidates to their matches."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from pairlens_server.errors import InvalidParameterError, PairlensError
from pairlens_server.images.regions import covered_cells
from pairlens_server.methods.base import ExplanationMethod, Findings
from pairlens_server.methods.correspondence import Correspondence
from pairlens_server.methods.similarity import PairMaps
from pairlens_server.recording.facts import ModelFacts
from pairlens_server.recording.primitives import Embedding
from pairlens_server.recording.targets import cosines
from pairlens_server.service.commands import Float32Array, PairMatch, SideMap
from pairlens_server.service.drawing import draw
from pairlens_server.service.findings import explain_picture
from pairlens_server.service.gathering import OF_ONE_PICTURE, gather_or_cancel
from pairlens_server.service.pair_context import PairContext, SplitMethod
from pairlens_server.service.pictures import AdmittedPicture
from pairlens_server.service.recorded import PictureRecording
from pairlens_server.service.recordings import zero_embedding
from pairlens_server.telemetry.record import Stage


def compute_maps(
    method: SplitMethod,
    query: PictureRecording,
    candidates: Sequence[PictureRecording],
    facts: ModelFacts,
    weights: Tensor | None = None,
) -> PairMaps:
    """Run a splitting method on one query and its usable candidates.

    Args:
        method: Resolved.
        query: Recorded.
        candidates: Recorded, M of them.
        facts: Of the model.
        weights: Of Correspondence: [M, cells], how much of each cell its region covers.
    """
    needed = method.pair_needs()
    stacked = {a: torch.stack([c.values[a] for c in candidates]) for a in needed}
    with torch.no_grad():
        if isinstance(method, Correspondence):
            assert weights is not None
            return method.maps(query.values, stacked, facts, weights)
        return method.maps(query.values, stacked, facts)


def _array(tensor: Tensor) -> Float32Array:
    return np.ascontiguousarray(tensor.numpy())


class PairMatcher:
    """Makes the matches of one call."""

    def __init__(self, call: PairContext):
        self._call = call

    async def matches(
        self,
        query: AdmittedPicture,
        candidates: Sequence[AdmittedPicture | PairlensError],
        recorded: PictureRecording,
        recordings: Sequence[PictureRecording | PairlensError],
    ) -> list[PairMatch | PairlensError]:
        """Split the similarity to every usable candidate, and draw."""
        if isinstance(self._call.method, Correspondence):
            recordings = self._with_regions(query, candidates, recordings)
        usable = [r for r in recordings if isinstance(r, PictureRecording)]
        if not usable:
            return [r for r in recordings if isinstance(r, PairlensError)]
        if not isinstance(self._call.method, SplitMethod):
            return await self._targeted(query, candidates, recorded, recordings)
        pictures = [
            c
            for c, r in zip(candidates, recordings, strict=True)
            if isinstance(r, PictureRecording) and isinstance(c, AdmittedPicture)
        ]
        weights = self._region_weights(query, pictures)
        with self._call.watch.stage(Stage.METHOD):
            maps = await asyncio.to_thread(
                compute_maps, self._call.method, recorded, usable, self._call.facts, weights
            )
        places = [i for i, r in enumerate(recordings) if isinstance(r, PictureRecording)]
        row_of = {index: row for row, index in enumerate(places)}

        async def result(index: int) -> PairMatch | PairlensError:
            recording, candidate = recordings[index], candidates[index]
            if isinstance(recording, PairlensError):
                return recording
            assert isinstance(candidate, AdmittedPicture)
            return await self._match(query, candidate, maps, row_of[index])

        with self._call.watch.stage(Stage.ENCODE):
            return await gather_or_cancel([result(index) for index in range(len(recordings))])

    def _with_regions(
        self,
        query: AdmittedPicture,
        candidates: Sequence[AdmittedPicture | PairlensError],
        recordings: Sequence[PictureRecording | PairlensError],
    ) -> list[PictureRecording | PairlensError]:
        """Recordings, or the error of a candidate that its region covers nothing of."""
        query_error = self._region_error(query) if self._of_query else None
        if query_error is not None:
            raise query_error
        checked: list[PictureRecording | PairlensError] = []
        for candidate, recording in zip(candidates, recordings, strict=True):
            error = None
            usable = isinstance(recording, PictureRecording) and not self._of_query
            if isinstance(candidate, AdmittedPicture) and usable:
                error = self._region_error(candidate)
            checked.append(recording if error is None else error)
        return checked

    @property
    def _of_query(self) -> bool:
        method = self._call.method
        return isinstance(method, Correspondence) and method.query_region is not None

    def _covered(self, picture: AdmittedPicture) -> Float32Array:
        method = self._call.method
        assert isinstance(method, Correspondence)
        box = method.query_region or method.candidate_region
        assert box is not None
        return covered_cells(picture.geometry, box)

    def _region_error(self, picture: AdmittedPicture) -> InvalidParameterError | None:
        if self._covered(picture).any():
            return None
        name = "query_region" if self._of_query else "candidate_region"
        return InvalidParameterError(
            f"{name} covers nothing of {picture.field} that the model sees",
            field=f"method.correspondence.{name}",
        )

    def _region_weights(
        self, query: AdmittedPicture, candidates: Sequence[AdmittedPicture]
    ) -> Tensor | None:
        if not isinstance(self._call.method, Correspondence):
            return None
        sides = [query] if self._of_query else candidates
        rows = torch.from_numpy(np.stack([self._covered(side) for side in sides]))
        return rows.expand(len(candidates), -1)

    async def _targeted(
        self,
        query: AdmittedPicture,
        candidates: Sequence[AdmittedPicture | PairlensError],
        recorded: PictureRecording,
        recordings: Sequence[PictureRecording | PairlensError],
    ) -> list[PairMatch | PairlensError]:
        """Explain either picture with the similarity to the other one as the target."""
        # Now that all embeddings are there, everything else has its name.
        await self._call.prepare(
            query,
            [
                c
                for c, r in zip(candidates, recordings, strict=True)
                if isinstance(r, PictureRecording)
            ],
        )

        async def result(index: int) -> PairMatch | PairlensError:
            recording, candidate = recordings[index], candidates[index]
            if isinstance(recording, PairlensError):
                return recording
            assert isinstance(candidate, AdmittedPicture)
            mine, other = recorded.values[Embedding()], recording.values[Embedding()]
            if not bool(other.any()):
                return zero_embedding(candidate.field)
            try:
                findings = await gather_or_cancel(
                    [self._one_side(query, candidate), self._one_side(candidate, query)]
                )
            except OF_ONE_PICTURE as error:
                if error.field == query.field:
                    raise
                return error
            maps = [_array(found.heatmap.float()) for found in findings]
            nothing = torch.zeros(())
            with self._call.watch.stage(Stage.ENCODE):
                return PairMatch(
                    similarity=float(cosines(mine, other[None])[0]),
                    query=await self._side(query, maps[0], maps, nothing, nothing),
                    candidate=await self._side(candidate, maps[1], maps, nothing, nothing),
                    match_matrix=None,
                )

        return await gather_or_cancel([result(index) for index in range(len(recordings))])

    async def _one_side(self, picture: AdmittedPicture, partner: AdmittedPicture) -> Findings:
        assert isinstance(self._call.method, ExplanationMethod)
        explained = await explain_picture(
            self._call.recorder,
            self._call.model,
            self._call.facts,
            self._call.method,
            picture,
            self._call.target_to(partner),
            self._call.watch,
        )
        self._call.further.setdefault(picture.field, []).append(explained.recording.emptied())
        return explained.findings

    async def _match(
        self, query: AdmittedPicture, candidate: AdmittedPicture, maps: PairMaps, row: int
    ) -> PairMatch | PairlensError:
        similarity = float(maps.similarity[row])
        if not np.isfinite(similarity):
            return zero_embedding(candidate.field)
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
        rows, columns = heatmap.shape
        geometry = replace(picture.geometry, rows=rows, columns=columns)
        options = self._call.command.rendering
        pictures = self._call.recorder.pictures
        drawable = await pictures.drawable(picture, self._call.model)
        if options is not None and drawable is not None:
            rendered = await pictures.run(draw, drawable, heatmap, geometry, options, both)
        return SideMap(heatmap, geometry, float(bias_share), float(prefix_share), rendered)
