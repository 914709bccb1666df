"""Whether a map points at a region of the original picture. No model is asked."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product

import numpy as np
from numpy.typing import NDArray

from pairlens.rendering import Box, GridGeometry

# A cell that reaches into the picture by less than this share does so by rounding.
_SLIVER = 1e-9
# A centre that is no further from an edge, in original pixels, lies on it but for rounding.
_ON_EDGE = 1e-6


@dataclass(frozen=True, eq=False)
class RegionOfInterest:
    """Where the object is: the union of boxes and mask, edges included.

    Attributes:
        boxes: In original pixels.
        mask: bool [image_height, image_width], or None.
    """

    boxes: tuple[Box, ...]
    mask: NDArray[np.bool_] | None

    def __post_init__(self) -> None:
        if not self.boxes and self.mask is None:
            raise ValueError("a region needs a box or a mask")


def coverage(region: RegionOfInterest, geometry: GridGeometry) -> NDArray[np.float64]:
    """Share of each cell's area within the picture that lies in the region.

    Exact, for the union of boxes and mask: the picture is cut along the edges of all cells,
    boxes and pixels of the mask, so that every piece is inside or outside.

    Args:
        region: Of the picture.
        geometry: Where the cells lie on it.

    Returns:
        float64 [rows, columns] in [0, 1]; 0 for cells that lie wholly in padding.

    Raises:
        ValueError: The mask has another shape than the picture.
    """
    _check_mask(region, geometry)
    box = geometry.region
    down = np.linspace(box.top, box.bottom, geometry.rows + 1).clip(0, geometry.image_height)
    across = np.linspace(box.left, box.right, geometry.columns + 1).clip(0, geometry.image_width)
    full = np.outer(np.diff(down), np.diff(across))
    cell = (box.bottom - box.top) * (box.right - box.left) / full.size
    right_edges = [edge for b in region.boxes for edge in (b.left, b.right)]
    cuts = _cuts(across[0], across[-1], [*across, *right_edges], region.mask is not None)
    starts = np.searchsorted(cuts[:-1], across[:-1])
    shares = np.zeros_like(full)
    thick = full.max(axis=1) > _SLIVER * cell
    alike = _rows_as_before(region, down) & thick & np.roll(thick, 1)
    for row in np.flatnonzero(thick):
        if alike[row]:
            shares[row] = shares[row - 1]
            continue
        lengths = _covered_lengths(region, down[row], down[row + 1], cuts)
        areas = np.append(lengths * np.diff(cuts), 0.0)
        inside = full[row] > _SLIVER * cell
        # A cell without width starts where the next one does: reduceat gives it that one's
        # first piece, which `inside` drops.
        sums = np.add.reduceat(areas, starts)
        shares[row, inside] = sums[inside] / full[row, inside]
    return shares.clip(0.0, 1.0)


def _rows_as_before(region: RegionOfInterest, down: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Which rows of cells, between edges `down`, cross the same boxes as the row before them.

    Neither row then has an edge of a box within it, nor one between them.
    """
    alike = np.zeros(len(down) - 1, dtype=np.bool_)
    if region.mask is not None:
        return alike
    edges = np.unique([edge for b in region.boxes for edge in (b.top, b.bottom)])
    band = np.searchsorted(edges, down[:-1], side="right")
    whole = np.searchsorted(edges, down[1:], side="left") <= band
    alike[1:] = whole[1:] & whole[:-1] & (band[1:] == band[:-1])
    return alike


def _check_mask(region: RegionOfInterest, geometry: GridGeometry) -> None:
    picture = (geometry.image_height, geometry.image_width)
    if region.mask is not None and region.mask.shape != picture:
        raise ValueError(f"mask of shape {region.mask.shape}, picture of {picture}")


def _cuts(start: float, stop: float, edges: list[float], at_pixels: bool) -> NDArray[np.float64]:
    """All edges from start to stop, ascending, those between pixels too if asked for."""
    pixels = np.arange(np.ceil(start), np.floor(stop) + 1) if at_pixels else np.empty(0)
    every = np.unique(np.concatenate([[start, stop], edges, pixels]))
    return every[(every >= start) & (every <= stop)]


def _covered_lengths(
    region: RegionOfInterest, top: float, bottom: float, across: NDArray[np.float64]
) -> NDArray[np.float64]:
    """How much of the height from top to bottom is in the region, between each two cuts."""
    boxes = [b for b in region.boxes if b.top < bottom and b.bottom > top]
    edges = [edge for b in boxes for edge in (b.top, b.bottom)]
    down = _cuts(top, bottom, edges, region.mask is not None)
    if region.mask is None:
        inside = np.zeros((len(down) - 1, len(across) - 1), dtype=np.bool_)
    else:
        inside = region.mask[np.ix_(down[:-1].astype(np.intp), across[:-1].astype(np.intp))]
    for b in boxes:
        rows = slice(*np.searchsorted(down, (b.top, b.bottom)))
        columns = slice(*np.searchsorted(across, (b.left, b.right)))
        inside[rows, columns] = True
    lengths: NDArray[np.float64] = np.diff(down) @ inside
    return lengths


def energy_pointing_game(
    heatmap: NDArray[np.floating], geometry: GridGeometry, region: RegionOfInterest
) -> float | None:
    """Share of a map's positive values in the region (Wang et al. 2020, section 4.3).

    Cells that cross the region's edge count by their `coverage`. Negative values count as 0.

    Args:
        heatmap: [rows, columns], finite.
        geometry: Where its cells lie.
        region: Of the picture.

    Returns:
        In [0, 1]; None for a map without positive values.

    Raises:
        ValueError: The map or the mask has another shape than the geometry says.
    """
    _check_map(heatmap, geometry)
    positive = np.maximum(heatmap.astype(np.float64), 0.0)
    if positive.max() == 0:
        return None
    # Scaled first, so that no sum overflows.
    positive = positive / positive.max()
    return float((positive * coverage(region, geometry)).sum() / positive.sum())


def _check_map(heatmap: NDArray[np.floating], geometry: GridGeometry) -> None:
    grid = (geometry.rows, geometry.columns)
    if heatmap.shape != grid:
        raise ValueError(f"map of shape {heatmap.shape}, grid of {grid}")


def pointing_game(
    heatmap: NDArray[np.floating],
    geometry: GridGeometry,
    region: RegionOfInterest,
    tolerance: float,
) -> float:
    """Whether the centre of the largest cell lies in the region (Zhang et al. 2018).

    A centre on the region's edge counts by how much of its closest surroundings is in the
    region: a half on a side, a quarter in a corner. Regions that divide a picture among them
    thus share every map out: the four tiles of a mosaic sum to 1, whatever the grid.

    Args:
        heatmap: [rows, columns], finite.
        geometry: Where its cells lie.
        region: Of the picture.
        tolerance: Distance in original pixels at which a centre still counts, from 0; above
            0, one on the edge counts as 1.

    Returns:
        In [0, 1]; where several cells are largest, their mean.

    Raises:
        ValueError: The map or the mask has another shape than the geometry says, or the
            tolerance is negative or not finite.
    """
    _check_map(heatmap, geometry)
    _check_mask(region, geometry)
    if not 0 <= tolerance < np.inf:
        raise ValueError(f"a tolerance of {tolerance} pixels")
    largest = heatmap == heatmap.max()
    rows = np.flatnonzero(largest.any(axis=1))
    largest = largest[rows]
    box = geometry.region
    ys = _centres(box.top, box.bottom, geometry.rows)[rows]
    xs = _centres(box.left, box.right, geometry.columns)
    if tolerance > 0:
        near = _near_boxes(region.boxes, ys, xs, tolerance)
        if region.mask is not None:
            near |= _near_mask(region.mask, ys, xs, tolerance)
        return float(near[largest].mean())
    ys, xs = _off_border(ys, geometry.image_height), _off_border(xs, geometry.image_width)
    hits = 0
    for down, across in product((-_ON_EDGE, _ON_EDGE), repeat=2):
        hits += np.count_nonzero(_inside(region, ys + down, xs + across) & largest)
    return float(hits / (4 * np.count_nonzero(largest)))


def _centres(start: float, stop: float, count: int) -> NDArray[np.float64]:
    shares = (np.arange(count) + 0.5) / count
    return (start + (stop - start) * shares).astype(np.float64)


def _off_border(centres: NDArray[np.float64], size: int) -> NDArray[np.float64]:
    """Centres on the picture's border just within it: around them there is nothing beyond."""
    within = centres.clip(2 * _ON_EDGE, size - 2 * _ON_EDGE)
    return np.where(np.abs(within - centres) <= 3 * _ON_EDGE, within, centres)


def _inside(
    region: RegionOfInterest, ys: NDArray[np.float64], xs: NDArray[np.float64]
) -> NDArray[np.bool_]:
    """Whether each point is in the region: [len(ys), len(xs)]; `ys` and `xs` ascend."""
    inside = np.zeros((len(ys), len(xs)), dtype=np.bool_)
    if region.mask is not None:
        height, width = region.mask.shape
        rows, columns = (slice(*np.searchsorted(c, (0, n))) for c, n in ((ys, height), (xs, width)))
        pixels = np.ix_(ys[rows].astype(np.intp), xs[columns].astype(np.intp))
        inside[rows, columns] = region.mask[pixels]
    for b in region.boxes:
        rows = slice(*np.searchsorted(ys, (b.top, b.bottom)))
        inside[rows, slice(*np.searchsorted(xs, (b.left, b.right)))] = True
    return inside


def _near_boxes(
    boxes: tuple[Box, ...], ys: NDArray[np.float64], xs: NDArray[np.float64], tolerance: float
) -> NDArray[np.bool_]:
    """Whether each point is within the tolerance of a box: [len(ys), len(xs)].

    For each y, a box reaches over a span of x, and the points in the union of the spans are
    near: the boxes cost rows, and not points.
    """
    begun = np.zeros((len(ys), len(xs) + 1), dtype=np.int16)
    for b in boxes:
        down = np.maximum(np.maximum(b.top - ys, ys - b.bottom), 0.0)
        rows = np.flatnonzero(down <= tolerance)
        reach = np.sqrt((tolerance - down[rows]) * (tolerance + down[rows]))
        begun[rows, np.searchsorted(xs, b.left - reach, side="left")] += 1
        begun[rows, np.searchsorted(xs, b.right + reach, side="right")] -= 1
    np.cumsum(begun, axis=1, out=begun)
    return begun[:, :-1] > 0


def _near_mask(
    mask: NDArray[np.bool_], ys: NDArray[np.float64], xs: NDArray[np.float64], tolerance: float
) -> NDArray[np.bool_]:
    """Whether each point is within the tolerance of a pixel of the mask: [len(ys), len(xs)].

    For each y, the nearest pixel of the mask in every column says how far along x it
    reaches; the points in the union of these spans are near. Time and memory are those of
    the mask and the points, whatever the tolerance.
    """
    first = int(np.clip(np.ceil(ys[0] - 1 - tolerance), 0, len(mask)))
    last = int(np.clip(np.floor(ys[-1] + tolerance), -1, len(mask) - 1))
    down = _distances_along_columns(mask[first : last + 1], ys - first)
    near = np.zeros((len(ys), len(xs)), dtype=np.bool_)
    for index, distances in enumerate(down):
        columns = np.flatnonzero(distances <= tolerance)
        away = distances[columns]
        reach = np.sqrt((tolerance - away) * (tolerance + away))
        opened = np.searchsorted(xs, columns - reach, side="left")
        closed = np.searchsorted(xs, columns + 1 + reach, side="right")
        spans = np.bincount(opened, minlength=len(xs) + 1)
        spans -= np.bincount(closed, minlength=len(xs) + 1)
        near[index] = spans.cumsum()[:-1] > 0
    return near


def _distances_along_columns(
    mask: NDArray[np.bool_], ys: NDArray[np.float64]
) -> Iterator[NDArray[np.float64]]:
    """For each y, its distance to the mask's nearest pixel in every column: [W], inf for none."""
    height = len(mask)
    if height == 0:
        return
    rows = np.arange(height, dtype=np.int32)[:, None]
    nowhere = np.int32(np.iinfo(np.int32).max // 2)
    above = np.maximum.accumulate(np.where(mask, rows, -nowhere), axis=0)
    below = np.minimum.accumulate(np.where(mask, rows, nowhere)[::-1], axis=0)[::-1]
    for y in ys:
        row = np.floor(y)
        distances = np.full(mask.shape[1], np.inf)
        if row >= 0:
            nearest = above[int(min(row, height - 1))]
            distances = np.where(nearest >= 0, np.maximum(y - 1 - nearest, 0.0), np.inf)
        if row < height:
            nearest = below[int(max(row, 0))]
            beneath = np.where(nearest < nowhere, np.maximum(nearest - y, 0.0), np.inf)
            distances = np.minimum(distances, beneath)
        yield distances
