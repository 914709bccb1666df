"""Answers of the contract as the SDK's frozen values, checked on the way."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from google.protobuf.duration_pb2 import Duration

from pairlens import _parameters
from pairlens._images import EncodedImage
from pairlens._tensors import to_float32
from pairlens.errors import MalformedResponseError, from_status
from pairlens.models import Method
from pairlens.options import Rendering
from pairlens.pairs import PairFailure, PairMatch, PairResults, SideMap
from pairlens.rendering import Box, FloatArray, GridGeometry
from pairlens.results import Explanation, Provenance, Rendered, Target, Timing
from pairlens.v1 import common_pb2, explanation_service_pb2, methods_pb2


def explanation(
    response: explanation_service_pb2.ExplainResponse,
    image: EncodedImage,
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
    target = None
    if response.HasField("target"):
        target = Target(
            class_index=response.target.class_index,
            label=response.target.label,
            logit=response.target.logit,
            probability=response.target.probability,
        )
    return Explanation(
        **_placed_map(response.heatmap, response.rendered, image, render, "the heatmap"),
        target=target,
        method=_method(response.method, response.provenance.method),
        provenance=_provenance(response.provenance),
        timing=_timing(response.timing),
    )


def pair_results(
    response: explanation_service_pb2.PairSimilarityResponse,
    query: EncodedImage,
    candidates: Sequence[EncodedImage],
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
    return PairResults(
        results=tuple(
            _pair_result(result, query, candidate, render, f"results[{index}]")
            for index, (result, candidate) in enumerate(
                zip(response.results, candidates, strict=True)
            )
        ),
        method=_method(response.method, response.provenance.method),
        provenance=_provenance(response.provenance),
        timing=_timing(response.timing),
    )


def _pair_result(
    result: explanation_service_pb2.PairResult,
    query: EncodedImage,
    candidate: EncodedImage,
    render: Rendering | None,
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
        similarity=match.similarity, query=sides[0], candidate=sides[1], match_matrix=matrix
    )


def _side(
    side: explanation_service_pb2.SideMap, image: EncodedImage, render: Rendering | None, what: str
) -> SideMap:
    return SideMap(
        **_placed_map(side.heatmap, side.rendered, image, render, what),
        sum=side.sum,
        bias_share=side.bias_share,
        prefix_share=side.prefix_share,
    )


def _placed_map(
    heatmap: common_pb2.Heatmap,
    rendered: common_pb2.Rendered,
    image: EncodedImage,
    render: Rendering | None,
    what: str,
) -> dict[str, Any]:
    """The fields of a `PlacedMap`."""
    values = to_float32(heatmap.values, 2, what)
    geometry = _geometry(heatmap.geometry, what)
    if values.shape != (geometry.rows, geometry.columns):
        raise MalformedResponseError(
            f"{what} is {values.shape} on a grid of {geometry.rows} x {geometry.columns}"
        )
    return {
        "heatmap": values,
        "min": heatmap.min,
        "max": heatmap.max,
        "constant": heatmap.constant,
        "geometry": geometry,
        "image": image,
        "rendered": None if render is None else _rendered(rendered, render, what),
    }


def _rendered(rendered: common_pb2.Rendered, request: Rendering, what: str) -> Rendered:
    upsampled: FloatArray | None = None
    if rendered.HasField("upsampled"):
        upsampled = to_float32(rendered.upsampled, 2, f"{what}, upsampled,")
    return Rendered(request=request, upsampled=upsampled, overlay_png=rendered.overlay_png)


def _geometry(geometry: common_pb2.GridGeometry, what: str) -> GridGeometry:
    box = geometry.region
    edges = (box.left, box.top, box.right, box.bottom)
    placed = all(map(math.isfinite, edges)) and box.left < box.right and box.top < box.bottom
    if not placed or not geometry.image_height or not geometry.image_width:
        raise MalformedResponseError(
            f"{what} lies on {edges} of {geometry.image_width} x {geometry.image_height} pixels"
        )
    return GridGeometry(
        rows=geometry.rows,
        columns=geometry.columns,
        image_height=geometry.image_height,
        image_width=geometry.image_width,
        region=Box(*edges),
    )


def _method(
    message: methods_pb2.ExplanationMethod | methods_pb2.PairMethod, provenance: str
) -> Method:
    # The fallback is a newer server's method, whose parameters this client cannot read.
    return _parameters.decode(message) or Method(provenance)


def _provenance(message: common_pb2.Provenance) -> Provenance:
    return Provenance(
        model=message.model,
        model_fingerprint=message.model_fingerprint,
        method=message.method,
        method_revision=message.method_revision,
        preprocessing_digest=message.preprocessing_digest,
        dtype=message.dtype,
        device=message.device,
        server_version=message.server_version,
    )


def _timing(message: common_pb2.Timing) -> Timing:
    return Timing(
        total_s=_seconds(message.total),
        decode_s=_seconds(message.decode),
        queue_s=_seconds(message.queue),
        compute_s=_seconds(message.compute),
        method_s=_seconds(message.method),
        render_s=_seconds(message.render),
        cached_images=message.cached_images,
        images=message.images,
    )


def _seconds(duration: Duration) -> float:
    return duration.seconds + duration.nanos / 1e9
