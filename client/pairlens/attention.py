"""What semantic attention found, on one sheet."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from pairlens import curves, figures, rendering
from pairlens.errors import InvalidParameterError
from pairlens.options import OverlayStyle
from pairlens.rendering import ColorScale, Interpolation
from pairlens.results import Explanation

if TYPE_CHECKING:
    from typing_extensions import Unpack

_PLOT_SIZE = (720, 460)
_PICTURE_WIDTH, _PICTURE_HEIGHT = 448, 420


def attention_figure(explanation: Explanation, **style: Unpack[OverlayStyle]) -> Image.Image:
    """Draw what semantic attention found on one sheet.

    Above, the picture, its keypoints counted by patch, and the patches' scores; below, the
    curves of `pairlens.curves` over the blocks.

    Args:
        explanation: Of the method "semantic_attention".
        **style: Of the scores' overlay, as in `PlacedMap.overlay`.

    Returns:
        RGB on white.

    Raises:
        InvalidParameterError: The answer holds no interrelations or no keypoints, or a bad
            style.
    """
    plots = [
        plot(explanation.interrelations, size=_PLOT_SIZE)
        for plot in (curves.interrelation_curves, curves.focus_curve)
    ]
    picture = explanation.image.picture()
    block = explanation.method.parameters.get("block")
    scores = "patch scores" if block is None else f"patch scores in block {block}"
    top = figures.contact_sheet(
        picture,
        [
            _keypoints(explanation, picture),
            (
                f"{scores}\n{explanation.min:.3g} to {explanation.max:.3g}",
                explanation.overlay(**style),
            ),
        ],
        title=figures.title_of(explanation),
        side=_side(picture),
        columns=3,
    )
    width = sum(plot.width for plot in plots)
    sheet = Image.new("RGB", (width, top.height + plots[0].height), "white")
    sheet.paste(top, ((width - top.width) // 2, 0))
    for index, plot in enumerate(plots):
        sheet.paste(plot, (index * _PLOT_SIZE[0], top.height))
    return sheet


def _keypoints(explanation: Explanation, picture: Image.Image) -> tuple[str, Image.Image]:
    """Caption and drawing of the keypoints in each patch."""
    keypoints = explanation.keypoints
    if keypoints is None:
        raise InvalidParameterError(f"{explanation.method} gives no keypoints")
    counts = keypoints.astype(np.float32)
    low, high = rendering.color_range([counts], ColorScale.IMAGE)
    drawn = rendering.overlay(
        picture,
        counts,
        explanation.geometry,
        low=low,
        high=high,
        interpolation=Interpolation.NEAREST,
    )
    with_any = int((keypoints > 0).sum())
    note = f"{low:g} to {high:g}; at least one in {with_any} of {keypoints.size} patches"
    return f"SIFT keypoints in each patch\n{note}", drawn


def _side(picture: Image.Image) -> int:
    """Longest side at which three pictures fit above two plots."""
    scale = min(_PICTURE_WIDTH / picture.width, _PICTURE_HEIGHT / picture.height)
    return max(16, round(max(picture.size) * scale))
