"""Outcomes of the service to responses of the contract.

Large arrays are written where they end up: protobuf copies a message that is given to the
constructor of another, whole and once per level, and holds the GIL meanwhile.
"""

from __future__ import annotations

from weakref import WeakKeyDictionary

import numpy as np
from google.protobuf import duration_pb2
from numpy.typing import NDArray

from pairlens.rendering import GridGeometry
from pairlens.v1 import common_pb2, explanation_service_pb2
from pairlens_server import __version__
from pairlens_server.errors import PairlensError
from pairlens_server.images.render import Rendered
from pairlens_server.methods.base import Method
from pairlens_server.models.loaded import LoadedModel
from pairlens_server.rpc.convert_methods import explanation_message, pair_message
from pairlens_server.rpc.errors import to_status
from pairlens_server.service.commands import (
    ExplainOutcome,
    Float32Array,
    PairMatch,
    PairOutcome,
    PanelOutcome,
    ResolvedTarget,
    SideMap,
    Timings,
)
from pairlens_server.telemetry.record import current_call

# What is the same in every answer of a model; hashing its settings takes longer than the rest.
_OF_MODELS: WeakKeyDictionary[LoadedModel, common_pb2.Provenance] = WeakKeyDictionary()


def dtype_name(model: LoadedModel) -> str:
    """What a model computes in, as the contract names it ("float32")."""
    return str(model.dtype).removeprefix("torch.")


def write_tensor(message: common_pb2.Tensor, values: Float32Array) -> None:
    """Write a float32 array as bytes; `repeated float` takes 25 times as long to encode."""
    message.dtype = common_pb2.DATA_TYPE_FLOAT32
    message.shape.extend(values.shape)
    message.data = np.ascontiguousarray(values, dtype="<f4").tobytes()


def write_heatmap(
    message: common_pb2.Heatmap, values: Float32Array, geometry: GridGeometry
) -> None:
    """Write a map with its range and geometry."""
    low, high = float(values.min()), float(values.max())
    message.min, message.max, message.constant = low, high, low == high
    write_tensor(message.values, values)
    where, box = message.geometry, geometry.region
    where.rows, where.columns = geometry.rows, geometry.columns
    where.image_height, where.image_width = geometry.image_height, geometry.image_width
    region = where.region
    region.left, region.top, region.right, region.bottom = box.left, box.top, box.right, box.bottom


def _write_rendered(message: common_pb2.Rendered, rendered: Rendered) -> None:
    message.SetInParent()  # drawn, even when nothing of it was asked for
    if rendered.upsampled is not None:
        write_tensor(message.upsampled, rendered.upsampled)
    if rendered.overlay_png:
        message.overlay_png = rendered.overlay_png


def provenance_message(model: LoadedModel, method: Method | None) -> common_pb2.Provenance:
    """Enough to repeat an answer; None where no method ran."""
    of_model = _OF_MODELS.get(model)
    if of_model is None:
        of_model = common_pb2.Provenance(
            model=model.name,
            model_fingerprint=model.fingerprint,
            preprocessing_digest=model.preprocessing.digest,
            dtype=dtype_name(model),
            device=str(model.device),
            server_version=__version__,
        )
        _OF_MODELS[model] = of_model
    message = common_pb2.Provenance()
    message.CopyFrom(of_model)
    if method is not None:
        message.method, message.method_revision = method.name, method.revision
    return message


def _duration(seconds: float) -> duration_pb2.Duration:
    whole, nanos = divmod(round(seconds * 1e9), 10**9)
    return duration_pb2.Duration(seconds=whole, nanos=nanos)


def timing_message(timings: Timings) -> common_pb2.Timing:
    """Where the time of the current call went."""
    call = current_call()
    return common_pb2.Timing(
        total=_duration(timings.total_s),
        decode=_duration(timings.decode_s),
        queue=_duration(timings.queue_s),
        compute=_duration(timings.compute_s),
        method=_duration(timings.method_s),
        render=_duration(timings.render_s),
        cache=_duration(timings.cache_s),
        cached_images=timings.cached_images,
        images=timings.images,
        request_id="" if call is None else call.request_id,
    )


def explain_response(outcome: ExplainOutcome) -> explanation_service_pb2.ExplainResponse:
    """Convert an answer of Explain."""
    response = explanation_service_pb2.ExplainResponse(
        target=None if outcome.target is None else target_message(outcome.target),
        method=explanation_message(outcome.method),
        provenance=provenance_message(outcome.model, outcome.method),
        timing=timing_message(outcome.timings),
        units=[
            explanation_service_pb2.Unit(unit=unit.unit, strength=unit.strength)
            for unit in outcome.units
        ],
        interrelations=[
            explanation_service_pb2.HeadInterrelation(**vars(relation))
            for relation in outcome.interrelations
        ],
        diagnostics=explanation_service_pb2.Diagnostics(
            relevance_drift=outcome.relevance_drift,
            completeness_error=outcome.completeness_error,
            bias_share=outcome.bias_share,
            prefix_share=outcome.prefix_share,
        ),
    )
    write_heatmap(response.heatmap, outcome.heatmap, outcome.geometry)
    if outcome.rendered is not None:
        _write_rendered(response.rendered, outcome.rendered)
    if outcome.mask is not None:
        write_mask(response.mask, outcome.mask)
    if outcome.keypoints is not None:
        message = response.keypoints
        message.dtype = common_pb2.DATA_TYPE_INT64
        message.shape.extend(outcome.keypoints.shape)
        message.data = np.ascontiguousarray(outcome.keypoints, dtype="<i8").tobytes()
    for panel in outcome.panels:
        _write_panel(response.panels.add(), panel)
    return response


def target_message(target: ResolvedTarget) -> explanation_service_pb2.ResolvedTarget:
    """What a map explains, or is scored by."""
    return explanation_service_pb2.ResolvedTarget(
        class_index=target.class_index,
        label=target.label,
        logit=target.logit,
        probability=target.probability,
        similarities=target.similarities,
    )


def _write_panel(message: explanation_service_pb2.Panel, panel: PanelOutcome) -> None:
    write_heatmap(message.heatmap, panel.heatmap, panel.geometry)
    for name in ("block", "head", "unit"):
        value = getattr(panel, name)
        if value is not None:
            setattr(message, name, value)
    if panel.rendered is not None:
        _write_rendered(message.rendered, panel.rendered)
    if panel.mask is not None:
        write_mask(message.mask, panel.mask)


def write_mask(message: common_pb2.Tensor, mask: NDArray[np.bool_]) -> None:
    """Write a boolean array, one byte a value."""
    message.dtype = common_pb2.DATA_TYPE_BOOL
    message.shape.extend(mask.shape)
    message.data = np.ascontiguousarray(mask, dtype=np.uint8).tobytes()


def _write_side(message: explanation_service_pb2.SideMap, side: SideMap) -> None:
    write_heatmap(message.heatmap, side.heatmap, side.geometry)
    # In float64, so that the parts add up as far as float32 allows.
    message.sum = float(side.heatmap.sum(dtype=np.float64))
    message.bias_share = side.bias_share
    message.prefix_share = side.prefix_share
    if side.rendered is not None:
        _write_rendered(message.rendered, side.rendered)


def _write_result(
    message: explanation_service_pb2.PairResult, result: PairMatch | PairlensError
) -> None:
    if isinstance(result, PairlensError):
        message.error.CopyFrom(to_status(result))
        return
    match = message.match
    match.similarity = result.similarity
    _write_side(match.query, result.query)
    _write_side(match.candidate, result.candidate)
    if result.match_matrix is not None:
        write_tensor(match.match_matrix, result.match_matrix)


def pair_response(outcome: PairOutcome) -> explanation_service_pb2.PairSimilarityResponse:
    """Convert an answer of PairSimilarity."""
    response = explanation_service_pb2.PairSimilarityResponse(
        method=pair_message(outcome.method),
        provenance=provenance_message(outcome.model, outcome.method),
        timing=timing_message(outcome.timings),
    )
    for result in outcome.results:
        _write_result(response.results.add(), result)
    return response
