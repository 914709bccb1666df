"""One way to draw plots, twice: as pixels with Pillow, and as SVG for web pages."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from html import escape
from typing import Literal, Protocol, TypeAlias

from PIL import Image, ImageDraw

from pairlens import _text

Point: TypeAlias = tuple[float, float]
RGB: TypeAlias = tuple[int, int, int]
Anchor: TypeAlias = Literal["start", "middle", "end"]
Shape: TypeAlias = Literal["circle", "square", "triangle", "diamond"]

_FINE = 3  # drawn so many times larger and scaled down, which smooths lines and letters
_CORNERS: dict[Shape, tuple[Point, ...]] = {
    "square": ((-0.9, -0.9), (0.9, -0.9), (0.9, 0.9), (-0.9, 0.9)),
    "triangle": ((0, -1.2), (1.1, 0.8), (-1.1, 0.8)),
    "diamond": ((0, -1.3), (1.3, 0), (0, 1.3), (-1.3, 0)),
}


class Canvas(Protocol):
    """What plots are drawn on. Lengths are pixels of a screen, y downwards."""

    def line(
        self, points: Sequence[Point], color: RGB, width: float, dash: Sequence[float] = ()
    ) -> None:
        """Join points; `dash` alternates lengths of strokes and of gaps."""

    def polygon(self, points: Sequence[Point], color: RGB, opacity: float = 1.0) -> None:
        """Fill what the points enclose."""

    def circle(self, center: Point, radius: float, color: RGB) -> None:
        """Fill a circle."""

    def text(
        self,
        at: Point,
        line: str,
        size: int,
        color: RGB,
        anchor: Anchor = "start",
        *,
        upright: bool = False,
        bold: bool = False,
    ) -> None:
        """Write one line, its middle at the height of `at`; `upright`: from bottom to top."""


def marker(canvas: Canvas, at: Point, shape: Shape, radius: float, color: RGB) -> None:
    """Draw a filled marker of about a circle's size."""
    if shape == "circle":
        canvas.circle(at, radius, color)
        return
    x, y = at
    corners = _CORNERS[shape]
    canvas.polygon([(x + radius * a, y + radius * b) for a, b in corners], color)


def width_of(line: str, size: int) -> float:
    """About the width of a line of text in pixels, on the wide side for a browser's fonts."""
    return 1.15 * _text.width_of(_text.drawable(line), size)


class PixelCanvas:
    """Draws with Pillow on white."""

    def __init__(self, width: int, height: int) -> None:
        self._size = (width, height)
        self._sheet = Image.new("RGB", (width * _FINE, height * _FINE), "white")
        # Pillow blends colours with opacity into an RGB picture in this mode alone.
        self._draw = ImageDraw.Draw(self._sheet, "RGBA")

    def picture(self) -> Image.Image:
        """RGB, as large as was asked for."""
        return self._sheet.resize(self._size, Image.Resampling.LANCZOS)

    def line(
        self, points: Sequence[Point], color: RGB, width: float, dash: Sequence[float] = ()
    ) -> None:
        """As `Canvas.line`."""
        for stroke in dashes(points, dash) if dash else [list(points)]:
            thick = max(1, round(width * _FINE))
            self._draw.line(_fine(stroke), fill=color, width=thick, joint="curve")

    def polygon(self, points: Sequence[Point], color: RGB, opacity: float = 1.0) -> None:
        """As `Canvas.polygon`."""
        self._draw.polygon(_fine(points), fill=(*color, round(255 * opacity)))

    def circle(self, center: Point, radius: float, color: RGB) -> None:
        """As `Canvas.circle`."""
        (x, y), r = center, radius
        self._draw.ellipse(_fine([(x - r, y - r), (x + r, y + r)]), fill=color)

    def text(
        self,
        at: Point,
        line: str,
        size: int,
        color: RGB,
        anchor: Anchor = "start",
        *,
        upright: bool = False,
        bold: bool = False,
    ) -> None:
        """As `Canvas.text`; Pillow's own font has ASCII letters, and no bold ones."""
        font, drawn = _text.font(size * _FINE), _text.drawable(line)
        if not upright:
            where = {"start": "lm", "middle": "mm", "end": "rm"}[anchor]
            place = _fine([at])[0]
            self._draw.text(place, drawn, color, font, where)
            return
        length, height = math.ceil(_text.width_of(drawn, size * _FINE)), 2 * size * _FINE
        strip = Image.new("L", (length, height), 0)
        middle = (0, height / 2)
        ImageDraw.Draw(strip).text(middle, drawn, 255, font, "lm")
        turned = strip.transpose(Image.Transpose.ROTATE_90)
        before = {"start": 1.0, "middle": 0.5, "end": 0.0}[anchor]
        x, y = round(at[0] * _FINE - height / 2), round(at[1] * _FINE - before * length)
        self._sheet.paste(color, (x, y), mask=turned)


class VectorCanvas:
    """Collects SVG elements."""

    def __init__(self, width: int, height: int) -> None:
        self._size = (width, height)
        self._parts: list[str] = []

    def svg(self, label: str) -> str:
        """The element, for a page.

        Args:
            label: What is to be seen, for those who cannot see it; plain text.
        """
        width, height = self._size
        head = (
            f'<svg class="plot" role="img" aria-label="{escape(label)}" width="{width}" '
            f'height="{height}" viewBox="0 0 {width} {height}">'
        )
        return "\n".join([head, *self._parts, "</svg>"])

    def line(
        self, points: Sequence[Point], color: RGB, width: float, dash: Sequence[float] = ()
    ) -> None:
        """As `Canvas.line`."""
        dashed = f' stroke-dasharray="{" ".join(map(_number, dash))}"' if dash else ""
        self._parts.append(
            f'<polyline points="{_points(points)}" fill="none" stroke="{_hex(color)}" '
            f'stroke-width="{_number(width)}" stroke-linejoin="round"{dashed}/>'
        )

    def polygon(self, points: Sequence[Point], color: RGB, opacity: float = 1.0) -> None:
        """As `Canvas.polygon`."""
        seen = f' fill-opacity="{_number(opacity)}"' if opacity < 1 else ""
        self._parts.append(f'<polygon points="{_points(points)}" fill="{_hex(color)}"{seen}/>')

    def circle(self, center: Point, radius: float, color: RGB) -> None:
        """As `Canvas.circle`."""
        x, y, r = map(_number, (*center, radius))
        self._parts.append(f'<circle cx="{x}" cy="{y}" r="{r}" fill="{_hex(color)}"/>')

    def text(
        self,
        at: Point,
        line: str,
        size: int,
        color: RGB,
        anchor: Anchor = "start",
        *,
        upright: bool = False,
        bold: bool = False,
    ) -> None:
        """As `Canvas.text`."""
        x, y = map(_number, at)
        turned = f' transform="rotate(-90 {x} {y})"' if upright else ""
        heavy = ' font-weight="600"' if bold else ""
        self._parts.append(
            f'<text x="{x}" y="{y}" dy="0.35em" font-size="{size}" fill="{_hex(color)}" '
            f'text-anchor="{anchor}"{heavy}{turned}>{escape(line)}</text>'
        )


def dashes(points: Sequence[Point], pattern: Sequence[float]) -> list[list[Point]]:
    """Cut a line into strokes.

    Args:
        points: Of the line.
        pattern: Lengths of a stroke, a gap, a stroke ...: an even number of them.

    Returns:
        Points of each stroke, which goes on around the corners of the line.
    """
    strokes: list[list[Point]] = [[points[0]]]
    turn, left = 0, pattern[0]
    for start, end in itertools.pairwise(points):
        length, done = math.dist(start, end), 0.0
        while length - done > left:
            done += left
            share = done / length
            at = (
                start[0] + share * (end[0] - start[0]),
                start[1] + share * (end[1] - start[1]),
            )
            turn = (turn + 1) % len(pattern)
            left = pattern[turn]
            if turn % 2:
                strokes[-1].append(at)
            else:
                strokes.append([at])
        left -= length - done
        if turn % 2 == 0:
            strokes[-1].append(end)
    return [stroke for stroke in strokes if len(stroke) > 1]


def _fine(points: Sequence[Point]) -> list[Point]:
    return [(x * _FINE, y * _FINE) for x, y in points]


def _points(points: Sequence[Point]) -> str:
    return " ".join(f"{_number(x)},{_number(y)}" for x, y in points)


def _number(value: float) -> str:
    """At most two decimals: a hundredth of a pixel is enough."""
    return f"{value:.2f}".rstrip("0").rstrip(".") if abs(value) >= 0.005 else "0"


def _hex(color: RGB) -> str:
    return "#{:02x}{:02x}{:02x}".format(*color)
