"""Maps of the contract as the fields of the SDK's, checked on the way."""

from __future__ import annotations

import math
from typing import Any

from pairlens._images import SentImage
from pairlens._tensors import to_bool, to_float32
from pairlens.errors import MalformedResponseError
from pairlens.masks import BoolArray
from pairlens.options import Rendering
from pairlens.placed import Rendered
from pairlens.rendering import Box, FloatArray, GridGeometry
from pairlens.v1 import common_pb2


def placed_map(
    heatmap: common_pb2.Heatmap,
    rendered: common_pb2.Rendered,
    image: SentImage,
    render: Rendering | None,
    what: str,
) -> dict[str, Any]:
    """Read the fields of a `PlacedMap`.

    Args:
        heatmap: Values and geometry.
        rendered: What the server drew.
        image: The picture.
        render: What was asked to be drawn, resolved.
        what: What the map is, for messages.

    Raises:
        MalformedResponseError: The map breaks the contract.
    """
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


def mask(tensor: common_pb2.Tensor, placed: dict[str, Any], what: str) -> BoolArray:
    """Read the mask of a map that `placed_map` has read.

    Raises:
        MalformedResponseError: It is no mask, or not on the map's grid.
    """
    read = to_bool(tensor, 2, what)
    if read.shape != placed["heatmap"].shape:
        raise MalformedResponseError(f"{what} is {read.shape} and not {placed['heatmap'].shape}")
    return read
