"""One picture that shows at a glance what matched: photographs, and each model's maps."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from pairlens import PairMatch
from pairlens.pictures import to_rgb
from pairlens.rendering import ColorMap, colorize

_CELL = 300  # longest side of a photograph in the figure, in pixels
_GAP = 14
_CAPTION = 44
_LEGEND = 46


def _shrunk(picture: Image.Image) -> Image.Image:
    scale = _CELL / max(picture.size)
    size = (round(picture.width * scale), round(picture.height * scale))
    return picture.resize(size, Image.Resampling.LANCZOS)


def _legend(width: int) -> Image.Image:
    strip = Image.new("RGB", (width, _LEGEND), "white")
    ramp = np.tile(np.linspace(0, 1, width // 3, dtype=np.float32), (12, 1))
    bar = colorize(ramp, ColorMap.INFERNO)
    left = (width - bar.shape[1]) // 2
    strip.paste(Image.fromarray(bar), (left, 18))
    draw = ImageDraw.Draw(strip)
    font = ImageFont.load_default(14)
    draw.text((left - 10, 24), "adds little", "black", font, anchor="rm")
    draw.text((left + bar.shape[1] + 10, 24), "adds most to the similarity", "black", font, "lm")
    return strip


def pair_figure(
    name: str, query: Path, candidate: Path, matches: Mapping[str, PairMatch]
) -> Image.Image:
    """Draw a pair: the query above the candidate, the photographs and then each model's maps.

    Args:
        name: Title.
        query: Photograph.
        candidate: Photograph.
        matches: By the model's name.

    Returns:
        RGB.
    """
    columns = [("photographs", [_shrunk(to_rgb(Image.open(p))) for p in (query, candidate)])]
    for model, match in matches.items():
        low = min(match.query.min, match.candidate.min)
        high = max(match.query.max, match.candidate.max)
        maps = [
            _shrunk(side.overlay(scale="fixed", fixed=(low, high), color_map=ColorMap.INFERNO))
            for side in (match.query, match.candidate)
        ]
        columns.append((f"{model}   cosine similarity {match.similarity:.2f}", maps))
    heights = [max(pictures[row].height for _, pictures in columns) for row in (0, 1)]
    width = len(columns) * (_CELL + _GAP) + _GAP
    figure = Image.new("RGB", (width, _CAPTION + sum(heights) + 2 * _GAP + _LEGEND), "white")
    draw = ImageDraw.Draw(figure)
    for number, (caption, pictures) in enumerate(columns):
        left = _GAP + number * (_CELL + _GAP)
        text = f"{name}: {caption}" if number == 0 else caption
        draw.text((left, 14), text, "black", ImageFont.load_default(17))
        top = _CAPTION
        for picture, height in zip(pictures, heights, strict=True):
            figure.paste(picture, (left + (_CELL - picture.width) // 2, top))
            top += height + _GAP
    figure.paste(_legend(width), (0, figure.height - _LEGEND))
    return figure
