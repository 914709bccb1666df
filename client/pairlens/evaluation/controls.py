"""Maps that know nothing of the model, or of its weights: what a method has to beat.

Metrics of saliency hardly tell some published methods from random maps (Wu et al., "On the
Faithfulness of Vision Transformer Explanations", CVPR 2024), and photographs have their
object in the middle. A score means something beside those of the controls alone.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
from PIL import Image

from pairlens.evaluation.records import Row
from pairlens.evaluation.sampling import generator
from pairlens.models import MethodKind, ModelInfo
from pairlens.rendering import Box, FloatArray

RANDOM, CENTRE, EDGES = "random", "centre", "edges"
SINGLE_IMAGE_ROLLOUT, RANDOM_WEIGHTS = "single-image rollout", "random weights"

DRAWN_CONTROLS = (RANDOM, CENTRE, EDGES)
"""Controls that are made of the picture or of nothing, without the model."""

CONTROL_NAMES = (*DRAWN_CONTROLS, SINGLE_IMAGE_ROLLOUT, RANDOM_WEIGHTS)
"""All controls, as rows are named."""

DESCRIPTIONS = {
    RANDOM: "uniform noise, seeded by the case",
    CENTRE: "a Gaussian at the centre, with a quarter of the side as deviation",
    EDGES: "mean edge strength (Sobel) of the picture in each cell",
    SINGLE_IMAGE_ROLLOUT: "attention rollout of each picture by itself, blind to class and partner",
    RANDOM_WEIGHTS: "the default method on the same architecture with random weights",
}

_ROLLOUT = "rollout"
_LUMA = np.array([0.299, 0.587, 0.114], np.float32)  # ITU-R BT.601, as Pillow's "L"


def control_map(
    name: str, picture: Image.Image, region: Box, rows: int, columns: int, seed_text: str
) -> FloatArray:
    """The map of one of `DRAWN_CONTROLS`.

    Args:
        name: "random": uniform in [0, 1). "centre": exp(-(y^2 + x^2) / (2 * 0.25^2)) at the
            cells' centres, y and x from the grid's middle in sides of the grid. "edges":
            magnitude of the Sobel gradient of the grey levels (0 to 255), mean over what
            of the cell lies on the picture, 0 where nothing does.
        picture: Upright RGB.
        region: The part of the picture that the grid divides evenly, in pixels; may
            reach beyond it.
        rows: Cells of the map.
        columns: Likewise.
        seed_text: Of "random": the same text gives the same map.

    Returns:
        float32 [rows, columns]

    Raises:
        ValueError: An unknown name.
    """
    if name == RANDOM:
        return generator(seed_text).random((rows, columns), dtype=np.float32)
    if name == CENTRE:
        return _centre(rows, columns)
    if name == EDGES:
        return _edges(picture, region, rows, columns)
    raise ValueError(f"no drawn control {name!r}; there are {', '.join(DRAWN_CONTROLS)}")


def control_rows(model: ModelInfo, kind: MethodKind) -> tuple[Row, ...]:
    """All controls as rows of a table, refused where the model cannot give them.

    Args:
        model: What is evaluated.
        kind: Whether its explanations or its pair maps are.
    """
    refusals: dict[str, Callable[[ModelInfo, MethodKind], str]] = {
        SINGLE_IMAGE_ROLLOUT: lambda model, _: _rollout_refusal(model),
        RANDOM_WEIGHTS: _twin_refusal,
    }
    return tuple(
        Row(
            name,
            control=True,
            refusal=refusals[name](model, kind) if name in refusals else "",
            description=DESCRIPTIONS[name],
        )
        for name in CONTROL_NAMES
    )


def _rollout_refusal(model: ModelInfo) -> str:
    for info in model.methods:
        if info.name == _ROLLOUT and info.kind is MethodKind.EXPLANATION:
            return info.refusal
    return "the server has no rollout"


def _twin_refusal(model: ModelInfo, kind: MethodKind) -> str:
    if not model.random_twin:
        return (
            f"the server holds no model that is {model.name} with random weights; "
            "random_twin: true in its models file adds one"
        )
    if model.default_method(kind) is None:
        return f"{model.name} has no default method"
    return ""


def _centre(rows: int, columns: int) -> FloatArray:
    y = (np.arange(rows) + 0.5) / rows - 0.5
    x = (np.arange(columns) + 0.5) / columns - 0.5
    squared = y[:, None] ** 2 + x[None, :] ** 2
    return np.asarray(np.exp(-squared / (2 * 0.25**2)), np.float32)


def _edges(picture: Image.Image, region: Box, rows: int, columns: int) -> FloatArray:
    strength = sobel_magnitude(np.asarray(picture.convert("RGB"), np.float32) @ _LUMA)
    height, width = strength.shape
    down = _overlaps(rows, region.top, region.bottom, height)
    across = _overlaps(columns, region.left, region.right, width)
    area = down.sum(axis=1)[:, None] * across.sum(axis=1)[None, :]
    total = down @ strength @ across.T
    mean = np.divide(total, area, out=np.zeros_like(total), where=area > 0)
    return np.asarray(mean, np.float32)


def sobel_magnitude(grey: FloatArray) -> npt.NDArray[np.float64]:
    """Length of the gradient under the 3 x 3 Sobel kernels; border pixels repeat.

    Args:
        grey: [height, width]
    """
    padded = np.pad(grey.astype(np.float64), 1, mode="edge")
    across = padded[:, 2:] - padded[:, :-2]
    down = padded[2:] - padded[:-2]
    gx = across[:-2] + 2 * across[1:-1] + across[2:]
    gy = down[:, :-2] + 2 * down[:, 1:-1] + down[:, 2:]
    return np.asarray(np.hypot(gx, gy), np.float64)


def _overlaps(cells: int, start: float, end: float, length: int) -> npt.NDArray[np.float64]:
    """Length that each cell of [start, end] shares with each pixel, [cells, length]."""
    edges = start + (end - start) * np.arange(cells + 1) / cells
    pixels = np.arange(length)
    low = np.maximum(edges[:-1, None], pixels[None, :])
    high = np.minimum(edges[1:, None], pixels[None, :] + 1)
    return np.asarray(np.maximum(high - low, 0.0), np.float64)
