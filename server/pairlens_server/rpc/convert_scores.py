"""ScoreSaliency and Embed: requests as commands of the service, outcomes as responses."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pairlens.rendering import Box
from pairlens.v1 import common_pb2, explanation_service_pb2, metrics_pb2
from pairlens_server.errors import InvalidParameterError, PairlensError
from pairlens_server.fidelity.catalogue import METRICS
from pairlens_server.fidelity.copies import Side
from pairlens_server.fidelity.localisation import RegionOfInterest
from pairlens_server.fidelity.metrics import Metric
from pairlens_server.fidelity.placing import Enlargement, Extent
from pairlens_server.rpc.caller import Caller
from pairlens_server.rpc.convert_cache import read_policy
from pairlens_server.rpc.convert_images import check_count, read_sources, required_source
from pairlens_server.rpc.convert_methods import (
    explanation_message,
    explanation_method,
    pair_message,
    pair_method,
)
from pairlens_server.rpc.convert_parameters import read_parameters, write_parameters
from pairlens_server.rpc.convert_requests import read_target, required_model
from pairlens_server.rpc.convert_responses import (
    provenance_message,
    target_message,
    timing_message,
    write_heatmap,
    write_tensor,
)
from pairlens_server.rpc.enums import from_proto, to_proto
from pairlens_server.rpc.errors import to_status
from pairlens_server.service.commands import Float32Array
from pairlens_server.service.score_commands import (
    EmbedCommand,
    EmbedOutcome,
    GivenHeatmap,
    MetricOutcome,
    ScoreCommand,
    ScoredCurve,
    ScoreOutcome,
)

MAX_BOXES = 100
"""Of one region; what a region costs grows with them times the map's rows."""

MAX_METRICS = 1000
"""Of one call, as well as sides; each is looked at by itself, while other calls wait."""

_METRICS = MappingProxyType({metric.name: metric for metric in METRICS})

_DTYPES: Mapping[int, np.dtype[Any]] = MappingProxyType(
    {
        common_pb2.DATA_TYPE_FLOAT32: np.dtype("<f4"),
        common_pb2.DATA_TYPE_FLOAT16: np.dtype("<f2"),
        common_pb2.DATA_TYPE_UINT8: np.dtype("u1"),
        common_pb2.DATA_TYPE_INT64: np.dtype("<i8"),
        common_pb2.DATA_TYPE_BOOL: np.dtype("u1"),
    }
)


def score_command(
    request: explanation_service_pb2.ScoreSaliencyRequest, caller: Caller
) -> ScoreCommand:
    """Read a request of ScoreSaliency.

    Raises:
        InvalidParameterError: Names the field as in the contract.
    """
    chosen = request.WhichOneof("saliency")
    if chosen is None:
        raise InvalidParameterError(
            "give a heatmap, a method or a pair_method to score", field="method"
        )
    by_method = chosen == "method"
    by_pair = chosen == "pair_method"
    check_count(request.metrics, MAX_METRICS, "metrics")
    check_count(request.sides, MAX_METRICS, "sides")
    partner = request.partner_heatmap if request.HasField("partner_heatmap") else None
    return ScoreCommand(
        model=required_model(request.model),
        image=required_source(request.image if request.HasField("image") else None, "image"),
        metrics=tuple(_metric(m, f"metrics[{i}]") for i, m in enumerate(request.metrics)),
        heatmap=_given(request.heatmap, "heatmap") if chosen == "heatmap" else None,
        method=explanation_method(request.method, "method") if by_method else None,
        pair_method=pair_method(request.pair_method, "pair_method") if by_pair else None,
        target=read_target(request.target) if request.HasField("target") else None,
        partner_heatmap=None if partner is None else _given(partner, "partner_heatmap"),
        sides=tuple(_side(side, f"sides[{i}]") for i, side in enumerate(request.sides)),
        enlargement=from_proto(
            explanation_service_pb2.Enlargement, request.enlargement, Enlargement, "enlargement"
        )
        or Enlargement.BILINEAR,
        region=_region(request.region) if request.HasField("region") else None,
        return_embeddings=request.return_embeddings,
        deadline_s=caller.deadline_s,
        cache=read_policy(request.cache),
        client=caller.client,
    )


def embed_command(request: explanation_service_pb2.EmbedRequest, caller: Caller) -> EmbedCommand:
    """Read a request of Embed; a picture without a source stays empty, to fail alone.

    Raises:
        InvalidParameterError: Names the field as in the contract.
    """
    return EmbedCommand(
        model=required_model(request.model),
        images=read_sources(request.images, "images"),
        deadline_s=caller.deadline_s,
        cache=read_policy(request.cache),
        client=caller.client,
    )


def _metric(message: metrics_pb2.Metric, field: str) -> Metric:
    chosen = message.WhichOneof("metric")
    if chosen is None:
        known = ", ".join(_METRICS)
        raise InvalidParameterError(f"{field} holds none of {known}", field=field)
    return read_parameters(message, _METRICS[chosen], field)


def metric_message(metric: Metric) -> metrics_pb2.Metric:
    """A resolved metric as its message."""
    message = metrics_pb2.Metric()
    write_parameters(getattr(message, metric.name), metric)
    return message


def _side(number: int, field: str) -> Side:
    return from_proto(explanation_service_pb2.Side, number, Side, field) or Side.IMAGE


def _given(message: explanation_service_pb2.GivenHeatmap, field: str) -> GivenHeatmap:
    extent = from_proto(
        explanation_service_pb2.HeatmapExtent, message.extent, Extent, f"{field}.extent"
    )
    values = _read_plane(message.values, f"{field}.values")
    with np.errstate(over="ignore"):
        return GivenHeatmap(values.astype(np.float32), extent)


def _region(message: explanation_service_pb2.Region) -> RegionOfInterest:
    if not message.boxes and not message.HasField("mask"):
        raise InvalidParameterError("a region has boxes, a mask or both", field="region")
    if len(message.boxes) > MAX_BOXES:
        raise InvalidParameterError(
            f"{len(message.boxes)} boxes; a region has at most {MAX_BOXES}", field="region.boxes"
        )
    boxes = tuple(Box(b.left, b.top, b.right, b.bottom) for b in message.boxes)
    mask: NDArray[np.bool_] | None = None
    if message.HasField("mask"):
        if message.mask.dtype not in (common_pb2.DATA_TYPE_BOOL, common_pb2.DATA_TYPE_UINT8):
            raise InvalidParameterError("a mask is of type BOOL or UINT8", field="region.mask")
        mask = _read_plane(message.mask, "region.mask") != 0
    return RegionOfInterest(boxes, mask)


def _read_plane(message: common_pb2.Tensor, field: str) -> NDArray[Any]:
    """An array of two dimensions and any type of the contract.

    Raises:
        InvalidParameterError: It is of no such type or shape, or of another size than that.
    """
    dtype = _DTYPES.get(message.dtype)
    if dtype is None:
        raise InvalidParameterError(f"{field} has no known dtype", field=f"{field}.dtype")
    if len(message.shape) != 2 or min(message.shape) < 1:
        shape = " x ".join(map(str, message.shape))
        raise InvalidParameterError(
            f"{field} has shape [{shape}], not [rows, columns]", field=f"{field}.shape"
        )
    rows, columns = message.shape
    expected = rows * columns * dtype.itemsize
    if len(message.data) != expected:
        raise InvalidParameterError(
            f"{field} of shape {rows} x {columns} has {len(message.data)} bytes, not {expected}",
            field=f"{field}.data",
        )
    values: NDArray[Any] = np.frombuffer(message.data, dtype)
    return values.reshape(rows, columns)


def score_response(outcome: ScoreOutcome) -> explanation_service_pb2.ScoreSaliencyResponse:
    """Convert an answer of ScoreSaliency."""
    response = explanation_service_pb2.ScoreSaliencyResponse(
        target=target_message(outcome.target),
        enlargement=to_proto(explanation_service_pb2.Enlargement, outcome.enlargement),
        forward_passes=outcome.forward_passes,
        provenance=provenance_message(outcome.model, outcome.method or outcome.pair_method),
        timing=timing_message(outcome.timings),
    )
    for result in outcome.results:
        _write_result(response.results.add(), result)
    if outcome.method is not None:
        response.method.CopyFrom(explanation_message(outcome.method))
    if outcome.pair_method is not None:
        response.pair_method.CopyFrom(pair_message(outcome.pair_method))
    for message, found in (
        (response.heatmap, outcome.heatmap),
        (response.partner_heatmap, outcome.partner_heatmap),
    ):
        if found is not None:
            write_heatmap(message, found.values, found.geometry)
    return response


def _write_result(message: explanation_service_pb2.MetricResult, result: MetricOutcome) -> None:
    message.metric.CopyFrom(metric_message(result.metric))
    message.side = to_proto(explanation_service_pb2.Side, result.side)
    message.undefined = result.undefined
    for name in ("value", "normalized_value", "clean_score", "masked_score", "class_index"):
        value = getattr(result, name)
        if value is not None:
            setattr(message, name, value)
    if result.curve is not None:
        _write_curve(message.curve, result.curve)


def _write_curve(message: explanation_service_pb2.Curve, curve: ScoredCurve) -> None:
    arrays: dict[str, Float32Array | None] = vars(curve)
    for name, values in arrays.items():
        if values is not None:
            write_tensor(getattr(message, name), values)


def embed_response(outcome: EmbedOutcome) -> explanation_service_pb2.EmbedResponse:
    """Convert an answer of Embed."""
    response = explanation_service_pb2.EmbedResponse(
        provenance=provenance_message(outcome.model, None), timing=timing_message(outcome.timings)
    )
    for result in outcome.results:
        message = response.results.add()
        if isinstance(result, PairlensError):
            message.error.CopyFrom(to_status(result))
        else:
            write_tensor(message.embedding, result)
    return response
