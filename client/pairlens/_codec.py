"""Answers of the contract as the SDK's frozen values, checked on the way."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from pairlens import _answers
from pairlens._failures import from_status
from pairlens._images import SentImage
from pairlens._placed_codec import mask, placed_map
from pairlens._tensors import to_float32, to_int64
from pairlens.errors import MalformedResponseError
from pairlens.models import Method
from pairlens.options import Rendering
from pairlens.pairs import PairFailure, PairMatch, PairResults, SideMap
from pairlens.rendering import Box, FloatArray
from pairlens.results import (
    Diagnostics,
    Explanation,
    HeadInterrelation,
    Panel,
    Unit,
)
from pairlens.v1 import explanation_service_pb2


def explanation(
    response: explanation_service_pb2.ExplainResponse,
    image: SentImage,
    render: Rendering | None,
) -> Explanation:
    """Read the answer of Explain.

    Args:
        response: The answer.
        image: The picture that was sent.
        render: What was asked to be drawn, resolved.

    Raises:
        MalformedResponseError: The answer breaks the contract.
    """
    placed = placed_map(response.heatmap, response.rendered, image, render, "the heatmap")
    hidden = mask(response.mask, placed, "the mask") if response.HasField("mask") else None
    return Explanation(
        **placed,
        mask=hidden,
        target=_answers.target(response.target) if response.HasField("target") else None,
        method=_answers.method(response.method, response.provenance.method),
        provenance=_answers.provenance(response.provenance),
        timing=_answers.timing(response.timing),
        panels=tuple(
            _panel(panel, image, render, f"panels[{index}]")
            for index, panel in enumerate(response.panels)
        ),
        units=tuple(Unit(unit=unit.unit, strength=unit.strength) for unit in response.units),
        interrelations=tuple(_interrelation(head) for head in response.interrelations),
        keypoints=_keypoints(response, placed["heatmap"].shape),
        diagnostics=Diagnostics(
            relevance_drift=_answers.optional(response.diagnostics, "relevance_drift"),
            completeness_error=_answers.optional(response.diagnostics, "completeness_error"),
            bias_share=_answers.optional(response.diagnostics, "bias_share"),
            prefix_share=_answers.optional(response.diagnostics, "prefix_share"),
        ),
    )


def pair_results(
    response: explanation_service_pb2.PairSimilarityResponse,
    query: SentImage,
    candidates: Sequence[SentImage],
    render: Rendering | None,
) -> PairResults:
    """Read the answer of PairSimilarity; arguments as in `explanation`.

    Raises:
        MalformedResponseError: The answer breaks the contract.
    """
    if len(response.results) != len(candidates):
        raise MalformedResponseError(
            f"{len(response.results)} results for {len(candidates)} candidates"
        )
    method = _answers.method(response.method, response.provenance.method)
    return PairResults(
        results=tuple(
            _pair_result(result, query, candidate, render, method, f"results[{index}]")
            for index, (result, candidate) in enumerate(
                zip(response.results, candidates, strict=True)
            )
        ),
        method=method,
        provenance=_answers.provenance(response.provenance),
        timing=_answers.timing(response.timing),
    )


def _panel(
    panel: explanation_service_pb2.Panel, image: SentImage, render: Rendering | None, what: str
) -> Panel:
    placed = placed_map(panel.heatmap, panel.rendered, image, render, what)
    hidden = mask(panel.mask, placed, f"{what}.mask") if panel.HasField("mask") else None
    return Panel(
        **placed,
        mask=hidden,
        block=panel.block if panel.HasField("block") else None,
        head=panel.head if panel.HasField("head") else None,
        unit=panel.unit if panel.HasField("unit") else None,
    )


def _interrelation(head: explanation_service_pb2.HeadInterrelation) -> HeadInterrelation:
    return HeadInterrelation(
        block=head.block,
        head=head.head,
        kk=_answers.optional(head, "kk"),
        kn=_answers.optional(head, "kn"),
        nk=_answers.optional(head, "nk"),
        nn=_answers.optional(head, "nn"),
        focus_index=head.focus_index,
    )


def _keypoints(
    response: explanation_service_pb2.ExplainResponse, shape: tuple[int, ...]
) -> npt.NDArray[np.int64] | None:
    if not response.HasField("keypoints"):
        return None
    keypoints = to_int64(response.keypoints, 2, "the keypoints")
    if keypoints.shape != shape or keypoints.min() < 0:
        raise MalformedResponseError(
            f"the keypoints are {keypoints.shape}, at least {keypoints.min()}, on a grid of {shape}"
        )
    return keypoints


def _pair_result(
    result: explanation_service_pb2.PairResult,
    query: SentImage,
    candidate: SentImage,
    render: Rendering | None,
    method: Method,
    what: str,
) -> PairMatch | PairFailure:
    outcome = result.WhichOneof("outcome")
    if outcome == "error":
        return PairFailure(image=candidate, error=from_status(result.error))
    if outcome != "match":
        raise MalformedResponseError(f"{what} holds neither a match nor an error")
    match = result.match
    sides = (
        _side(match.query, query, render, f"{what}.query"),
        _side(match.candidate, candidate, render, f"{what}.candidate"),
    )
    matrix: FloatArray | None = None
    if match.HasField("match_matrix"):
        matrix = to_float32(match.match_matrix, 2, f"{what}.match_matrix")
        cells = sides[0].heatmap.size, sides[1].heatmap.size
        if matrix.shape != cells:
            raise MalformedResponseError(f"{what}.match_matrix is {matrix.shape} and not {cells}")
    return PairMatch(
        similarity=match.similarity,
        query=sides[0],
        candidate=sides[1],
        match_matrix=matrix,
        query_region=_region(method, "query_region"),
        candidate_region=_region(method, "candidate_region"),
    )


def _region(method: Method, name: str) -> Box | None:
    region = method.parameters.get(name)
    return region if isinstance(region, Box) else None


def _side(
    side: explanation_service_pb2.SideMap, image: SentImage, render: Rendering | None, what: str
) -> SideMap:
    return SideMap(
        **placed_map(side.heatmap, side.rendered, image, render, what),
        sum=side.sum,
        bias_share=side.bias_share,
        prefix_share=side.prefix_share,
    )
