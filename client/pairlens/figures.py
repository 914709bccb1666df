"""Several drawings on one sheet: all methods, all heads, all blocks."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from PIL import Image, ImageDraw

from pairlens import _text
from pairlens.errors import InvalidParameterError
from pairlens.options import OverlayStyle
from pairlens.results import Explanation, Panel

if TYPE_CHECKING:
    from typing_extensions import Unpack

CELL_SIDE = 256
"""Longest side of a picture in a sheet of captioned pictures, in pixels."""

_MATRIX_SIDES = (56, 192)
_MATRIX_LENGTH = 2400
_PAGE_SHAPE = 1.5  # width over height
_GAP, _MARGIN = 12, 20
_TITLE, _CAPTION, _NOTE = 22, 17, 14
_FAILED_GROUND, _FAILED_INK = (244, 240, 238), (150, 40, 20)


def contact_sheet(
    picture: Image.Image,
    cells: Sequence[tuple[str, Image.Image | str]],
    *,
    title: str = "",
    side: int = CELL_SIDE,
    columns: int | None = None,
) -> Image.Image:
    """Draw captioned pictures in a grid, the plain picture first.

    Args:
        picture: RGB, what all cells are drawn over.
        cells: Caption and drawing of each, or caption and why there is none. Lines after
            a caption's first are set smaller.
        title: One line above all; further lines are set smaller.
        side: Longest side of each picture in pixels; the picture's shape decides the other.
        columns: Of the grid; None: as many as make a page half as wide again as high.

    Returns:
        RGB on white.

    Raises:
        InvalidParameterError: A number that is not positive.
    """
    if side < 16 or (columns is not None and columns < 1):
        raise InvalidParameterError("side is at least 16 pixels, and columns at least 1")
    shape = _scaled(picture, side)
    all_cells: list[tuple[str, Image.Image | str]] = [("picture", picture), *cells]
    notes = max(caption.count("\n") for caption, _ in all_cells)
    grid = _Grid(shape, round(1.6 * _CAPTION) + notes * round(1.35 * _NOTE))
    columns = min(columns or grid.columns(len(all_cells)), len(all_cells))
    rows = math.ceil(len(all_cells) / columns)
    header = _header_height(title)
    sheet = Image.new("RGB", grid.size(rows, columns, header), "white")
    draw = ImageDraw.Draw(sheet)
    _header(draw, title, sheet.width)
    for index, (caption, drawn) in enumerate(all_cells):
        x, y = grid.place(index // columns, index % columns, header)
        _place(sheet, drawn, (x, y), shape)
        _caption(draw, caption, (x, y + shape[1] + round(0.3 * _CAPTION)), shape[0])
    return sheet


@dataclass(frozen=True)
class _Grid:
    """Where cells lie: pictures of one shape with room for captions below."""

    shape: tuple[int, int]
    caption: int

    def columns(self, count: int) -> int:
        """As many as make the page's shape."""
        width, height = self.shape[0] + _GAP, self.shape[1] + self.caption + _GAP
        return max(1, round(math.sqrt(count * _PAGE_SHAPE * height / width)))

    def size(self, rows: int, columns: int, header: int) -> tuple[int, int]:
        return (
            2 * _MARGIN + columns * (self.shape[0] + _GAP) - _GAP,
            2 * _MARGIN + header + rows * (self.shape[1] + self.caption + _GAP) - _GAP,
        )

    def place(self, row: int, column: int, header: int) -> tuple[int, int]:
        return (
            _MARGIN + column * (self.shape[0] + _GAP),
            _MARGIN + header + row * (self.shape[1] + self.caption + _GAP),
        )


def panel_grid(
    explanation: Explanation, *, side: int | None = None, **style: Unpack[OverlayStyle]
) -> Image.Image:
    """Draw all further maps of an answer: of its heads, blocks, units or masks.

    Maps of every head of every block become a matrix, blocks from top to bottom and heads
    from left to right; any others a sheet of captioned pictures.

    Args:
        explanation: Made with `each="head"`, `each="block"` and the like; see the method.
        side: Longest side of each picture in pixels; None: the style's `max_side`, or what
            suits their number.
        **style: As in `PlacedMap.overlay`. Each map has its own colour scale unless
            `fixed` is given.

    Returns:
        RGB on white.

    Raises:
        InvalidParameterError: There are no further maps, or a bad style.
    """
    if not explanation.panels:
        raise InvalidParameterError(
            f"{explanation.method} gives no further maps; ask for them, as with each='head'"
        )
    blocks = sorted({panel.block for panel in explanation.panels if panel.block is not None})
    heads = sorted({panel.head for panel in explanation.panels if panel.head is not None})
    title = title_of(explanation)
    if min(len(blocks), len(heads)) > 1:
        return _matrix(explanation, blocks, heads, title, side, style)
    side = side or style.get("max_side") or CELL_SIDE
    style.setdefault("max_side", side)
    strengths = {unit.unit: unit.strength for unit in explanation.units}
    cells: list[tuple[str, Image.Image | str]] = [
        (_named(panel, strengths), panel.overlay(**style)) for panel in explanation.panels
    ]
    return contact_sheet(explanation.image.picture(), cells, title=title, side=side)


def title_of(explanation: Explanation) -> str:
    """Model and method, and on a second line the parameters in which the panels are alike."""
    name, _, parameters = str(explanation.method).partition("(")
    shown = [
        parameter
        for parameter in parameters.removesuffix(")").split(", ")
        if not _differs(explanation.panels, parameter.partition("=")[0])
    ]
    return f"{explanation.provenance.model}: {name}\n{', '.join(shown)}"


def _differs(panels: Sequence[Panel], parameter: str) -> bool:
    return parameter in ("block", "head") and len({getattr(p, parameter) for p in panels}) > 1


def _named(panel: Panel, strengths: dict[int, float]) -> str:
    strength = None if panel.unit is None else strengths.get(panel.unit)
    return panel.title + ("" if strength is None else f": {strength:.3g}")


def _matrix(
    explanation: Explanation,
    blocks: Sequence[int],
    heads: Sequence[int],
    title: str,
    side: int | None,
    style: OverlayStyle,
) -> Image.Image:
    least, most = _MATRIX_SIDES
    side = (
        side
        or style.get("max_side")
        or min(max(_MATRIX_LENGTH // max(len(blocks), len(heads)), least), most)
    )
    style.setdefault("max_side", side)
    width, height = _scaled(explanation.image.picture(), side)
    gap = max(2, side // 40)
    label = math.ceil(_text.width_of(f"block {blocks[-1]}", _CAPTION)) + _GAP
    left = _MARGIN + label
    top = _MARGIN + _header_height(title) + round(1.6 * _CAPTION)
    size = (
        left + len(heads) * (width + gap) + _MARGIN,
        top + len(blocks) * (height + gap) + _MARGIN,
    )
    sheet = Image.new("RGB", size, "white")
    draw = ImageDraw.Draw(sheet)
    _header(draw, title, sheet.width)
    columns = [left + index * (width + gap) + width / 2 for index in range(len(heads))]
    _head_labels(draw, heads, columns, top - round(0.4 * _CAPTION), width)
    for row, block in enumerate(blocks):
        at = (left - _GAP, top + row * (height + gap) + height / 2)
        draw.text(at, f"block {block}", fill=_text.INK, font=_text.font(_CAPTION), anchor="rm")
    for panel in explanation.panels:
        if panel.block is not None and panel.head is not None:
            x = left + heads.index(panel.head) * (width + gap)
            y = top + blocks.index(panel.block) * (height + gap)
            _place(sheet, panel.overlay(**style), (x, y), (width, height))
    return sheet


def _head_labels(
    draw: ImageDraw.ImageDraw,
    heads: Sequence[int],
    centers: Sequence[float],
    baseline: float,
    width: float,
) -> None:
    # Short where "head 11" would run into its neighbour.
    named = _text.width_of(f"head {heads[-1]}", _CAPTION) < width
    for head, center in zip(heads, centers, strict=True):
        text = f"head {head}" if named else str(head)
        draw.text((center, baseline), text, fill=_text.INK, font=_text.font(_CAPTION), anchor="ms")


def _scaled(picture: Image.Image, side: int) -> tuple[int, int]:
    """Width and height whose longer one is `side`."""
    scale = side / max(picture.size)
    return max(1, round(picture.width * scale)), max(1, round(picture.height * scale))


def _place(
    sheet: Image.Image, drawn: Image.Image | str, at: tuple[int, int], shape: tuple[int, int]
) -> None:
    """Put a drawing, or why there is none, into its cell."""
    if isinstance(drawn, Image.Image):
        fitted = drawn.resize(shape, Image.Resampling.BICUBIC, reducing_gap=2.0)
        sheet.paste(fitted if drawn.size != shape else drawn, at)
        return
    (x, y), (width, height) = at, shape
    draw = ImageDraw.Draw(sheet)
    draw.rectangle((x, y, x + width - 1, y + height - 1), fill=_FAILED_GROUND)
    line = round(1.35 * _NOTE)
    lines = _text.wrap(drawn, _NOTE, width - 2 * _GAP, max(1, (height - 2 * _GAP) // line))
    for index, text in enumerate(lines):
        where = (x + _GAP, y + _GAP + index * line)
        draw.text(where, text, fill=_FAILED_INK, font=_text.font(_NOTE))


def _header_height(title: str) -> int:
    notes = title.count("\n")
    return round(1.9 * _TITLE) + notes * round(1.5 * _NOTE) if title else 0


def _header(draw: ImageDraw.ImageDraw, title: str, width: int) -> None:
    first, *notes = title.split("\n")
    line = _text.cut(first, _TITLE, width - 2 * _MARGIN)
    draw.text((_MARGIN, _MARGIN), line, fill=_text.INK, font=_text.font(_TITLE))
    for index, note in enumerate(notes):
        where = (_MARGIN, _MARGIN + round(1.4 * _TITLE) + index * round(1.5 * _NOTE))
        line = _text.cut(note, _NOTE, width - 2 * _MARGIN)
        draw.text(where, line, fill=_text.FAINT_INK, font=_text.font(_NOTE))


def _caption(draw: ImageDraw.ImageDraw, caption: str, at: tuple[int, int], width: int) -> None:
    first, *notes = caption.split("\n")
    x, y = at
    line = _text.cut(first, _CAPTION, width)
    draw.text((x, y), line, fill=_text.INK, font=_text.font(_CAPTION))
    for index, note in enumerate(notes):
        where = (x, y + round(1.3 * _CAPTION) + index * round(1.35 * _NOTE))
        line = _text.cut(note, _NOTE, width)
        draw.text(where, line, fill=_text.FAINT_INK, font=_text.font(_NOTE))
