"""Masks and regions drawn over pictures, with numpy and Pillow alone.

The server draws its overlay of a mask with `mask_overlay`, and so do results by
themselves: the two are the same picture.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFilter

from pairlens.rendering import (
    UNSEEN_BRIGHTNESS,
    Box,
    GridGeometry,
    Interpolation,
    enlarge,
    rendered_size,
)

BoolArray = npt.NDArray[np.bool_]

# Neither black nor white: a hidden patch stands out from dark and from bright pictures.
_HIDDEN = (112, 112, 116)
_EDGE = (40, 40, 44)
_REGION, _REGION_EDGE = (255, 255, 255), (20, 20, 20)


def mask_overlay(
    picture: Image.Image,
    mask: BoolArray,
    geometry: GridGeometry,
    *,
    opacity: float = 0.6,
    max_side: int | None = None,
) -> Image.Image:
    """Greys out the hidden patches of a picture.

    Hidden patches lose their colours and are veiled in grey, with a thin dark line where
    they border on shown ones; the shown ones stay as they are, and pixels that the model
    did not see are dimmed, as in `rendering.overlay`.

    Args:
        picture: RGB, the picture that `geometry` speaks of, in any resolution.
        mask: bool [rows, columns], true where a patch is hidden.
        geometry: Where the grid lies on the picture.
        opacity: Of the veil, in [0, 1]; at 0 nothing is hidden and no line is drawn.
        max_side: Longest side of the result in pixels; None keeps the size.

    Returns:
        RGB.

    Raises:
        ValueError: opacity out of range, or `mask` unlike the geometry's grid.
    """
    if not 0 <= opacity <= 1:
        raise ValueError(f"opacity {opacity} is outside [0, 1]")
    height, width = rendered_size(picture.height, picture.width, max_side)
    picture = picture.resize((width, height), Image.Resampling.BICUBIC, reducing_gap=2.0)
    placed = enlarge(mask.astype(np.float32), geometry, height, width, Interpolation.NEAREST)
    drawn = picture.copy()
    if opacity > 0:
        hidden = Image.fromarray(np.nan_to_num(placed) > 0.5).convert("L")
        drawn.paste(_veiled(picture, opacity), mask=hidden)
        thickness = max(1, round(max(height, width) / 600))
        inside = hidden.filter(ImageFilter.MinFilter(2 * thickness + 1))
        edge = (np.asarray(hidden) > 0) & (np.asarray(inside) == 0)
        drawn.paste(_EDGE, mask=Image.fromarray(edge))
    unseen = np.isnan(placed)
    if unseen.any():
        dimmed = picture.point(lambda level: level * UNSEEN_BRIGHTNESS)
        drawn.paste(dimmed, mask=Image.fromarray(unseen))
    return drawn


def _veiled(picture: Image.Image, opacity: float) -> Image.Image:
    # Without hue from opacity 0.5 on, as under the colours of a map.
    grey = picture.convert("L").convert("RGB")
    pale = Image.blend(picture, grey, min(1.0, 2 * opacity))
    return Image.blend(pale, Image.new("RGB", picture.size, _HIDDEN), opacity)


def region_outline(
    drawn: Image.Image, region: Box, image_height: int, image_width: int
) -> Image.Image:
    """Draws the outline of a region: white between dark lines, seen on any ground.

    Args:
        drawn: RGB, the whole picture at any resolution.
        region: In original pixels; what reaches beyond the picture is cut.
        image_height: Of the original picture in pixels.
        image_width: Likewise.

    Returns:
        A new RGB picture.
    """
    across, down = drawn.width / image_width, drawn.height / image_height
    left, right = (
        min(max(round(edge * across), 0), drawn.width) for edge in (region.left, region.right)
    )
    top, bottom = (
        min(max(round(edge * down), 0), drawn.height) for edge in (region.top, region.bottom)
    )
    outlined = drawn.copy()
    draw = ImageDraw.Draw(outlined)
    line = max(1, round(max(drawn.size) / 300))
    for inset, color, width in (
        (0, _REGION_EDGE, line),
        (line, _REGION, 2 * line),
        (3 * line, _REGION_EDGE, line),
    ):
        # Pillow's corners belong to the rectangle; those of a thin region may cross.
        x0, y0 = left + inset, top + inset
        x1, y1 = max(x0, right - 1 - inset), max(y0, bottom - 1 - inset)
        draw.rectangle((x0, y0, x1, y1), outline=color, width=width)
    return outlined
