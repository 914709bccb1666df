"""Captioned pictures in rows of one height: the layout of the figures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image, ImageDraw, ImageFont

from pairlens import ColorScale, Explanation, PairMatch, PlacedMap, SideMap
from pairlens.masks import mask_overlay, region_outline
from pairlens.rendering import Box, color_range, overlay

MAX_WIDTH = 1200
_GAP, _MARGIN, _LINE, _FONT = 12, 10, 17, 13
_INK, _FAINT = (34, 34, 38), (100, 100, 108)


@dataclass(frozen=True)
class Cell:
    """A picture and the lines above it, the first of them darker."""

    picture: Image.Image
    lines: tuple[str, ...]


def enlarged(picture: Image.Image, height: int) -> Image.Image:
    """The picture at a height in pixels."""
    width = round(picture.width * height / picture.height)
    return picture.resize((width, height), Image.Resampling.LANCZOS)


def drawn(placed: PlacedMap, height: int, ends: tuple[float, float] | None = None) -> Image.Image:
    """The map over its picture, as an overlay of the SDK at a height in pixels.

    Args:
        placed: The map.
        height: Of the drawing; photographs smaller than that are enlarged first.
        ends: Of the colour scale; None: those of the map.
    """
    picture = enlarged(placed.image.picture(), height)
    low, high = ends or color_range([placed.heatmap], ColorScale.IMAGE)
    return overlay(picture, placed.heatmap, placed.geometry, low=low, high=high)


def masked(explanation: Explanation, height: int) -> Image.Image:
    """The picture with its hidden patches greyed out."""
    assert explanation.mask is not None
    picture = enlarged(explanation.image.picture(), height)
    return mask_overlay(picture, explanation.mask, explanation.geometry, opacity=0.8)


def sides(
    match: PairMatch, height: int, captions: tuple[str, str], *, shared: bool = True
) -> tuple[Cell, Cell]:
    """Both pictures of a pair.

    Args:
        match: The pair.
        height: Of the drawings.
        captions: Of the query and the candidate.
        shared: Put both on one colour scale; maps of a region never are.
    """
    maps = [match.query.heatmap, match.candidate.heatmap]
    region = match.query_region or match.candidate_region
    ends = color_range(maps, ColorScale.PAIR) if shared and region is None else None

    def cell(side: SideMap, outlined: Box | None, caption: str) -> Cell:
        picture = drawn(side, height, ends)
        where = side.geometry
        if outlined is not None:
            picture = region_outline(picture, outlined, where.image_height, where.image_width)
        return Cell(picture, (caption, span(side, digits=2)))

    return (
        cell(match.query, match.query_region, captions[0]),
        cell(match.candidate, match.candidate_region, captions[1]),
    )


def around_zero(placed: PlacedMap) -> tuple[float, float]:
    """Ends of a colour scale with zero in its middle."""
    most = max(abs(placed.min), abs(placed.max))
    return -most, most


def span(placed: PlacedMap, digits: int = 3) -> str:
    """Smallest and largest value of a map, in words."""
    return f"{placed.min:.{digits}g} to {placed.max:.{digits}g}"


def sheet(rows: Sequence[Sequence[Cell]]) -> Image.Image:
    """Put cells into rows.

    Args:
        rows: At least one, each with at least one cell.

    Returns:
        RGB on white, at most `MAX_WIDTH` wide.
    """
    heads = [_LINE * max(len(cell.lines) for cell in row) + 3 for row in rows]
    tops = [max(cell.picture.height for cell in row) for row in rows]
    widths = [sum(cell.picture.width + _GAP for cell in row) - _GAP for row in rows]
    height = sum(heads) + sum(tops) + _GAP * (len(rows) - 1) + 2 * _MARGIN
    page = Image.new("RGB", (max(widths) + 2 * _MARGIN, height), "white")
    draw = ImageDraw.Draw(page)
    y = _MARGIN
    for row, head, top in zip(rows, heads, tops, strict=True):
        x = _MARGIN
        for cell in row:
            for index, line in enumerate(cell.lines):
                ink = _FAINT if index else _INK
                text = _cut(line, cell.picture.width)
                draw.text((x, y + index * _LINE), text, ink, ImageFont.load_default(_FONT))
            page.paste(cell.picture, (x, y + head))
            x += cell.picture.width + _GAP
        y += head + top + _GAP
    return fitted(page)


def fitted(page: Image.Image) -> Image.Image:
    """The page, made smaller when it is too wide."""
    if page.width <= MAX_WIDTH:
        return page
    return enlarged(page, round(page.height * MAX_WIDTH / page.width))


def _cut(line: str, width: int) -> str:
    font = ImageFont.load_default(_FONT)
    while line and font.getlength(line) > width:
        line = line[:-1]
    return line
