"""Requests of the contract, built and checked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from pairlens import _parameters, _values
from pairlens._image_fields import ImageField, inline
from pairlens._images import SentImage
from pairlens._tensors import from_array
from pairlens.errors import InvalidParameterError
from pairlens.models import MethodKind
from pairlens.options import CachePolicy, Rendering
from pairlens.rendering import ColorMap, ColorScale, Interpolation
from pairlens.targets import SimilarTo
from pairlens.v1 import common_pb2, explanation_service_pb2, methods_pb2

_CACHE_POLICIES: Mapping[str, common_pb2.CachePolicy.ValueType] = {
    "default": common_pb2.CACHE_POLICY_UNSPECIFIED,
    "bypass": common_pb2.CACHE_POLICY_BYPASS,
    "refresh": common_pb2.CACHE_POLICY_REFRESH,
}
_COLOR_MAPS = {
    ColorMap.VIRIDIS: common_pb2.COLOR_MAP_VIRIDIS,
    ColorMap.INFERNO: common_pb2.COLOR_MAP_INFERNO,
    ColorMap.JET: common_pb2.COLOR_MAP_JET,
}
_COLOR_SCALES = {
    ColorScale.IMAGE: common_pb2.COLOR_SCALE_IMAGE,
    ColorScale.PAIR: common_pb2.COLOR_SCALE_PAIR,
    ColorScale.FIXED: common_pb2.COLOR_SCALE_FIXED,
}
_INTERPOLATIONS = {
    Interpolation.NEAREST: common_pb2.INTERPOLATION_NEAREST,
    Interpolation.BILINEAR: common_pb2.INTERPOLATION_BILINEAR,
    Interpolation.BICUBIC: common_pb2.INTERPOLATION_BICUBIC,
}


def explain_request(
    image: SentImage,
    model: str,
    method: str | None,
    parameters: Mapping[str, object],
    target: int | str | SimilarTo | None,
    render: Rendering | None,
    cache: CachePolicy = "default",
    field: ImageField = inline,
) -> explanation_service_pb2.ExplainRequest:
    """Build the request of `Client.explain`.

    Args:
        image: The picture.
        model: Name of a served model.
        method: None for the server's default, then without parameters.
        parameters: Of the method.
        target: Class index, label, similarity, or None for the predicted class.
        render: What to draw, resolved.
        cache: How the server's cache is used.
        field: How pictures travel.

    Raises:
        InvalidParameterError: See `_parameters.fill`; or a bad target.
    """
    request = explanation_service_pb2.ExplainRequest(
        model=model, image=field(image), cache=cache_policy(cache)
    )
    if method is not None:
        _parameters.fill(request.method, MethodKind.EXPLANATION, method, parameters)
    if target is not None:
        request.target.CopyFrom(target_message(target, field))
    if render is not None:
        request.rendering.CopyFrom(_rendering(render))
    return request


def pair_request(
    query: SentImage,
    candidates: Sequence[SentImage],
    model: str,
    method: str | None,
    parameters: Mapping[str, object],
    render: Rendering | None,
    cache: CachePolicy = "default",
    field: ImageField = inline,
) -> explanation_service_pb2.PairSimilarityRequest:
    """Build the request of `Client.pair_similarity`; arguments as in `explain_request`.

    Raises:
        InvalidParameterError: No candidate; or see `_parameters.fill`.
    """
    if not candidates:
        raise InvalidParameterError("give at least one candidate", field="candidates")
    request = explanation_service_pb2.PairSimilarityRequest(
        model=model,
        query=field(query),
        candidates=[field(candidate) for candidate in candidates],
        cache=cache_policy(cache),
    )
    if method is not None:
        _parameters.fill(request.method, MethodKind.PAIR, method, parameters)
    if render is not None:
        request.rendering.CopyFrom(_rendering(render))
    return request


def cache_policy(policy: str) -> common_pb2.CachePolicy.ValueType:
    """The contract's number of a policy; unspecified for the default.

    Raises:
        InvalidParameterError: An unknown policy.
    """
    if policy not in _CACHE_POLICIES:
        raise InvalidParameterError(
            f"cache is one of {', '.join(_CACHE_POLICIES)}; not {policy!r}", field="cache"
        )
    return _CACHE_POLICIES[policy]


def target_message(target: int | str | SimilarTo, field: ImageField = inline) -> methods_pb2.Target:
    """A target of the caller as the contract's, its pictures as `field` sends them.

    Raises:
        InvalidParameterError: An empty label, or neither index, label nor similarity.
    """
    if isinstance(target, SimilarTo):
        similarity = methods_pb2.SimilarityTarget(images=[field(image) for image in target.images])
        if target.embeddings is not None:
            similarity.embeddings.CopyFrom(from_array(target.embeddings))
        return methods_pb2.Target(similarity=similarity)
    if isinstance(target, str):
        if not target:
            raise InvalidParameterError("the target's label is empty", field="target")
        return methods_pb2.Target(label=target)
    index = _values.index(target)
    if index is None:
        raise InvalidParameterError(
            f"target is a class index (0 or more), a label, a SimilarTo, or None for the "
            f"predicted class; not {target!r}",
            field="target",
        )
    return methods_pb2.Target(class_index=index)


def _rendering(render: Rendering) -> common_pb2.Rendering:
    # All settings are sent, so that a server with other defaults draws the same.
    message = common_pb2.Rendering(
        upsampled=render.upsampled,
        overlay=render.overlay,
        color_map=_COLOR_MAPS[ColorMap(render.color_map)],
        scale=_COLOR_SCALES[ColorScale(render.scale)],
        opacity=render.opacity,
        interpolation=_INTERPOLATIONS[Interpolation(render.interpolation)],
        max_side=render.max_side,
    )
    if render.fixed is not None:
        message.fixed_min, message.fixed_max = render.fixed
    return message
