"""Where a saliency map lies on the model's input, and the order in which it erases."""

from __future__ import annotations

from dataclasses import replace
from enum import Enum

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from pairlens.rendering import GridGeometry
from pairlens_server.models.loaded import TokenLayout
from pairlens_server.recording.probes import cells_of_pixels


class Enlargement(str, Enum):
    """How the cells of a map become pixels of the model's input."""

    NEAREST = "nearest"  # a pixel has the value of the cell that its centre lies in
    BILINEAR = "bilinear"  # half-pixel centres, as the CAMs of the thesis
    BILINEAR_ALIGNED = "bilinear_aligned"  # corners aligned, as its attention maps


class Extent(str, Enum):
    """What the cells or pixels of a given map lie on."""

    GRID = "grid"  # the part of the input that the model sees, divided evenly
    PICTURE = "picture"  # the upright original picture, pixel by pixel
    INPUT = "input"  # the model's input, pixel by pixel


class ErasureOrder(str, Enum):
    """Which end of the map goes first; one is the exact reverse of the other."""

    MOST_RELEVANT_FIRST = "most_relevant_first"
    LEAST_RELEVANT_FIRST = "least_relevant_first"


class ErasureUnit(str, Enum):
    """What is erased or put back at once."""

    PIXELS = "pixels"  # of the model's input, ordered by the enlarged map
    CELLS = "cells"  # whole cells of the map's own grid


def grid_to_input(
    values: Tensor, height: int, width: int, layout: TokenLayout, enlargement: Enlargement
) -> Tensor:
    """Enlarge a map over the part of the input that the model's grid covers.

    Args:
        values: [r, c], finite, of any dtype; r and c at most `height` and `width`, and not
            necessarily those of `layout` (a map of another layer).
        height: Of the input, in pixels.
        width: Likewise.
        layout: Says which pixels the grid covers.
        enlargement: See `Enlargement`.

    Returns:
        float32 [height, width]. Pixels that the grid does not cover have the smallest
        value of the enlarged map.
    """
    seen = (height - layout.unseen_bottom, width - layout.unseen_right)
    # In float64, so that between equal cells every pixel has exactly their value: float32's
    # rounding would bring an order into what is a tie.
    cells = values.double()
    if enlargement is Enlargement.NEAREST:
        rows, columns = _cells_of_input(cells, height, width, layout)
        enlarged = cells[rows[: seen[0], None], columns[None, : seen[1]]]
    else:
        aligned = enlargement is Enlargement.BILINEAR_ALIGNED
        enlarged = F.interpolate(
            cells[None, None], size=seen, mode="bilinear", align_corners=aligned
        )[0, 0]
    # Rounding must not carry the largest float32 to infinity.
    enlarged = enlarged.clamp(cells.min(), cells.max()).float()
    uncovered = (0, layout.unseen_right, 0, layout.unseen_bottom)
    return F.pad(enlarged, uncovered, value=enlarged.min().item())


def seen_part(geometry: GridGeometry) -> tuple[slice, slice]:
    """Rows and columns of the original picture whose centres the model's grid covers.

    The pixels that `rendering.enlarge` gives a value; others are NaN there. Where the region
    is too thin for any centre, the pixel that it lies in.
    """
    box = geometry.region
    return (
        _centres_between(box.top, box.bottom, geometry.image_height),
        _centres_between(box.left, box.right, geometry.image_width),
    )


def _centres_between(start: float, stop: float, size: int) -> slice:
    centres = np.arange(size) + 0.5
    inside = np.flatnonzero((centres >= start) & (centres <= stop))
    if inside.size:
        return slice(int(inside[0]), int(inside[-1]) + 1)
    nearest = int(np.clip(np.floor((start + stop) / 2), 0, size - 1))
    return slice(nearest, nearest + 1)


def picture_to_input(
    values: NDArray[np.generic],
    geometry: GridGeometry,
    height: int,
    width: int,
    layout: TokenLayout,
) -> Tensor:
    """Bring a map of the original picture to the model's input.

    Samples bilinearly at the centre of each input pixel; `seen_part` alone is read, edges
    repeated, so what lies beyond may be NaN. No average is taken where the picture is larger
    than the input: maps are smooth at the scale of a pixel, and a mean would blend the
    values whose order is scored.

    Args:
        values: [image_height, image_width], finite in `seen_part`, of any dtype.
        geometry: Its region is what the grid covers of the picture.
        height: Of the input, in pixels.
        width: Likewise.
        layout: Says which pixels of the input the grid covers.

    Returns:
        float32 [height, width]. Pixels outside the picture (padding) or the grid have the
        smallest value of the others.

    Raises:
        ValueError: `values` has another shape than the picture.
    """
    if values.shape != (geometry.image_height, geometry.image_width):
        raise ValueError(
            f"map of shape {values.shape}, picture of {geometry.image_height} x "
            f"{geometry.image_width}"
        )
    box, (rows, columns) = geometry.region, seen_part(geometry)
    down = _Samples(box.top, box.bottom, height - layout.unseen_bottom, geometry.image_height, rows)
    across = _Samples(
        box.left, box.right, width - layout.unseen_right, geometry.image_width, columns
    )
    upper, lower = (
        across.mix(values[np.ix_(taps, across.first)], values[np.ix_(taps, across.second)])
        for taps in (down.first, down.second)
    )
    sampled = upper + down.share[:, None] * (lower - upper)
    inside = np.outer(down.inside, across.inside)
    placed = np.full((height, width), sampled[inside].min())
    placed[: sampled.shape[0], : sampled.shape[1]][inside] = sampled[inside]
    return torch.from_numpy(placed.astype(np.float32))


class _Samples:
    """Where the pixels of the input lie between pixels of the picture, along one axis.

    Attributes:
        first, second: int [seen], the two pixels that each input pixel is mixed of.
        share: float64 [seen], weight of the second.
        inside: bool [seen], whether the centre lies in the picture.
    """

    def __init__(self, start: float, stop: float, seen: int, size: int, readable: slice):
        centres = start + (np.arange(seen) + 0.5) * ((stop - start) / seen)
        low = np.floor(centres - 0.5)
        self.first = np.clip(low, readable.start, readable.stop - 1).astype(np.intp)
        self.second = np.clip(low + 1, readable.start, readable.stop - 1).astype(np.intp)
        self.share = centres - 0.5 - low
        self.inside = (centres >= 0) & (centres <= size)

    def mix(self, first: NDArray[np.generic], second: NDArray[np.generic]) -> NDArray[np.float64]:
        start, stop = first.astype(np.float64), second.astype(np.float64)
        mixed: NDArray[np.float64] = start + self.share * (stop - start)
        return mixed


def ranks(values: Tensor, *, flipped_ties: bool = False) -> Tensor:
    """When each place goes: 0 for the most relevant.

    Args:
        values: [r, c], finite.
        flipped_ties: Equal values go from the bottom right on, as by the flipped ascending
            argsort of the thesis' code (there unstable, here stable), and not in reading order.

    Returns:
        int64 [r, c], each of 0 .. r·c - 1 once.
    """
    # Adding 0 makes -0.0 the equal of 0.0 where a device sorts by bits.
    flat = values.flatten() + 0
    if flipped_ties:
        order = torch.argsort(flat, stable=True).flip(0)
    else:
        order = torch.argsort(flat, descending=True, stable=True)
    places = torch.empty_like(order)
    places[order] = torch.arange(len(order), device=order.device)
    return places.reshape(values.shape)


def cell_ranks_on_input(cell_ranks: Tensor, height: int, width: int, layout: TokenLayout) -> Tensor:
    """Give each pixel of the input the rank of its cell.

    Args:
        cell_ranks: int64 [r, c] of `ranks`.
        height: Of the input, in pixels.
        width: Likewise.
        layout: Says which pixels the grid covers.

    Returns:
        int64 [height, width]; r·c, which comes after all cells, where the grid does not cover.
    """
    rows, columns = _cells_of_input(cell_ranks, height, width, layout)
    uncovered = (0, layout.unseen_right, 0, layout.unseen_bottom)
    covered = cell_ranks[
        rows[: height - layout.unseen_bottom, None],
        columns[None, : width - layout.unseen_right],
    ]
    return F.pad(covered, uncovered, value=cell_ranks.numel())


def _cells_of_input(
    cells: Tensor, height: int, width: int, layout: TokenLayout
) -> tuple[Tensor, Tensor]:
    """`cells_of_pixels` for a grid of the shape of `cells`."""
    rows, columns = cells.shape
    grid = replace(layout, rows=rows, columns=columns)
    return cells_of_pixels(grid, cells.new_empty(height, width))


def unit_mask(values: Tensor) -> Tensor:
    """Scale a map to 0..1 by its own smallest and largest value.

    Args:
        values: [H, W], finite.

    Returns:
        float32 [H, W]; 0 everywhere for a constant map.
    """
    # In float64, where the difference of any two float32 is finite.
    wide = values.double()
    low, high = wide.min(), wide.max()
    if low == high:
        return torch.zeros_like(wide, dtype=torch.float32)
    return ((wide - low) / (high - low)).float()
