"""SIFT keypoints in each patch of a model's input."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
import torch
from torch import Tensor

from pairlens_server.models.loaded import TokenLayout


def keypoint_counts(
    pixels: Tensor,
    mean: Sequence[float],
    std: Sequence[float],
    layout: TokenLayout,
    *,
    dedupe: bool = False,
) -> Tensor:
    """Count OpenCV's SIFT keypoints in each cell of a grid (arXiv 2211.08543, section 2.2).

    SIFT runs with OpenCV's defaults (contrast threshold 0.04, edge threshold 10, σ 1.6,
    3 layers an octave, no cap) on the 8-bit greyscale of what the model sees. The patch of a
    keypoint at (x, y) is (⌊y/height⌋, ⌊x/width⌋) of a cell's size.

    Args:
        pixels: float32 [3, H, W], the normalised input, on any device.
        mean: Of the normalisation, per channel (red, green, blue), to undo it.
        std: Likewise.
        layout: The grid; keypoints on edges that no patch covers are left out.
        dedupe: Count a keypoint of several orientations once instead of once for each.

    Returns:
        int64 [rows · columns] on the CPU, row by row.
    """
    grey = _greyscale(pixels, mean, std)
    found = [(*keypoint.pt, keypoint.size) for keypoint in cv2.SIFT.create().detect(grey, None)]
    # One location and size comes once for each dominant orientation.
    places = np.array(list(dict.fromkeys(found)) if dedupe else found).reshape(-1, 3)
    height, width = grey.shape
    cell_height = (height - layout.unseen_bottom) / layout.rows
    cell_width = (width - layout.unseen_right) / layout.columns
    # Refinement below a pixel may leave the picture by a fraction of one.
    rows = (places[:, 1].clip(0, height - 1) // cell_height).astype(np.int64)
    columns = (places[:, 0].clip(0, width - 1) // cell_width).astype(np.int64)
    seen = (rows < layout.rows) & (columns < layout.columns)
    cells = rows[seen] * layout.columns + columns[seen]
    return torch.from_numpy(np.bincount(cells, minlength=layout.cells).astype(np.int64))


def _greyscale(pixels: Tensor, mean: Sequence[float], std: Sequence[float]) -> np.ndarray:
    """Undo the normalisation: uint8 [H, W], from the very levels that were normalised."""
    levels = pixels.detach().cpu().float() * torch.tensor(std).view(3, 1, 1)
    levels = (levels + torch.tensor(mean).view(3, 1, 1)).mul(255).round().clamp(0, 255)
    rgb = levels.to(torch.uint8).permute(1, 2, 0).contiguous().numpy()
    return np.asarray(cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY))
