"""Sums by cell of the model's grid, of maps of any size over the same picture."""

from __future__ import annotations

import math

import torch
from torch import Tensor


class CellSums:
    """Adds maps up on one grid, and apart from it what has no place there.

    A map of another size is shared out by area, so that nothing is lost: a pixel falls into
    its cell, a coarser map spreads evenly.

    Args:
        pixels: Of the model's input [B, 3, H, W]; gives sizes, device and least dtype.
        grid: Rows and columns.
        seen: Height and width in pixels of what the grid covers; it may reach beyond the input
            or leave out its edge.
        absolute: Take the absolute value of each place of each map as it comes.
    """

    def __init__(
        self, pixels: Tensor, grid: tuple[int, int], seen: tuple[int, int], absolute: bool
    ):
        self._grid = grid
        self._seen = seen
        self._input = (int(pixels.shape[-2]), int(pixels.shape[-1]))
        self._absolute = absolute
        self._maps: dict[tuple[int, int], Tensor] = {}
        dtype = torch.promote_types(pixels.dtype, torch.float32)
        self._rest = torch.zeros(len(pixels), dtype=dtype, device=pixels.device)

    def add_map(self, values: Tensor) -> None:
        """Add [B, height, width], whose places lie evenly over the picture."""
        size = (int(values.shape[1]), int(values.shape[2]))
        values = self._taken(values)
        self._maps[size] = self._maps[size] + values if size in self._maps else values

    def add_rest(self, values: Tensor) -> None:
        """Add [B, ...], which lies nowhere on the picture."""
        self._rest = self._rest + self._taken(values).reshape(len(values), -1).sum(1)

    def sums(self) -> Tensor:
        """Cells row by row, then the rest: [B, rows * columns + 1]."""
        cells, rest = self._rest.new_zeros(len(self._rest), *self._grid), self._rest
        for size, values in self._maps.items():
            down, across = (self._shares(axis, size[axis]).to(values) for axis in (0, 1))
            placed = down @ values @ across.T
            cells = cells + placed
            rest = rest + (values.sum((1, 2)) - placed.sum((1, 2)))
        return torch.cat((cells.flatten(1), rest[:, None]), dim=1)

    def _taken(self, values: Tensor) -> Tensor:
        values = values.detach().to(self._rest.dtype)
        return values.abs() if self._absolute else values

    def _shares(self, axis: int, count: int) -> Tensor:
        """Share of each place of a map in each cell along an axis: [cells, count]."""
        cells, seen, pixels = self._grid[axis], self._seen[axis], self._input[axis]
        cell = seen / cells
        if count == pixels:
            step = 1.0
        elif seen == pixels:
            step = seen / count
        else:
            # Windows and strides that leave an edge over are powers of two apart.
            step = cell / 2.0 ** round(math.log2(count / cells))
        first = torch.arange(count, dtype=torch.float64) * step
        start = torch.arange(cells, dtype=torch.float64)[:, None] * cell
        overlap = torch.minimum(first + step, start + cell) - torch.maximum(first, start)
        return overlap.clamp_min(0) / step
