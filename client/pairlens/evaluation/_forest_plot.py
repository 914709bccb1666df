"""One number of each row with its interval: a forest plot."""

from __future__ import annotations

from dataclasses import dataclass

from pairlens import _text
from pairlens.evaluation import _plot_parts as parts
from pairlens.evaluation._canvas import Canvas, marker, width_of
from pairlens.evaluation._plot_parts import Look, Scale

_TOP, _BOTTOM, _LINE, _RULE = 64, 54, 24, 14


@dataclass(frozen=True)
class ForestBar:
    """A row: its mean, and the ends of the interval."""

    name: str
    look: Look
    control: bool
    mean: float
    low: float
    high: float


@dataclass(frozen=True)
class ForestPlot:
    """Means with intervals, one below the other.

    Attributes:
        title: Above.
        x_label: Of the numbers, with what is better.
        bars: Methods, then controls, the best first; at least one.
        chance: What a map without knowledge gets, or None.
        control: Mean of the best control, or None.
        caption: What is to be seen, plain text.
    """

    title: str
    x_label: str
    bars: tuple[ForestBar, ...]
    chance: float | None
    control: float | None
    caption: str

    def size(self, *, captioned: bool) -> tuple[int, int]:
        """Width and height in pixels."""
        inner = _LINE * len(self.bars) + (_RULE if self._ruled else 0)
        return parts.WIDTH, _TOP + inner + _BOTTOM + parts.note_height(
            self.caption if captioned else ""
        )

    def draw(self, canvas: Canvas, *, captioned: bool) -> None:
        """Draw on a canvas of this size, with the caption below the plot or without it."""
        note = self.caption if captioned else ""
        width, height = self.size(captioned=captioned)
        bottom = height - _BOTTOM - parts.note_height(note)
        names = max(width_of(bar.name, parts.TICK) for bar in self.bars)
        values = max(width_of(_value(bar), parts.TICK) for bar in self.bars)
        frame = (28 + min(names, 0.4 * width), _TOP, width - 32 - values, bottom)
        numbers = [value for bar in self.bars for value in (bar.low, bar.mean, bar.high)]
        known = [value for value in (self.chance, self.control) if value is not None]
        scale = Scale(frame, parts.spanned([*numbers, *known]))
        canvas.text((16, 20), self.title, parts.TITLE, _text.INK, bold=True)
        parts.draw_x_axis(canvas, scale, self.x_label)
        self._draw_references(canvas, scale)
        for index, bar in enumerate(self.bars):
            below = _RULE if self._ruled and bar.control else 0
            self._draw_bar(canvas, scale, bar, _TOP + _LINE * (index + 0.5) + below)
        if self._ruled:
            methods = sum(not bar.control for bar in self.bars)
            y = _TOP + _LINE * methods + _RULE / 2
            canvas.line([(16, y), (width - 16, y)], parts.AXIS, 1)
        parts.draw_note(canvas, bottom + _BOTTOM, note)

    @property
    def _ruled(self) -> bool:
        return len({bar.control for bar in self.bars}) == 2

    def _draw_references(self, canvas: Canvas, scale: Scale) -> None:
        _, top, _, bottom = scale.frame
        labels = []
        if self.chance is not None:
            labels.append((scale.x(self.chance), f"chance {self.chance:g}", (2.0, 3.0)))
        if self.control is not None:
            labels.append((scale.x(self.control), "best control", (7.0, 4.0)))
        # Two labels that would meet stand one above the other.
        near = len(labels) == 2 and abs(labels[0][0] - labels[1][0]) < 80
        for index, (x, label, dash) in enumerate(labels):
            canvas.line([(x, top - 4), (x, bottom)], parts.AXIS, 1.2, dash)
            y = top - 12 - (14 if near and index else 0)
            canvas.text((x, y), label, parts.TICK, _text.FAINT_INK, "middle")

    @staticmethod
    def _draw_bar(canvas: Canvas, scale: Scale, bar: ForestBar, y: float) -> None:
        left, _, right, _ = scale.frame
        ink = _text.FAINT_INK if bar.control else _text.INK
        canvas.text((left - 12, y), bar.name, parts.TICK, ink, "end")
        color = bar.look.color
        low, mean, high = (scale.x(value) for value in (bar.low, bar.mean, bar.high))
        canvas.line([(low, y), (high, y)], color, 2)
        for x in (low, high):
            canvas.line([(x, y - 4), (x, y + 4)], color, 1.4)
        marker(canvas, (mean, y), bar.look.shape or "circle", 4.5, color)
        canvas.text((right + 16, y), _value(bar), parts.TICK, ink)


def _value(bar: ForestBar) -> str:
    return f"{bar.mean:.3f} [{bar.low:.3f}, {bar.high:.3f}]"
