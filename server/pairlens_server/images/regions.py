"""Which cells of a map a region of the picture covers."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from pairlens.rendering import Box, GridGeometry


def covered_cells(geometry: GridGeometry, box: Box) -> NDArray[np.float32]:
    """Part of each cell that a box covers: float32 [cells] in [0, 1], row by row.

    Args:
        geometry: Where the cells lie.
        box: In original pixels; may reach beyond the picture.
    """
    region = geometry.region
    down = _covered(region.top, region.bottom, geometry.rows, box.top, box.bottom)
    across = _covered(region.left, region.right, geometry.columns, box.left, box.right)
    return np.outer(down, across).astype(np.float32).ravel()


def _covered(start: float, stop: float, count: int, low: float, high: float) -> NDArray[np.float64]:
    edges = np.linspace(start, stop, count + 1)
    overlap = np.minimum(edges[1:], high) - np.maximum(edges[:-1], low)
    return np.clip(overlap * count / (stop - start), 0.0, 1.0)
