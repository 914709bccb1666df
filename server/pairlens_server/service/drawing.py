"""Drawing maps as a request asked, within its limits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from pairlens.masks import mask_overlay
from pairlens.rendering import ColorScale, GridGeometry, color_range, rendered_size
from pairlens_server.errors import InvalidParameterError
from pairlens_server.images.admission import Picture
from pairlens_server.images.render import (
    Rendered,
    RenderOptions,
    check_rendered_pixels,
    encode_png,
    render,
)
from pairlens_server.service.commands import BoolArray, Float32Array


def check_options(options: RenderOptions | None, *, pair: bool) -> None:
    """Check what a request wants drawn, before any work is done.

    Raises:
        InvalidParameterError: A value is out of range, or the scale needs a pair.
    """
    if options is None:
        return
    options.validate()
    if options.scale is ColorScale.PAIR and not pair:
        raise InvalidParameterError(
            "COLOR_SCALE_PAIR needs two pictures; Explain has one", field="rendering.scale"
        )


def check_pixels(
    options: RenderOptions | None, sizes: Sequence[tuple[int, int]], limit: int
) -> None:
    """Bound what will be rendered of pictures, each counted as often as it is drawn.

    Args:
        options: None when nothing is drawn.
        sizes: The two sides of each picture.
        limit: Most pixels in all.

    Raises:
        InvalidParameterError: Together they hold more than `limit` pixels.
    """
    if options is None:
        return
    drawings = options.upsampled + options.overlay
    rendered = [rendered_size(height, width, options.max_side) for height, width in sizes]
    check_rendered_pixels(rendered * drawings, limit)


def draw(
    picture: Picture,
    heatmap: Float32Array,
    geometry: GridGeometry,
    options: RenderOptions,
    maps: Sequence[Float32Array],
) -> Rendered:
    """Draw one map.

    Args:
        picture: The picture that the map explains, at the size to draw or larger.
        heatmap: float32 [rows, columns].
        geometry: Where its cells lie.
        options: Checked.
        maps: The maps that share a scale: this one alone, or both of a pair.
    """
    shared = maps if options.scale is ColorScale.PAIR else [heatmap]
    low, high = color_range(shared, options.scale, options.fixed)
    return render(picture, heatmap, geometry, options, low, high)


def draw_mask(
    picture: Picture,
    heatmap: Float32Array,
    geometry: GridGeometry,
    options: RenderOptions,
    mask: BoolArray,
) -> Rendered:
    """Draw a mask over a picture, and enlarge the map that it was made of.

    Args:
        picture: As in `draw`.
        heatmap: float32 [rows, columns].
        geometry: Where its cells lie.
        options: Checked.
        mask: bool [rows, columns], true where a patch is hidden.
    """
    low, high = color_range([heatmap], options.scale, options.fixed)
    rendered = render(picture, heatmap, geometry, replace(options, overlay=False), low, high)
    if not options.overlay:
        return rendered
    drawn = mask_overlay(
        picture.image, mask, geometry, opacity=options.opacity, max_side=options.max_side
    )
    return replace(rendered, overlay_png=encode_png(drawn))
