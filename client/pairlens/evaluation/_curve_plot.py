"""Mean curves of many rows in one plot."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pairlens import _text
from pairlens.evaluation import _plot_parts as parts
from pairlens.evaluation._canvas import Canvas, marker, width_of
from pairlens.evaluation._plot_parts import Look, Scale
from pairlens.evaluation.results import MeanCurve

_TOP, _BOTTOM, _LEFT, _LEAST_HEIGHT = 46, 54, 78, 380
_KEY, _KEY_LINE = 30, 20
_BANDS = 4  # more bands than that hide one another: few bars in turn say the same
_STOPS = 6  # markers, or markers with bars, along a curve


@dataclass(frozen=True)
class CurveLine:
    """The mean curve of a row."""

    name: str
    look: Look
    mean: MeanCurve


@dataclass(frozen=True)
class CurvePlot:
    """Mean curves over fractions, which are drawn as percentages.

    Attributes:
        title, x_label, y_label: With units.
        lines: In the order of the legend, at least one.
        caption: What is to be seen, plain text.
    """

    title: str
    x_label: str
    y_label: str
    lines: tuple[CurveLine, ...]
    caption: str

    def size(self, *, captioned: bool) -> tuple[int, int]:
        """Width and height in pixels."""
        inner = max(_LEAST_HEIGHT, _KEY_LINE * len(self.lines) + 4)
        return parts.WIDTH, _TOP + inner + _BOTTOM + parts.note_height(
            self.caption if captioned else ""
        )

    def draw(self, canvas: Canvas, *, captioned: bool) -> None:
        """Draw on a canvas of this size, with the caption below the plot or without it."""
        note = self.caption if captioned else ""
        width, height = self.size(captioned=captioned)
        bottom = height - _BOTTOM - parts.note_height(note)
        legend = _KEY + 8 + max(width_of(line.name, parts.TICK) for line in self.lines)
        frame = (_LEFT, _TOP, width - 40 - min(legend, 0.45 * width), bottom)
        scale = Scale(frame, _ends(self.lines), parts.spanned(_extremes(self.lines)))
        canvas.text((_LEFT, 20), self.title, parts.TITLE, _text.INK, bold=True)
        parts.draw_x_axis(canvas, scale, self.x_label)
        parts.draw_y_axis(canvas, scale, self.y_label)
        _draw_lines(canvas, scale, self.lines)
        for index, line in enumerate(self.lines):
            at = (frame[2] + 22, _TOP + 8 + _KEY_LINE * index)
            parts.draw_key(canvas, at, line.look)
            after = (at[0] + _KEY + 8, at[1])
            canvas.text(after, line.name, parts.TICK, _text.INK)
        parts.draw_note(canvas, bottom + _BOTTOM, note)


def _draw_lines(canvas: Canvas, scale: Scale, lines: Sequence[CurveLine]) -> None:
    """Thin lines first and the best last, so that nothing hides it."""
    shown = [line for line in lines if line.look.shape]
    thin = [line for line in lines if not line.look.shape]
    bands = len(shown) <= _BANDS
    if bands:
        for line in reversed(shown):
            _draw_band(canvas, scale, line)
    for line in [*reversed(thin), *reversed(shown)]:
        canvas.line(
            _points(scale, line.mean, "mean"), line.look.color, line.look.width, line.look.dash
        )
    for index, line in reversed(list(enumerate(shown))):
        _draw_stops(canvas, scale, line, (index + 0.5) / len(shown), bars=not bands)


def _draw_band(canvas: Canvas, scale: Scale, line: CurveLine) -> None:
    upper, lower = (_points(scale, line.mean, end) for end in ("high", "low"))
    canvas.polygon([*upper, *reversed(lower)], line.look.color, 0.16)


def _draw_stops(
    canvas: Canvas, scale: Scale, line: CurveLine, offset: float, *, bars: bool
) -> None:
    """Draw markers at some points, shifted by a row's own offset so that bars do not meet."""
    means, lows, highs = (_points(scale, line.mean, end) for end in ("mean", "low", "high"))
    count = min(_STOPS, len(means))
    for stop in sorted({int((stop + offset) * len(means) / count) for stop in range(count)}):
        color = line.look.color
        if bars:
            (x, low), (_, high) = lows[stop], highs[stop]
            canvas.line([(x, low), (x, high)], color, 1.4)
            for y in (low, high):
                canvas.line([(x - 3, y), (x + 3, y)], color, 1.4)
        marker(canvas, means[stop], line.look.shape or "circle", 4, color)


def _points(scale: Scale, mean: MeanCurve, which: str) -> list[tuple[float, float]]:
    """Pixels of a curve; where an end of the interval is unknown, the mean stands for it."""
    values = np.where(np.isfinite(getattr(mean, which)), getattr(mean, which), mean.mean)
    known = np.isfinite(mean.mean)
    return [
        (scale.x(100 * fraction), scale.y(value))
        for fraction, value in zip(
            mean.fractions[known].tolist(), values[known].tolist(), strict=True
        )
    ]


def _ends(lines: Sequence[CurveLine]) -> tuple[float, float]:
    fractions = np.concatenate([line.mean.fractions for line in lines])
    low, high = 100 * float(fractions.min()), 100 * float(fractions.max())
    return (low, high) if low < high else (low - 1, high + 1)


def _extremes(lines: Sequence[CurveLine]) -> list[float]:
    """What the y axis must show: all means, and the intervals that are drawn."""
    values = [line.mean.mean for line in lines]
    for line in lines:
        if line.look.shape:
            values += [line.mean.low, line.mean.high]
    return [float(value) for value in np.concatenate(values)]
