"""The pictures of a report: the best, median and worst cases of a row, maps drawn over them."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from html import escape
from pathlib import Path

import numpy as np
from PIL import Image

from pairlens.evaluation.plots import better
from pairlens.evaluation.records import DrawnMap, Measure, Record, Row
from pairlens.evaluation.results import Evaluation
from pairlens.rendering import (
    Box,
    ColorMap,
    ColorScale,
    GridGeometry,
    color_range,
    colorize,
    overlay,
    rendered_size,
)

MOST_BYTES = 12_000_000
"""Of all pictures of a report, encoded, as estimated before any is drawn."""

_QUALITY = 85
_BYTES_A_PIXEL = 0.2  # JPEG of an overlay at that quality: 0.1 to 0.25 on photographs
_SIZES = ((2, 320), (2, 240), (1, 320), (1, 240), (1, 190))  # cases of a kind, longest side


class CasePictures:
    """Draws cases as HTML; each picture is read once.

    Attributes:
        count: Cases that are drawn of the best, of the median and of the worst.
        side: Longest side of the drawn pictures in pixels.
    """

    def __init__(self, evaluation: Evaluation, rows: int) -> None:
        """Choose how many pictures of which size keep a report of `rows` rows small."""
        self._evaluation = evaluation
        self._measure = evaluation.measure(evaluation.headline)
        self._read: dict[tuple[str, bool], tuple[Image.Image, tuple[int, int]] | None] = {}
        maps = max((len(record.maps) for record in evaluation.records), default=0)
        self.count, self.side = next(
            (size for size in _SIZES if _bytes(rows * maps, *size) <= MOST_BYTES), _SIZES[-1]
        )

    def kinds(self, row: Row) -> list[tuple[str, tuple[Record, ...]]]:
        """Best, median and worst cases of a row, none of them twice."""
        seen: set[str] = set()
        found: list[tuple[str, tuple[Record, ...]]] = []
        for title, records in (
            ("Best", self._evaluation.best(row.name, self.count)),
            ("Worst", self._evaluation.worst(row.name, self.count)),
            ("Median", self._evaluation.median(row.name, self.count)),
        ):
            fresh = tuple(record for record in records if record.case not in seen)
            seen.update(record.case for record in fresh)
            found.append((title, fresh))
        best, worst, median = found
        return [best, median, worst]

    def html(self, row: Row) -> str:
        """The cases of a row; "" where it has none."""
        columns = [
            f"<div><h4>{title}</h4>\n<div class='cases'>\n"
            + "\n".join(self._case(record, title.lower()) for record in records)
            + "\n</div></div>"
            for title, records in self.kinds(row)
            if records
        ]
        return "\n".join(["<div class='kinds'>", *columns, "</div>"]) if columns else ""

    def _case(self, record: Record, kind: str) -> str:
        low, high = _ends([drawn.heatmap for drawn in record.maps])
        about = f"{record.row}, {kind} case"
        pictures = [
            self._drawn(drawn, ends, about)
            for drawn, ends in zip(record.maps, zip(low, high, strict=True), strict=True)
        ]
        single = " single" if len(pictures) < 2 else ""
        group = f", class <b>{escape(record.group)}</b>" if record.group else ""
        note = " <span class='faint'>(constant map)</span>" if _constant(record.maps) else ""
        return (
            f"<figure class='case{single}'>\n<div class='pictures'>\n"
            + "\n".join(pictures)
            + f"\n</div>\n<figcaption>{escape(self._measure.label)} "
            f"<b>{number(record.values.get(self._measure.name))}</b>{group}{note}"
            f"<br><span class='faint'>{escape(record.case)}</span></figcaption>\n</figure>"
        )

    def _drawn(self, drawn: DrawnMap, ends: tuple[float, float], about: str) -> str:
        read = self._picture(drawn)
        caption = (
            f"<figcaption class='faint'>{escape(drawn.role)}</figcaption>" if drawn.role else ""
        )
        if read is None:
            # Journals of earlier versions hold absolute paths, which are of one machine alone.
            shown = Path(drawn.picture).name if Path(drawn.picture).is_absolute() else drawn.picture
            box = f"<div class='missing'>The picture is not there any more: {escape(shown)}"
            return f"<figure class='picture'>{box}</div>{caption}</figure>"
        picture, (width, height) = read
        rows, columns = drawn.heatmap.shape
        geometry = GridGeometry(rows, columns, height, width, Box(*drawn.region))
        image = overlay(picture, drawn.heatmap, geometry, low=ends[0], high=ends[1])
        what = f"{drawn.role}, {about}" if drawn.role else about
        return (
            f"<figure class='picture'><img loading='lazy' width='{image.width}' "
            f"height='{image.height}' alt='{escape(f'Map over the picture: {what}')}' "
            f"src='{_jpeg(image)}'>{caption}</figure>"
        )

    def _picture(self, drawn: DrawnMap) -> tuple[Image.Image, tuple[int, int]] | None:
        """The picture, reduced, and its own size; None when it cannot be read any more."""
        key = drawn.picture, drawn.made
        if key not in self._read:
            try:
                picture = self._evaluation.picture(drawn)
            except OSError:
                self._read[key] = None
            else:
                height, width = rendered_size(picture.height, picture.width, self.side)
                reduced = picture.resize((width, height), Image.Resampling.LANCZOS)
                self._read[key] = (reduced, picture.size)
        return self._read[key]


def number(value: float | None) -> str:
    """Three decimals, or a dash."""
    return "-" if value is None else f"{value:.3f}"


def scale_html() -> str:
    """The colours of the maps, from low to high, as a bar in a line of text."""
    levels = np.linspace(0, 1, 9, dtype=np.float32)[None]
    stops = ", ".join(f"rgb({r}, {g}, {b})" for r, g, b in colorize(levels, ColorMap.VIRIDIS)[0])
    bar = f"<span class='scale' style='background: linear-gradient(to right, {stops})'></span>"
    return f"low {bar} high"


def explain_order(measure: Measure) -> str:
    """Which cases count as best, as a sentence of plain text."""
    end = better(measure.higher_is_better)
    return f"Cases are ordered by {measure.label}{f': {end}' if end else ''}."


def _ends(maps: Sequence[np.ndarray]) -> tuple[list[float], list[float]]:
    """Ends of the colours of each map: those of both maps of a pair are the same."""
    scale = ColorScale.PAIR if len(maps) == 2 else ColorScale.IMAGE
    together = [color_range(maps, scale)] * 2 if len(maps) == 2 else []
    ends = together or [color_range([values], scale) for values in maps]
    return [low for low, _ in ends], [high for _, high in ends]


def _constant(maps: Sequence[DrawnMap]) -> bool:
    return bool(maps) and all(np.unique(drawn.heatmap).size < 2 for drawn in maps)


def _bytes(pictures: int, count: int, side: int) -> float:
    """Encoded pictures of a report: base64 takes 4 bytes for 3, photographs are 4 : 3."""
    return 3 * pictures * count * 0.75 * side * side * _BYTES_A_PIXEL * 4 / 3


def _jpeg(image: Image.Image) -> str:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=_QUALITY)
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"
