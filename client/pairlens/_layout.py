"""Several drawn pictures arranged on one."""

from __future__ import annotations

from collections.abc import Sequence

from PIL import Image, ImageDraw, ImageFont

_BACKGROUND = "white"
_INK = "black"


def side_by_side(left: Image.Image, right: Image.Image, caption: str) -> Image.Image:
    """Put two pictures next to each other at the smaller one's height.

    Args:
        left: RGB picture.
        right: RGB picture.
        caption: One line of text below them, cut where it does not fit.

    Returns:
        RGB, with a thin white gap between the two.
    """
    height = min(left.height, right.height)
    pictures = [_at_height(picture, height) for picture in (left, right)]
    gap = max(2, height // 100)
    size = min(max(height // 16, 12), 48)
    width = pictures[0].width + gap + pictures[1].width
    sheet = Image.new("RGB", (width, height + size * 3 // 2), _BACKGROUND)
    sheet.paste(pictures[0], (0, 0))
    sheet.paste(pictures[1], (pictures[0].width + gap, 0))
    font = ImageFont.load_default(size)
    ImageDraw.Draw(sheet).text((size // 3, height + size // 8), caption, fill=_INK, font=font)
    return sheet


def stack(rows: Sequence[Image.Image]) -> Image.Image:
    """Put pictures below one another, aligned on the left.

    Args:
        rows: At least one RGB picture.

    Returns:
        RGB, as wide as the widest row.
    """
    sheet = Image.new(
        "RGB", (max(row.width for row in rows), sum(row.height for row in rows)), _BACKGROUND
    )
    top = 0
    for row in rows:
        sheet.paste(row, (0, top))
        top += row.height
    return sheet


def _at_height(picture: Image.Image, height: int) -> Image.Image:
    if picture.height == height:
        return picture
    width = max(1, round(picture.width * height / picture.height))
    return picture.resize((width, height), Image.Resampling.BICUBIC, reducing_gap=2.0)
