"""Requests of the contract as commands of the service, checked as far as no model is needed."""

from __future__ import annotations

from pairlens.rendering import ColorMap, ColorScale, Interpolation
from pairlens.v1 import common_pb2, explanation_service_pb2, methods_pb2
from pairlens_server.errors import InvalidParameterError
from pairlens_server.images.render import RenderOptions, fixed_range
from pairlens_server.rpc.convert_methods import explanation_method, pair_method
from pairlens_server.rpc.enums import from_proto
from pairlens_server.service.commands import ClassTarget, ExplainCommand, PairCommand


def explain_command(
    request: explanation_service_pb2.ExplainRequest, deadline_s: float | None
) -> ExplainCommand:
    """Read a request of Explain.

    Args:
        request: The request.
        deadline_s: Event-loop time after which nobody waits; None for never.

    Raises:
        InvalidParameterError: Names the field as in the contract.
    """
    return ExplainCommand(
        model=required_model(request.model),
        image=_required_file(request.image if request.HasField("image") else None, "image"),
        method=explanation_method(request.method) if request.HasField("method") else None,
        target=_target(request.target) if request.HasField("target") else None,
        rendering=_rendering(request.rendering) if request.HasField("rendering") else None,
        deadline_s=deadline_s,
    )


def pair_command(
    request: explanation_service_pb2.PairSimilarityRequest, deadline_s: float | None
) -> PairCommand:
    """Read a request of PairSimilarity; a candidate without a source stays empty, to fail alone.

    Args:
        request: The request.
        deadline_s: Event-loop time after which nobody waits; None for never.

    Raises:
        InvalidParameterError: Names the field as in the contract.
    """
    return PairCommand(
        model=required_model(request.model),
        query=_required_file(request.query if request.HasField("query") else None, "query"),
        candidates=tuple(candidate.inline for candidate in request.candidates),
        method=pair_method(request.method) if request.HasField("method") else None,
        rendering=_rendering(request.rendering) if request.HasField("rendering") else None,
        deadline_s=deadline_s,
    )


def required_model(name: str) -> str:
    """The name of a model in a request.

    Raises:
        InvalidParameterError: It is missing.
    """
    if not name:
        raise InvalidParameterError("model is required; ListModels has the names", field="model")
    return name


def _required_file(image: common_pb2.Image | None, field: str) -> bytes:
    if image is None:
        raise InvalidParameterError(f"{field} is required", field=field)
    if image.WhichOneof("source") is None:
        raise InvalidParameterError(f"{field} has no source", field=f"{field}.inline")
    return image.inline


def _target(message: methods_pb2.Target) -> ClassTarget:
    chosen = message.WhichOneof("target")
    if chosen == "class_index":
        return ClassTarget(class_index=message.class_index)
    if chosen == "label":
        return ClassTarget(label=message.label)
    if chosen == "predicted" and message.predicted:
        return ClassTarget()
    if chosen == "predicted":
        raise InvalidParameterError("predicted must be true when set", field="target.predicted")
    raise InvalidParameterError(
        "target names no class; leave it out for the predicted one", field="target"
    )


def _rendering(message: common_pb2.Rendering) -> RenderOptions:
    default = RenderOptions()
    scale = from_proto(common_pb2.ColorScale, message.scale, ColorScale, "rendering.scale")
    colors = from_proto(common_pb2.ColorMap, message.color_map, ColorMap, "rendering.color_map")
    interpolation = from_proto(
        common_pb2.Interpolation, message.interpolation, Interpolation, "rendering.interpolation"
    )
    fixed = fixed_range(
        scale or default.scale,
        message.fixed_min if message.HasField("fixed_min") else None,
        message.fixed_max if message.HasField("fixed_max") else None,
    )
    return RenderOptions(
        upsampled=message.upsampled,
        overlay=message.overlay,
        color_map=colors or default.color_map,
        scale=scale or default.scale,
        fixed=fixed,
        opacity=message.opacity if message.HasField("opacity") else default.opacity,
        interpolation=interpolation or default.interpolation,
        max_side=message.max_side if message.HasField("max_side") else None,
    )
