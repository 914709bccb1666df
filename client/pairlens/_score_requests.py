"""Requests of ScoreSaliency, built and checked."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from pairlens import _requests, _values
from pairlens._image_fields import ImageField, inline
from pairlens._images import SentImage
from pairlens._parameters import EXPLANATIONS, METRICS, PAIRS, enum_choices
from pairlens._tensors import from_array
from pairlens.errors import InvalidParameterError
from pairlens.metrics import Metric
from pairlens.models import Method, MethodKind, ParameterValue
from pairlens.options import CachePolicy
from pairlens.placed import PlacedMap
from pairlens.rendering import Box
from pairlens.targets import SimilarTo
from pairlens.v1 import common_pb2, explanation_service_pb2

MapInput: TypeAlias = "npt.ArrayLike | PlacedMap"
"""A map to score: [rows, columns] of numbers or bools, or any map that a call answered."""

_EXTENTS = enum_choices(explanation_service_pb2.HeatmapExtent.DESCRIPTOR)
_SIDES = enum_choices(explanation_service_pb2.Side.DESCRIPTOR)
_ENLARGEMENTS = enum_choices(explanation_service_pb2.Enlargement.DESCRIPTOR)
_SCORED_PAIRS = replace(PAIRS, field="pair_method")


@dataclass(frozen=True)
class Saliency:
    """Where the map to score comes from: it is given, or a method makes it.

    Attributes:
        heatmap, partner_heatmap: Given maps.
        kind: Which call's method makes the map; None for a given one.
        method: Its name; None for the model's default.
        parameters: Of the method.
        placed: Those given maps that are results.
    """

    heatmap: explanation_service_pb2.GivenHeatmap | None = None
    partner_heatmap: explanation_service_pb2.GivenHeatmap | None = None
    kind: MethodKind | None = None
    method: str | None = None
    parameters: Mapping[str, ParameterValue] | None = None
    placed: tuple[PlacedMap | None, PlacedMap | None] = (None, None)


def saliency(
    heatmap: MapInput | None,
    partner_heatmap: MapInput | None,
    extent: str | None,
    method: str | Method | None,
    pair_method: str | Method | None,
    parameters: Mapping[str, ParameterValue],
) -> Saliency:
    """Read those arguments of `Client.score_saliency` that say where the map comes from.

    Raises:
        InvalidParameterError: More than one source; a bad map; arguments that go with
            another source.
    """
    sources = {"heatmap": heatmap, "method": method, "pair_method": pair_method}
    named = [name for name, value in sources.items() if value is not None]
    if len(named) > 1:
        raise InvalidParameterError(
            f"give one source of the map, not {' and '.join(named)}", field=named[1]
        )
    if heatmap is None:
        for name, value in (("partner_heatmap", partner_heatmap), ("extent", extent)):
            if value is not None:
                raise InvalidParameterError(f"{name} goes with heatmap", field=name)
        kind = MethodKind.EXPLANATION if pair_method is None else MethodKind.PAIR
        return _made(kind, method if pair_method is None else pair_method, parameters)
    if parameters:
        raise InvalidParameterError(
            f"{', '.join(parameters)}: a given map takes no parameters", field="method"
        )
    return Saliency(
        heatmap=_given(heatmap, extent, "heatmap"),
        partner_heatmap=(
            None if partner_heatmap is None else _given(partner_heatmap, extent, "partner_heatmap")
        ),
        placed=(_placed(heatmap), _placed(partner_heatmap)),
    )


def _placed(given: MapInput | None) -> PlacedMap | None:
    return given if isinstance(given, PlacedMap) else None


def _made(
    kind: MethodKind, method: str | Method | None, parameters: Mapping[str, ParameterValue]
) -> Saliency:
    if not isinstance(method, Method):
        return Saliency(kind=kind, method=method, parameters=parameters)
    if parameters:
        raise InvalidParameterError(
            f"{', '.join(parameters)}: {method.name} holds its parameters already", field="method"
        )
    return Saliency(kind=kind, method=method.name, parameters=method.parameters)


def region(
    boxes: Box | Sequence[Box | tuple[float, float, float, float]], mask: npt.ArrayLike | None
) -> explanation_service_pb2.Region | None:
    """Where the object is; None when neither boxes nor a mask are given.

    Raises:
        InvalidParameterError: A box without an inside, or a mask that is not bool (or
            uint8) [height, width].
    """
    made = explanation_service_pb2.Region()
    several: list[object] = [boxes]
    if isinstance(boxes, Iterable) and _values.box(boxes) is None:  # four numbers are one box
        several = list(boxes)
    for index, value in enumerate(several):
        box = _values.box(value)
        if box is None:
            raise InvalidParameterError(
                "a box is a Box or (left, top, right, bottom) with left < right and top < "
                f"bottom; not {value!r}",
                field=f"region.boxes[{index}]",
            )
        made.boxes.append(
            common_pb2.Box(left=box.left, top=box.top, right=box.right, bottom=box.bottom)
        )
    if mask is not None:
        array = np.asarray(mask)
        if array.ndim != 2 or not array.size or array.dtype not in (np.bool_, np.uint8):
            raise InvalidParameterError(
                "mask is bool or uint8 [image_height, image_width], not "
                f"{array.dtype} of shape {array.shape}",
                field="region.mask",
            )
        made.mask.CopyFrom(from_array(array))
    return made if made.boxes or mask is not None else None


def score_request(
    image: SentImage,
    model: str,
    saliency: Saliency,
    target: int | str | SimilarTo | None,
    *,
    metrics: Sequence[str | Metric],
    sides: Sequence[str],
    enlargement: str | None,
    region: explanation_service_pb2.Region | None,
    return_embeddings: bool,
    cache: CachePolicy = "default",
    field: ImageField = inline,
) -> explanation_service_pb2.ScoreSaliencyRequest:
    """Build the request; arguments as in `Client.score_saliency`, `field` as in `_requests`.

    Raises:
        InvalidParameterError: An unknown or missing metric, side or enlargement; see also
            `Family.fill` and `_requests.target`.
    """
    if not metrics:
        raise InvalidParameterError("give at least one metric", field="metrics")
    request = explanation_service_pb2.ScoreSaliencyRequest(
        model=model,
        image=field(image),
        heatmap=saliency.heatmap,
        partner_heatmap=saliency.partner_heatmap,
        sides=[_number(_SIDES, side, "sides") for side in sides],  # type: ignore[misc]
        region=region,
        return_embeddings=return_embeddings,
        cache=_requests.cache_policy(cache),
    )
    if saliency.method is not None and saliency.kind is MethodKind.PAIR:
        _SCORED_PAIRS.fill(request.pair_method, saliency.method, saliency.parameters or {})
    elif saliency.method is not None:
        EXPLANATIONS.fill(request.method, saliency.method, saliency.parameters or {})
    if target is not None:
        request.target.CopyFrom(_requests.target_message(target, field))
    for metric in metrics:
        chosen = Metric.parse(metric) if isinstance(metric, str) else metric
        METRICS.fill(request.metrics.add(), chosen.name, chosen.parameters)
    if enlargement is not None:
        request.enlargement = _number(_ENLARGEMENTS, enlargement, "enlargement")  # type: ignore[assignment]
    return request


def _number(choices: Mapping[str, int], name: str, field: str) -> int:
    if name not in choices:
        raise InvalidParameterError(
            f"{field}: {name!r} is none of {', '.join(choices)}", field=field
        )
    return choices[name]


def _given(given: MapInput, extent: str | None, field: str) -> explanation_service_pb2.GivenHeatmap:
    if isinstance(given, PlacedMap):
        values: npt.NDArray[np.generic] = given.heatmap
        extent = extent or "grid"
    else:
        try:
            array = np.asarray(given)
        except ValueError as error:
            raise InvalidParameterError(f"{field} is no array: {error}", field=field) from None
        values = _sent(array, field)
    if extent is not None:
        _number(_EXTENTS, extent, "extent")
    # Only the picture has pixels that the model does not see.
    if extent in ("grid", "input") and not np.isfinite(values).all():
        raise InvalidParameterError(f"{field} holds NaN or infinite values", field=field)
    return explanation_service_pb2.GivenHeatmap(
        values=from_array(values),
        extent=0 if extent is None else _EXTENTS[extent],  # type: ignore[arg-type]
    )


def _sent(array: npt.NDArray[np.generic], field: str) -> npt.NDArray[np.generic]:
    """The map as one of the contract's dtypes."""
    if array.ndim != 2 or not array.size or array.dtype.kind not in "fiub":
        raise InvalidParameterError(
            f"{field} is [rows, columns] of numbers or bools, not {array.dtype} of shape "
            f"{array.shape}",
            field=field,
        )
    if array.dtype.kind == "b" or array.dtype in (np.float16, np.uint8):
        return array
    if array.dtype.kind == "f":
        with np.errstate(over="ignore"):  # what is infinite in float32 is refused
            return array.astype(np.float32)
    if array.dtype.kind == "u" and array.max() > np.iinfo(np.int64).max:
        raise InvalidParameterError(f"{field} holds numbers beyond int64", field=field)
    return array.astype(np.int64)
