"""Line plots with bands, drawn with Pillow alone.

A plotting library would be ten times the size of this package for a few kinds of plot.
Everything is drawn `_FINE` times larger and scaled down, which smooths lines and letters.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

from pairlens import _text

_FINE = 3
_TITLE, _LABEL, _TICK = 18, 15, 13
_GRID, _AXIS = (228, 228, 232), (120, 120, 128)
_BAND_OPACITY = 0.13
_MARKER_RADIUS = 4
_MOST_MARKERS, _FEW_MARKERS = 60, 16
_LEFT, _RIGHT, _BOTTOM = 66, 20, 58

Numbers = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Curve:
    """A line with a band around it.

    Attributes:
        name: For the legend.
        color: RGB.
        marker: "circle", "square", "triangle" or "diamond": colour is not all that tells
            curves apart.
        middle, low, high: float64 [points], NaN where there is no value.
    """

    name: str
    color: tuple[int, int, int]
    marker: str
    middle: Numbers
    low: Numbers
    high: Numbers


def line_plot(
    x: Sequence[float],
    curves: Sequence[Curve],
    *,
    title: str,
    x_label: str,
    y_label: str,
    y_range: tuple[float, float] | None = None,
    size: tuple[int, int] = (720, 460),
) -> Image.Image:
    """Draw curves over numbers.

    Args:
        x: Where the points lie, ascending. Ticks lie on some of them where all are ints,
            else on round numbers.
        curves: At least one, with as many points as `x`.
        title: Above the plot.
        x_label: Below it.
        y_label: On its left.
        y_range: Ends of the y axis; None: from the bands, with a margin.
        size: Width and height of the picture in pixels, room for the legend included.

    Returns:
        RGB on white.
    """
    sheet = Image.new("RGB", (size[0] * _FINE, size[1] * _FINE), "white")
    draw = ImageDraw.Draw(sheet)
    _write(draw, (_LEFT, 10), title, _TITLE, _text.INK)
    top = _legend(draw, curves, 10 + 2 * _TITLE, size[0]) + 14
    frame = (_LEFT, top, size[0] - _RIGHT, size[1] - _BOTTOM)
    scale = _Scale(frame, (min(x), max(x)), y_range or _span(curves))
    _axes(sheet, draw, scale, x, x_label, y_label)
    for curve in curves:
        sheet.paste(_banded(sheet, curve, x, scale))
    draw = ImageDraw.Draw(sheet)
    for curve in curves:
        _line(draw, curve, x, scale)
    return sheet.resize(size, Image.Resampling.LANCZOS)


@dataclass(frozen=True)
class _Scale:
    """From values to pixels before scaling up."""

    frame: tuple[float, float, float, float]
    x_range: tuple[float, float]
    y_range: tuple[float, float]

    def point(self, x: float, y: float) -> tuple[float, float]:
        left, top, right, bottom = self.frame
        (x0, x1), (y0, y1) = self.x_range, self.y_range
        inset = 12  # points on the first and the last x stay clear of the frame
        across = (x - x0) / (x1 - x0) if x1 > x0 else 0.5
        return (
            left + inset + across * (right - left - 2 * inset),
            bottom - (y - y0) / (y1 - y0) * (bottom - top),
        )

    def fine(self, x: float, y: float) -> tuple[float, float]:
        across, down = self.point(x, y)
        return across * _FINE, down * _FINE


def _span(curves: Sequence[Curve]) -> tuple[float, float]:
    values = np.concatenate([np.concatenate([curve.low, curve.high]) for curve in curves])
    finite = values[np.isfinite(values)]
    if not finite.size:
        return 0.0, 1.0
    low, high = float(finite.min()), float(finite.max())
    margin = 0.08 * (high - low) or 0.1 * abs(high) or 1.0
    # A quantity without negative values keeps its zero in sight when it is near.
    return (0.0 if 0 <= low < 0.4 * high else low - margin), high + margin


def ticks(low: float, high: float, count: int) -> list[float]:
    """About so many round numbers from low to high, steps of 1, 2 or 5 times ten to a power."""
    raw = (high - low) / max(count, 1)
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= raw * (1 - 1e-9))
    first = math.ceil(low / step - 1e-9)
    return [index * step for index in range(first, math.floor(high / step + 1e-9) + 1)]


def _axes(
    sheet: Image.Image,
    draw: ImageDraw.ImageDraw,
    scale: _Scale,
    x: Sequence[float],
    x_label: str,
    y_label: str,
) -> None:
    left, top, right, bottom = scale.frame
    for value, number in _labelled(ticks(*scale.y_range, 5)):
        _, y = scale.point(0, value)
        _segment(draw, (left, y), (right, y), _GRID, 1)
        _write(draw, (left - 8, y), number, _TICK, _text.FAINT_INK, "rm")
    for value, number in _x_ticks(x):
        at, _ = scale.point(value, scale.y_range[0])
        _segment(draw, (at, bottom), (at, bottom + 5), _AXIS, 1)
        _write(draw, (at, bottom + 9), number, _TICK, _text.FAINT_INK, "mt")
    _segment(draw, (left, bottom), (right, bottom), _AXIS, 1)
    _segment(draw, (left, top), (left, bottom), _AXIS, 1)
    _write(draw, ((left + right) / 2, bottom + 32), x_label, _LABEL, _text.INK, "mt")
    label = _text.drawable(y_label)
    width = math.ceil(_text.width_of(label, _LABEL * _FINE))
    upright = Image.new("RGB", (width, 2 * _LABEL * _FINE), "white")
    ImageDraw.Draw(upright).text((0, 0), label, fill=_text.INK, font=_text.font(_LABEL * _FINE))
    turned = upright.transpose(Image.Transpose.ROTATE_90)
    middle = round((top + bottom) / 2 * _FINE - width / 2)
    sheet.paste(turned.crop((0, 0, round(1.4 * _LABEL * _FINE), width)), (4 * _FINE, middle))


def _x_ticks(x: Sequence[float]) -> list[tuple[float, str]]:
    if not all(isinstance(number, int) for number in x):
        return _labelled(ticks(min(x), max(x), 5))
    step = next(step for step in (1, 2, 5, 10, 20, 50, 100, len(x)) if len(x) / step <= 13)
    return [(number, str(number)) for number in x[::step]]


def _labelled(values: list[float]) -> list[tuple[float, str]]:
    """Numbers with as many digits as tell neighbours apart."""
    digits = max(0, -math.floor(math.log10(values[1] - values[0]) + 1e-9)) if values[1:] else 2
    return [(value, f"{value:.{digits}f}") for value in values]


def _legend(draw: ImageDraw.ImageDraw, curves: Sequence[Curve], top: float, width: int) -> float:
    """Draw names in even columns; returns where they end."""
    if len(curves) < 2:
        return top
    names = [_text.drawable(curve.name) for curve in curves]
    needed = 48 + max(_text.width_of(name, _LABEL) for name in names)
    fitting = max(1, int((width - _LEFT - _RIGHT) / needed))
    columns = math.ceil(len(curves) / math.ceil(len(curves) / fitting))
    for index, curve in enumerate(curves):
        x = _LEFT + index % columns * needed
        y = top + 8 + index // columns * 1.5 * _LABEL
        _segment(draw, (x, y), (x + 22, y), curve.color, 2)
        _marker(draw, ((x + 11) * _FINE, y * _FINE), curve)
        _write(draw, (x + 29, y), curve.name, _LABEL, _text.INK, "lm")
    return top + math.ceil(len(curves) / columns) * 1.5 * _LABEL


def _banded(sheet: Image.Image, curve: Curve, x: Sequence[float], scale: _Scale) -> Image.Image:
    colored = sheet.copy()
    draw = ImageDraw.Draw(colored)
    for run in _runs(curve.low + curve.high):
        upper = [scale.fine(x[index], curve.high[index]) for index in run]
        lower = [scale.fine(x[index], curve.low[index]) for index in reversed(run)]
        if len(run) > 1:
            draw.polygon([*upper, *lower], fill=curve.color)
        else:
            draw.line([*upper, *lower], fill=curve.color, width=6 * _FINE)
    return Image.blend(sheet, colored, _BAND_OPACITY)


def _line(draw: ImageDraw.ImageDraw, curve: Curve, x: Sequence[float], scale: _Scale) -> None:
    for run in _runs(curve.middle):
        points = [scale.fine(x[index], curve.middle[index]) for index in run]
        draw.line(points, fill=curve.color, width=2 * _FINE, joint="curve")
        # Markers of very many points would run together into a thick line.
        step = math.ceil(len(points) / _FEW_MARKERS) if len(points) > _MOST_MARKERS else 1
        for point in points[::step]:
            _marker(draw, point, curve)


def _runs(values: Numbers) -> list[list[int]]:
    """Indices of finite values, those of neighbours together."""
    runs: list[list[int]] = []
    for index in np.flatnonzero(np.isfinite(values)).tolist():
        if runs and runs[-1][-1] == index - 1:
            runs[-1].append(index)
        else:
            runs.append([index])
    return runs


def _marker(draw: ImageDraw.ImageDraw, at: tuple[float, float], curve: Curve) -> None:
    (x, y), r = at, _MARKER_RADIUS * _FINE
    if curve.marker == "circle":
        draw.ellipse((x - r, y - r, x + r, y + r), fill=curve.color)
        return
    corners = {
        "square": [(-0.9, -0.9), (0.9, -0.9), (0.9, 0.9), (-0.9, 0.9)],
        "triangle": [(0, -1.2), (1.1, 0.8), (-1.1, 0.8)],
        "diamond": [(0, -1.3), (1.3, 0), (0, 1.3), (-1.3, 0)],
    }[curve.marker]
    draw.polygon([(x + r * a, y + r * b) for a, b in corners], fill=curve.color)


def _segment(
    draw: ImageDraw.ImageDraw,
    start: tuple[float, float],
    end: tuple[float, float],
    color: tuple[int, int, int],
    width: int,
) -> None:
    points = [(x * _FINE, y * _FINE) for x, y in (start, end)]
    draw.line(points, fill=color, width=width * _FINE)


def _write(
    draw: ImageDraw.ImageDraw,
    at: tuple[float, float],
    text: str,
    size: int,
    color: tuple[int, int, int],
    anchor: str = "la",
) -> None:
    where = (at[0] * _FINE, at[1] * _FINE)
    line = _text.drawable(text)
    draw.text(where, line, fill=color, font=_text.font(size * _FINE), anchor=anchor)
