"""Requests of the contract as commands of the service, checked as far as no model is needed."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from pairlens.rendering import ColorMap, ColorScale, Interpolation
from pairlens.v1 import common_pb2, explanation_service_pb2, methods_pb2
from pairlens_server.errors import InvalidParameterError
from pairlens_server.images.render import RenderOptions, fixed_range
from pairlens_server.rpc.caller import Caller
from pairlens_server.rpc.convert_cache import read_policy
from pairlens_server.rpc.convert_images import (
    MAX_PICTURES,
    check_count,
    read_sources,
    required_source,
)
from pairlens_server.rpc.convert_methods import explanation_method, pair_method
from pairlens_server.rpc.enums import from_proto
from pairlens_server.service.commands import (
    ClassTarget,
    ExplainCommand,
    PairCommand,
    SimilarityTarget,
    Target,
)


def explain_command(
    request: explanation_service_pb2.ExplainRequest, caller: Caller
) -> ExplainCommand:
    """Read a request of Explain.

    Raises:
        InvalidParameterError: Names the field as in the contract.
    """
    return ExplainCommand(
        model=required_model(request.model),
        image=required_source(request.image if request.HasField("image") else None, "image"),
        method=explanation_method(request.method) if request.HasField("method") else None,
        target=read_target(request.target) if request.HasField("target") else None,
        rendering=_rendering(request.rendering) if request.HasField("rendering") else None,
        deadline_s=caller.deadline_s,
        cache=read_policy(request.cache),
        client=caller.client,
    )


def pair_command(
    request: explanation_service_pb2.PairSimilarityRequest, caller: Caller
) -> PairCommand:
    """Read a request of PairSimilarity; a candidate without a source stays empty, to fail alone.

    Raises:
        InvalidParameterError: Names the field as in the contract.
    """
    return PairCommand(
        model=required_model(request.model),
        query=required_source(request.query if request.HasField("query") else None, "query"),
        candidates=read_sources(request.candidates, "candidates"),
        method=pair_method(request.method) if request.HasField("method") else None,
        rendering=_rendering(request.rendering) if request.HasField("rendering") else None,
        deadline_s=caller.deadline_s,
        cache=read_policy(request.cache),
        client=caller.client,
    )


def required_model(name: str) -> str:
    """The name of a model in a request.

    Raises:
        InvalidParameterError: It is missing.
    """
    if not name:
        raise InvalidParameterError("model is required; ListModels has the names", field="model")
    return name


def read_target(message: methods_pb2.Target) -> Target:
    """What a request wants explained, checked as far as no model is needed.

    Raises:
        InvalidParameterError: Names the field.
    """
    chosen = message.WhichOneof("target")
    if chosen == "class_index":
        return ClassTarget(class_index=message.class_index)
    if chosen == "label":
        return ClassTarget(label=message.label)
    if chosen == "similarity":
        return _similarity(message.similarity)
    if chosen == "predicted" and message.predicted:
        return ClassTarget()
    if chosen == "predicted":
        raise InvalidParameterError("predicted must be true when set", field="target.predicted")
    raise InvalidParameterError(
        "target names nothing; leave it out for the predicted class", field="target"
    )


def _similarity(message: methods_pb2.SimilarityTarget) -> SimilarityTarget:
    path = "target.similarity"
    check_count(message.images, MAX_PICTURES, f"{path}.images")
    images = tuple(
        required_source(image, f"{path}.images[{index}]")
        for index, image in enumerate(message.images)
    )
    embeddings = None
    if message.HasField("embeddings"):
        embeddings = read_matrix(message.embeddings, f"{path}.embeddings")
    if not images and embeddings is None:
        raise InvalidParameterError("give images, embeddings or both", field=path)
    return SimilarityTarget(images, embeddings)


def read_matrix(message: common_pb2.Tensor, field: str) -> NDArray[np.float32]:
    """A float32 array of two dimensions.

    Raises:
        InvalidParameterError: It is of another type or shape, or holds other than as many
            finite numbers as its shape says.
    """
    if message.dtype != common_pb2.DATA_TYPE_FLOAT32 or len(message.shape) != 2:
        raise InvalidParameterError(
            f"{field} is a float32 tensor of shape [count, embedding_size]", field=field
        )
    rows, columns = message.shape
    if rows < 1 or columns < 1 or len(message.data) != 4 * rows * columns:
        raise InvalidParameterError(
            f"{field} of shape [{rows}, {columns}] has {len(message.data)} bytes, "
            f"not {max(0, 4 * rows * columns)}, of at least one row",
            field=field,
        )
    values = np.frombuffer(message.data, "<f4").reshape(rows, columns)
    if not np.isfinite(values).all():
        raise InvalidParameterError(f"{field} holds numbers that are not finite", field=field)
    return values.astype(np.float32)


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
