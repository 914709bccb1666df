"""What a request asks to be drawn: checks of its settings, enlarged maps and PNGs."""

from __future__ import annotations

import io
import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image

from pairlens.rendering import (
    ColorMap,
    ColorScale,
    GridGeometry,
    Interpolation,
    enlarge,
    overlay,
    rendered_size,
)
from pairlens_server.errors import InvalidParameterError
from pairlens_server.images.admission import Picture

MIN_SIDE, MAX_SIDE = 16, 8192

_PNG_COMPRESS_LEVEL = 1


@dataclass(frozen=True)
class RenderOptions:
    """What to draw besides the map on its grid.

    Attributes:
        upsampled: Return the map enlarged to the rendered size.
        overlay: Return a PNG of the picture under the coloured map.
        color_map: Colours of the overlay.
        scale: Which values become the ends of the colour map.
        fixed: (smallest, largest) under FIXED, None elsewhere; see `fixed_range`.
        opacity: Of the colours, in [0, 1].
        interpolation: How the map is enlarged.
        max_side: Longest rendered side in pixels, in [16, 8192]; None for the
            picture's own size.
    """

    upsampled: bool = False
    overlay: bool = False
    color_map: ColorMap = ColorMap.VIRIDIS
    scale: ColorScale = ColorScale.IMAGE
    fixed: tuple[float, float] | None = None
    opacity: float = 0.6
    interpolation: Interpolation = Interpolation.BILINEAR
    max_side: int | None = None

    def validate(self) -> None:
        """Checks the values against the contract.

        Raises:
            InvalidParameterError: A value is out of range, or `fixed` does not suit
                the scale; names the field as `rendering.<field>`.
        """
        if not 0 <= self.opacity <= 1:  # false for NaN too
            raise _invalid("opacity", f"{self.opacity} is outside [0, 1]")
        if self.max_side is not None and not MIN_SIDE <= self.max_side <= MAX_SIDE:
            raise _invalid("max_side", f"{self.max_side} is outside [{MIN_SIDE}, {MAX_SIDE}]")
        fixed_range(self.scale, *(self.fixed or (None, None)))


@dataclass(frozen=True)
class Rendered:
    """What was drawn; None where it was not asked for.

    Attributes:
        upsampled: float32 [height, width] of the rendered size, in the map's own
            unit; NaN at pixels that the model did not see.
        overlay_png: A PNG file, RGB.
    """

    upsampled: npt.NDArray[np.float32] | None
    overlay_png: bytes | None


def fixed_range(
    scale: ColorScale, fixed_min: float | None, fixed_max: float | None
) -> tuple[float, float] | None:
    """Ends of the colour map that the caller fixed.

    Args:
        scale: The request's colour scale.
        fixed_min: As in the request, None where left out.
        fixed_max: Likewise.

    Returns:
        The two under FIXED, otherwise None.

    Raises:
        InvalidParameterError: One is missing under FIXED, given elsewhere, not
            finite, or the two are not in order.
    """
    ends = {"fixed_min": fixed_min, "fixed_max": fixed_max}
    for name, value in ends.items():
        if (value is not None) != (scale is ColorScale.FIXED):
            raise _invalid(name, "required with COLOR_SCALE_FIXED and refused otherwise")
        if value is not None and not math.isfinite(value):
            raise _invalid(name, f"{value} is not finite")
    if fixed_min is None or fixed_max is None:
        return None
    if fixed_min >= fixed_max:
        raise _invalid("fixed_min", f"{fixed_min} is not below rendering.fixed_max, {fixed_max}")
    return fixed_min, fixed_max


def check_rendered_pixels(sizes: Iterable[tuple[int, int]], limit: int) -> None:
    """Bounds what all pictures rendered for one request hold together.

    Args:
        sizes: Height and width of each, as `pairlens.rendering.rendered_size` gives.
        limit: Most pixels in total.

    Raises:
        InvalidParameterError: The total is above the limit.
    """
    total = sum(height * width for height, width in sizes)
    if total > limit:
        raise _invalid(
            "max_side",
            f"the rendered pictures hold {total} pixels together, the limit is {limit}; "
            "ask for a smaller max_side or fewer pictures",
        )


def render(
    picture: Picture,
    values: npt.NDArray[np.float32],
    geometry: GridGeometry,
    options: RenderOptions,
    low: float,
    high: float,
) -> Rendered:
    """Draws what the options ask for.

    Args:
        picture: The picture that the map explains.
        values: float32 [rows, columns].
        geometry: Where the map's cells lie on the picture.
        options: Validated.
        low: Low end of the colour map; see `pairlens.rendering.color_range`.
        high: Its high end.

    Returns:
        The enlarged map and the PNG, each if asked for.
    """
    upsampled = overlay_png = None
    if options.upsampled:
        height, width = rendered_size(picture.height, picture.width, options.max_side)
        upsampled = enlarge(values, geometry, height, width, options.interpolation)
    if options.overlay:
        drawn = overlay(
            picture.image,
            values,
            geometry,
            low=low,
            high=high,
            color_map=options.color_map,
            opacity=options.opacity,
            interpolation=options.interpolation,
            max_side=options.max_side,
        )
        overlay_png = encode_png(drawn)
    return Rendered(upsampled, overlay_png)


def encode_png(drawn: Image.Image) -> bytes:
    """A picture as a PNG file."""
    file = io.BytesIO()
    drawn.save(file, "PNG", compress_level=_PNG_COMPRESS_LEVEL)
    return file.getvalue()


def _invalid(name: str, message: str) -> InvalidParameterError:
    field = f"rendering.{name}"
    return InvalidParameterError(f"{field}: {message}", field=field)
