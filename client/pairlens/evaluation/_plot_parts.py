"""What all plots of an evaluation have in common: the look of rows, scales, axes, notes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from pairlens import _text
from pairlens._plot import ticks
from pairlens.evaluation._canvas import RGB, Canvas, Shape, marker, width_of
from pairlens.evaluation.records import Row

HIGHLIGHTED = 8
"""Methods with a colour and a marker of their own: as many as people tell apart."""

WIDTH = 1160
"""Of every plot, in pixels."""

TITLE, LABEL, TICK = 16, 14, 12
GRID: RGB = (230, 230, 234)
AXIS: RGB = (130, 130, 138)
_MARGIN = 16
_NOTE_LINE = 18

# Okabe and Ito's colours, which people with any kind of colour vision tell apart; their
# yellow, too light for lines on white, is darker here, and their black is for text.
_COLORS: tuple[RGB, ...] = (
    (0, 114, 178),
    (213, 94, 0),
    (0, 158, 115),
    (204, 121, 167),
    (230, 159, 0),
    (86, 180, 233),
    (124, 104, 20),
    (106, 61, 154),
)
_SHAPES: tuple[Shape, ...] = ("circle", "square", "triangle", "diamond")
_OTHERS: tuple[RGB, ...] = ((148, 170, 190), (196, 164, 140), (150, 186, 168), (190, 160, 186))
_CONTROLS: tuple[RGB, ...] = ((70, 70, 76), (128, 128, 134), (164, 164, 170))
_DASHES: tuple[tuple[float, ...], ...] = ((7, 4), (2, 3), (10, 3, 2, 3), (4, 2))


@dataclass(frozen=True)
class Look:
    """How a row is drawn in every plot of an evaluation.

    Attributes:
        color: Of lines and markers.
        shape: Of its markers; None for rows that are drawn thin and without any.
        dash: Strokes and gaps in pixels; empty: a whole line. Controls are dashed.
    """

    color: RGB
    shape: Shape | None
    dash: tuple[float, ...] = ()

    @property
    def width(self) -> float:
        """Of lines, in pixels."""
        return 2.0 if self.shape else 1.4 if self.dash else 1.2


def looks(rows: Sequence[Row]) -> dict[str, Look]:
    """The look of each row by its name.

    Args:
        rows: The best first; the first `HIGHLIGHTED` methods stand out.
    """
    made: dict[str, Look] = {}
    for index, row in enumerate(row for row in rows if not row.control):
        if index < HIGHLIGHTED:
            made[row.name] = Look(_COLORS[index], _SHAPES[index % len(_SHAPES)])
        else:
            made[row.name] = Look(_OTHERS[(index - HIGHLIGHTED) % len(_OTHERS)], None)
    for index, row in enumerate(row for row in rows if row.control):
        color = _CONTROLS[index % len(_CONTROLS)]
        made[row.name] = Look(color, None, _DASHES[index % len(_DASHES)])
    return made


@dataclass(frozen=True)
class Scale:
    """From values to pixels.

    Attributes:
        frame: Left, top, right and bottom of the area of the values, in pixels.
        across, up: Values at its ends, x to the right and y upwards.
    """

    frame: tuple[float, float, float, float]
    across: tuple[float, float]
    up: tuple[float, float] = (0.0, 1.0)

    def x(self, value: float) -> float:
        """Pixel of a value on the x axis."""
        left, _, right, _ = self.frame
        low, high = self.across
        return left + (value - low) / (high - low) * (right - left)

    def y(self, value: float) -> float:
        """Pixel of a value on the y axis."""
        _, top, _, bottom = self.frame
        low, high = self.up
        return bottom - (value - low) / (high - low) * (bottom - top)


def spanned(values: Sequence[float]) -> tuple[float, float]:
    """Ends of an axis that shows all values, with a margin; zero stays in sight when near."""
    finite = [value for value in values if math.isfinite(value)]
    if not finite:
        return 0.0, 1.0
    low, high = min(finite), max(finite)
    margin = 0.06 * (high - low) or 0.1 * abs(high) or 1.0
    return (0.0 if 0 <= low < 0.4 * high else low - margin), high + margin


def draw_x_axis(canvas: Canvas, scale: Scale, label: str) -> None:
    """Draw grid lines, numbers and the label below."""
    left, top, right, bottom = scale.frame
    for value, number in _numbers(scale.across):
        x = scale.x(value)
        canvas.line([(x, top), (x, bottom)], GRID, 1)
        canvas.text((x, bottom + 14), number, TICK, _text.FAINT_INK, "middle")
    canvas.line([(left, bottom), (right, bottom)], AXIS, 1)
    canvas.text(((left + right) / 2, bottom + 36), label, LABEL, _text.INK, "middle")


def draw_y_axis(canvas: Canvas, scale: Scale, label: str) -> None:
    """Draw grid lines, numbers and the label at the left."""
    left, top, right, bottom = scale.frame
    for value, number in _numbers(scale.up):
        y = scale.y(value)
        canvas.line([(left, y), (right, y)], GRID, 1)
        canvas.text((left - 8, y), number, TICK, _text.FAINT_INK, "end")
    canvas.line([(left, top), (left, bottom)], AXIS, 1)
    middle = (_MARGIN, (top + bottom) / 2)
    canvas.text(middle, label, LABEL, _text.INK, "middle", upright=True)


def draw_key(canvas: Canvas, at: tuple[float, float], look: Look) -> None:
    """Draw what a line looks like, for a legend: 30 pixels to the right of `at`."""
    x, y = at
    canvas.line([(x, y), (x + 30, y)], look.color, look.width, look.dash)
    if look.shape:
        marker(canvas, (x + 15, y), look.shape, 4, look.color)


def note_lines(note: str) -> list[str]:
    """The lines of a note below a plot, cut between words."""
    lines: list[str] = []
    for word in note.split():
        if lines and width_of(f"{lines[-1]} {word}", TICK) <= WIDTH - 2 * _MARGIN:
            lines[-1] += f" {word}"
        else:
            lines.append(word)
    return lines


def note_height(note: str) -> int:
    """Pixels that `draw_note` takes."""
    return _NOTE_LINE * len(note_lines(note)) + (10 if note else 0)


def draw_note(canvas: Canvas, top: float, note: str) -> None:
    """Write a note below a plot."""
    for index, line in enumerate(note_lines(note)):
        canvas.text((_MARGIN, top + _NOTE_LINE * (index + 0.5)), line, TICK, _text.FAINT_INK)


def _numbers(ends: tuple[float, float]) -> list[tuple[float, str]]:
    values = ticks(*ends, 6)
    digits = max(0, -math.floor(math.log10(values[1] - values[0]) + 1e-9)) if values[1:] else 2
    return [(value, f"{value + 0.0:.{digits}f}") for value in values]
