"""Curves over depth: how attention relates patches, and how broadly it looks.

Drawn as the papers' figures: mean over the heads of a block, with a band from the smallest
to the largest of them (arXiv 2211.08543).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image

from pairlens._plot import Curve, Numbers, line_plot
from pairlens.errors import InvalidParameterError
from pairlens.results import HeadInterrelation

# Okabe and Ito's colours, which people with any kind of colour vision tell apart.
BLUE, VERMILLION, GREEN, PURPLE = (0, 114, 178), (213, 94, 0), (0, 158, 115), (204, 121, 167)
_KINDS = (
    ("kk", "KK: keypoints to keypoints", BLUE, "circle"),
    ("kn", "KN: keypoints to others", VERMILLION, "square"),
    ("nk", "NK: others to keypoints", GREEN, "triangle"),
    ("nn", "NN: others to others", PURPLE, "diamond"),
)


def interrelation_curves(
    interrelations: Sequence[HeadInterrelation], *, size: tuple[int, int] = (720, 460)
) -> Image.Image:
    """Plot KK, KN, NK and NN over the blocks.

    Args:
        interrelations: Of `Explanation.interrelations`. A kind that is None in all heads
            of a block leaves a gap.
        size: Width and height in pixels.

    Returns:
        RGB on white; the y axis goes from 0 to 1.

    Raises:
        InvalidParameterError: There is nothing to plot.
    """
    blocks = _blocks(interrelations)
    curves = [
        Curve(name, color, marker, *over_heads(interrelations, kind))
        for kind, name, color, marker in _KINDS
    ]
    return line_plot(
        blocks,
        curves,
        title="What patches attend to",
        x_label="block",
        y_label="share of attention",
        y_range=(0.0, 1.0),
        size=size,
    )


def focus_curve(
    interrelations: Sequence[HeadInterrelation], *, size: tuple[int, int] = (720, 460)
) -> Image.Image:
    """Plot the focus index over the blocks; arguments as in `interrelation_curves`."""
    curve = Curve("focus index", BLUE, "circle", *over_heads(interrelations, "focus_index"))
    return line_plot(
        _blocks(interrelations),
        [curve],
        title="How broadly patches attend",
        x_label="block",
        y_label="focus index (nats)",
        size=size,
    )


def over_heads(
    interrelations: Sequence[HeadInterrelation], name: str
) -> tuple[Numbers, Numbers, Numbers]:
    """Mean, smallest and largest over the heads of each block.

    Args:
        interrelations: In any order.
        name: Of a number of `HeadInterrelation`.

    Returns:
        float64 [blocks] each, blocks ascending; NaN for blocks where all heads have None.
    """
    values: dict[int, list[float]] = {block: [] for block in _blocks(interrelations)}
    for head in interrelations:
        value = getattr(head, name)
        if value is not None:
            values[head.block].append(value)
    rows = [(np.mean(of), min(of), max(of)) if of else (np.nan,) * 3 for of in values.values()]
    mean, low, high = np.array(rows, np.float64).T
    return mean, low, high


def _blocks(interrelations: Sequence[HeadInterrelation]) -> list[int]:
    if not interrelations:
        raise InvalidParameterError("the answer holds no interrelations: there is nothing to plot")
    return sorted({head.block for head in interrelations})
