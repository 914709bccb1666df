"""Heatmaps drawn over the pictures they explain, with numpy and Pillow alone.

A map lives on the model's grid; `GridGeometry` says which part of the original
picture that grid covers. Everything here goes from output pixels through original
pixels to grid cells, so that resizing, cropping and padding cancel out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

import numpy as np
import numpy.typing as npt
from PIL import Image

from pairlens import _colormaps

FloatArray = npt.NDArray[np.float32]

_CUBIC_A = -0.75
# Dark enough to tell from the seen part at a glance, light enough to recognise.
UNSEEN_BRIGHTNESS = 0.55


class ColorMap(str, Enum):
    """Colours of a heatmap, from low to high."""

    VIRIDIS = "viridis"  # perceptually uniform
    INFERNO = "inferno"  # perceptually uniform
    JET = "jet"  # OpenCV's, the papers' map; not perceptually uniform


class ColorScale(str, Enum):
    """Which values become the two ends of the colour map."""

    IMAGE = "image"  # smallest and largest value of the one map
    PAIR = "pair"  # smallest and largest value of both maps together
    FIXED = "fixed"  # given by the caller


class Interpolation(str, Enum):
    """How a map is enlarged; values repeat beyond the grid's border."""

    NEAREST = "nearest"  # shows the cells
    BILINEAR = "bilinear"  # half-pixel centres
    BICUBIC = "bicubic"  # half-pixel centres, a = -0.75; overshoots the map's range


@dataclass(frozen=True)
class Box:
    """A rectangle in original pixels, given by its edges; fractions occur.

    Attributes:
        left, right: Edges along x, left < right.
        top, bottom: Edges along y (downwards), top < bottom.
    """

    left: float
    top: float
    right: float
    bottom: float


@dataclass(frozen=True)
class GridGeometry:
    """Where the cells of a heatmap lie on the original picture.

    Attributes:
        rows, columns: Cells of the map, at least 1 each.
        image_height, image_width: Size of the upright original picture in pixels.
        region: Part of the picture that the model saw, which the grid divides
            evenly. Smaller than the picture after a crop, larger after padding.
    """

    rows: int
    columns: int
    image_height: int
    image_width: int
    region: Box


def rendered_size(image_height: int, image_width: int, max_side: int | None) -> tuple[int, int]:
    """Height and width that a picture is drawn at.

    Args:
        image_height: Of the picture, in pixels.
        image_width: Of the picture, in pixels.
        max_side: Longest side allowed in pixels; None keeps the size.

    Returns:
        The size scaled down to fit, sides rounded and at least 1; never enlarged.
    """
    longest = max(image_height, image_width)
    if max_side is None or longest <= max_side:
        return image_height, image_width
    scale = max_side / longest
    return max(1, round(image_height * scale)), max(1, round(image_width * scale))


def enlarge(
    values: FloatArray,
    geometry: GridGeometry,
    height: int,
    width: int,
    interpolation: Interpolation,
) -> FloatArray:
    """Brings a map from its grid back to the whole picture.

    Equal to OpenCV's `resize` when the region is the whole picture (BILINEAR:
    INTER_LINEAR, BICUBIC: INTER_CUBIC, NEAREST: INTER_NEAREST_EXACT).

    Args:
        values: [rows, columns] as in `geometry`. A cell that is not finite makes
            NaN of the pixels it contributes to and of no others.
        geometry: Where the grid lies.
        height: Of the result, in pixels; it covers the whole picture.
        width: Likewise.
        interpolation: See `Interpolation`.

    Returns:
        float32 [height, width]; NaN where the pixel's centre is outside the region.

    Raises:
        ValueError: `values` has another shape than the geometry's grid.
    """
    if values.shape != (geometry.rows, geometry.columns):
        raise ValueError(f"map of shape {values.shape}, grid {geometry.rows} x {geometry.columns}")
    box = geometry.region
    down, seen_down = _axis_weights(
        geometry.rows, box.top, box.bottom, geometry.image_height, height, interpolation
    )
    across, seen_across = _axis_weights(
        geometry.columns, box.left, box.right, geometry.image_width, width, interpolation
    )
    finite = np.isfinite(values)
    with np.errstate(over="ignore", invalid="ignore"):
        enlarged: FloatArray = down @ (np.where(finite, values, 0).astype(np.float32) @ across.T)
    if not finite.all():
        unknown = np.abs(down) @ ((~finite).astype(np.float32) @ np.abs(across).T)
        enlarged[unknown > 0] = np.nan
    enlarged[~seen_down] = np.nan
    enlarged[:, ~seen_across] = np.nan
    return enlarged


def colorize(values01: FloatArray, color_map: ColorMap) -> npt.NDArray[np.uint8]:
    """Colours of values between 0 and 1.

    Args:
        values01: [H, W]; clipped to [0, 1], NaN counts as 0.
        color_map: Which colours.

    Returns:
        uint8 [H, W, 3], RGB.
    """
    # fmax, unlike maximum, takes the number where the other is NaN.
    level = np.minimum(np.fmax(values01, np.float32(0)), np.float32(1)) * np.float32(256)
    np.minimum(level, np.float32(255), out=level)
    colors: npt.NDArray[np.uint8] = _colormaps.table(color_map.value)[level.astype(np.uint8)]
    return colors


def color_range(
    maps: Sequence[FloatArray], scale: ColorScale, fixed: tuple[float, float] | None = None
) -> tuple[float, float]:
    """Values that become the two ends of the colour map.

    Args:
        maps: The one map under IMAGE, both maps of a pair under PAIR; any shapes.
        scale: Which rule.
        fixed: The ends, under FIXED and there alone.

    Returns:
        (low, high) over all finite values; (0, 0) when there is none.

    Raises:
        ValueError: The number of maps or `fixed` does not suit the scale.
    """
    if (fixed is not None) != (scale is ColorScale.FIXED):
        raise ValueError("fixed ends are given under ColorScale.FIXED and there alone")
    if fixed is not None:
        return fixed
    if len(maps) != (2 if scale is ColorScale.PAIR else 1):
        raise ValueError(f"{len(maps)} maps for {scale}")
    finite = np.concatenate([values[np.isfinite(values)].ravel() for values in maps])
    return (float(finite.min()), float(finite.max())) if finite.size else (0.0, 0.0)


def overlay(
    picture: Image.Image,
    values: FloatArray,
    geometry: GridGeometry,
    *,
    low: float,
    high: float,
    color_map: ColorMap = ColorMap.VIRIDIS,
    opacity: float = 0.6,
    interpolation: Interpolation = Interpolation.BILINEAR,
    max_side: int | None = None,
) -> Image.Image:
    """Draws a map over its picture.

    Pixels that the model did not see keep the picture's colours, dimmed. For the
    look of the others see `_blend`.

    Args:
        picture: RGB, the picture that `geometry` speaks of, in any resolution.
        values: float32 [rows, columns].
        geometry: Where the grid lies on the picture.
        low: Value at the low end of the colour map; see `color_range`.
        high: Value at its high end.
        color_map: Which colours.
        opacity: Of the colours, in [0, 1].
        interpolation: How the map is enlarged.
        max_side: Longest side of the result in pixels; None keeps the size.

    Returns:
        RGB. The picture without colours when the map is constant, low and high are
        equal, or one of them is not finite; cells that are not finite are drawn as
        not seen.

    Raises:
        ValueError: opacity out of range, or `values` unlike the geometry's grid.
    """
    if not 0 <= opacity <= 1:
        raise ValueError(f"opacity {opacity} is outside [0, 1]")
    height, width = rendered_size(picture.height, picture.width, max_side)
    picture = picture.resize((width, height), Image.Resampling.BICUBIC, reducing_gap=2.0)
    finite = np.isfinite(values)
    constant = np.unique(values[finite]).size < 2
    if constant or not (np.isfinite([low, high]).all() and low < high):
        return picture
    # Scaled on the grid, in float64, and bounded: float32 could overflow.
    unit = (np.where(finite, values, np.nan).astype(np.float64) - low) / (high - low)
    bounded = np.clip(unit, -1e6, 1e6).astype(np.float32)
    enlarged = enlarge(bounded, geometry, height, width, interpolation)
    drawn = _blend(picture, Image.fromarray(colorize(enlarged, color_map)), opacity)
    unseen = np.isnan(enlarged)
    if unseen.any():
        dimmed = picture.point(lambda level: level * UNSEEN_BRIGHTNESS)
        drawn.paste(dimmed, mask=Image.fromarray(unseen))
    return drawn


def _blend(picture: Image.Image, colors: Image.Image, opacity: float) -> Image.Image:
    """Lays colours at one opacity over the picture in grey.

    Tried on photographs, the alternatives lose. Over the picture's own colours an
    orange flower or yellow sandstone passes for heat. With opacity that grows with
    the value, the cold half of the scale cannot be read and mild heat on a bright
    sky vanishes. Grey keeps the shapes by which one recognises the picture and
    makes every hue a statement of the map. Below opacity 0.5 the picture's colours
    fade back in, up to the unchanged picture at 0.
    """
    grey = picture.convert("L").convert("RGB")
    return Image.blend(Image.blend(picture, grey, min(1.0, 2 * opacity)), colors, opacity)


def _axis_weights(
    cells: int, start: float, end: float, length: int, size: int, interpolation: Interpolation
) -> tuple[FloatArray, npt.NDArray[np.bool_]]:
    """Weights with which cells along one axis make pixels along it.

    Args:
        cells: Number of cells, which divide [start, end] of the original evenly.
        start: First edge of the region in original pixels.
        end: Second edge.
        length: Original pixels along this axis.
        size: Output pixels along this axis, which divide [0, length] evenly.
        interpolation: See `Interpolation`.

    Returns:
        float32 [size, cells], rows sum to 1; bool [size], whether the pixel's centre
        is inside the region.
    """
    centers = (np.arange(size) + 0.5) * (length / size)
    position = (centers - start) / (end - start) * cells
    first = np.floor(position)
    taps: npt.NDArray[np.float64] = np.ones((1, size))
    if interpolation is not Interpolation.NEAREST:
        first = np.floor(position - 0.5)
        taps = _taps(position - 0.5 - first, interpolation)
        first -= len(taps) // 2 - 1
    weights = np.zeros((size, cells), np.float32)
    for offset, tap in enumerate(taps):
        # Clipping the index repeats the border's cells, as OpenCV and torch do.
        cell = np.clip(first + offset, 0, cells - 1).astype(np.intp)
        weights[np.arange(size), cell] += tap
    return weights, (centers >= start) & (centers <= end)


def _taps(t: npt.NDArray[np.float64], interpolation: Interpolation) -> npt.NDArray[np.float64]:
    """Weights [2 or 4, size] of neighbouring cells at fraction t of the way between two."""
    if interpolation is Interpolation.BILINEAR:
        return np.stack([1 - t, t])
    a, x = _CUBIC_A, np.stack([t + 1, t, 1 - t, 2 - t])  # x: distance of the four cells
    near = ((a + 2) * x - (a + 3)) * x * x + 1
    return np.where(x <= 1, near, ((a * x - 5 * a) * x + 8 * a) * x - 4 * a)
