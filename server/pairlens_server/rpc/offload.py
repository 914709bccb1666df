"""Where a conversion runs: on the event loop when it is short, in a thread when it is not.

A hop to a thread and back costs more than the conversion of most answers, and on a busy server
it waits for the GIL twice.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from math import prod
from typing import Any, ParamSpec, TypeVar

from numpy.typing import NDArray

from pairlens.v1 import common_pb2, explanation_service_pb2, methods_pb2
from pairlens_server.errors import PairlensError
from pairlens_server.images.render import Rendered
from pairlens_server.service.commands import ExplainOutcome, PairOutcome, PanelOutcome
from pairlens_server.service.score_commands import EmbedOutcome, ScoreOutcome
from pairlens_server.telemetry.record import Stage, staged

LARGE_BYTES = 256 * 1024
"""From here on a conversion is worth a thread; below it takes less than a millisecond."""

Parameters = ParamSpec("Parameters")
Converted = TypeVar("Converted")


async def inline_or_thread(
    nbytes: int,
    convert: Callable[Parameters, Converted],
    *args: Parameters.args,
    **kwargs: Parameters.kwargs,
) -> Converted:
    """Convert here, or in a thread when there are many bytes to convert.

    A caller who gives up leaves the thread to finish for nobody.
    """
    if nbytes < LARGE_BYTES:
        return convert(*args, **kwargs)
    return await asyncio.to_thread(convert, *args, **kwargs)


async def encoded(
    nbytes: int,
    convert: Callable[Parameters, Converted],
    *args: Parameters.args,
    **kwargs: Parameters.kwargs,
) -> Converted:
    """As `inline_or_thread`, of an answer: counted among what encoding it takes."""
    with staged(Stage.ENCODE):
        return await inline_or_thread(nbytes, convert, *args, **kwargs)


def explain_bytes(outcome: ExplainOutcome) -> int:
    """About what an answer of Explain holds, in bytes."""
    maps: tuple[ExplainOutcome | PanelOutcome, ...] = (outcome, *outcome.panels)
    total = 0 if outcome.target is None else 8 * len(outcome.target.similarities)
    for found in maps:
        total += _total((found.heatmap, found.mask)) + _rendered(found.rendered)
    return total


def pair_bytes(outcome: PairOutcome) -> int:
    """About what an answer of PairSimilarity holds, in bytes."""
    total = 0
    for result in outcome.results:
        if not isinstance(result, PairlensError):
            query, candidate = result.query, result.candidate
            total += _total((query.heatmap, candidate.heatmap, result.match_matrix))
            total += _rendered(query.rendered) + _rendered(candidate.rendered)
    return total


def score_bytes(outcome: ScoreOutcome) -> int:
    """About what an answer of ScoreSaliency holds, in bytes."""
    curves = (result.curve for result in outcome.results if result.curve is not None)
    maps = (found.values for found in (outcome.heatmap, outcome.partner_heatmap) if found)
    return _total(array for curve in curves for array in vars(curve).values()) + _total(maps)


def embed_bytes(outcome: EmbedOutcome) -> int:
    """About what an answer of Embed holds, in bytes."""
    return _total(result for result in outcome.results if not isinstance(result, PairlensError))


def target_bytes(target: methods_pb2.Target) -> int:
    """About what a target's embeddings hold, in bytes, by their own word."""
    return _planes((target.similarity.embeddings,))


def score_request_bytes(request: explanation_service_pb2.ScoreSaliencyRequest) -> int:
    """About what the arrays of a request of ScoreSaliency hold, in bytes, by their own word."""
    arrays = (request.heatmap.values, request.partner_heatmap.values, request.region.mask)
    return _planes(arrays) + target_bytes(request.target)


def _planes(tensors: Iterable[common_pb2.Tensor]) -> int:
    # By their shapes, since protobuf copies an array to tell its length. One that holds other
    # than it says, or has no two dimensions, is refused before it is looked at.
    return sum(4 * max(0, prod(t.shape)) for t in tensors if len(t.shape) == 2)


def _total(arrays: Iterable[NDArray[Any] | None]) -> int:
    return sum(array.nbytes for array in arrays if array is not None)


def _rendered(rendered: Rendered | None) -> int:
    if rendered is None:
        return 0
    return len(rendered.overlay_png or b"") + _total((rendered.upsampled,))
