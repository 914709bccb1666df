"""Scores of maps as plots and files."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

from pairlens import _plot, _saving, _text
from pairlens._json import to_json
from pairlens.curves import BLUE, GREEN, VERMILLION
from pairlens.errors import InvalidParameterError

if TYPE_CHECKING:
    from pairlens.metrics import MetricScore, SaliencyScores

SUFFIXES = (*_saving.PICTURE_SUFFIXES, ".npz", ".json")
"""Of files that scores are written to."""

# Okabe and Ito's colours, and a marker each: colour is not all that tells sides apart.
_LOOKS = {"image": (BLUE, "circle"), "partner": (VERMILLION, "square"), "both": (GREEN, "triangle")}
_X_LABELS = {
    "deletion": "share of the picture erased",
    "insertion": "share of the picture put back",
}
WITH_CURVE = tuple(_X_LABELS)
"""Names of the metrics that have curves."""

_COLUMNS = 2
_TITLE, _NOTE, _MARGIN = 20, 14, 20
_HEADER = _MARGIN + round(1.5 * _TITLE) + round(1.6 * _NOTE)


def curves_figure(scores: SaliencyScores, size: tuple[int, int]) -> Image.Image:
    """Draw `SaliencyScores.curves_figure`; arguments and errors as there."""
    plots = [_metric_plot(group, scores, size) for group in _groups(scores)]
    if not plots:
        raise InvalidParameterError("no metric of these scores has a curve: nothing to plot")
    columns = min(_COLUMNS, len(plots))
    rows = math.ceil(len(plots) / columns)
    sheet = Image.new("RGB", (columns * size[0], _HEADER + rows * size[1]), "white")
    _header(sheet, scores)
    for index, plot in enumerate(plots):
        sheet.paste(plot, (index % columns * size[0], _HEADER + index // columns * size[1]))
    return sheet


def save(scores: SaliencyScores, path: str | os.PathLike[str]) -> None:
    """Write `SaliencyScores.save`; arguments and errors as there."""
    path = Path(path)
    suffix = check_suffix(path)
    if suffix == ".npz":
        _saving.write_arrays(path, _arrays(scores))
    elif suffix == ".json":
        path.write_text(json.dumps(to_json(scores), allow_nan=False) + "\n", "utf-8")
    else:
        _saving.write_picture(path, scores.curves_figure())


def check_suffix(path: Path) -> str:
    """The path's suffix in lower case.

    Raises:
        InvalidParameterError: No scores are written to such files.
    """
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        raise InvalidParameterError(
            f"cannot write {path.name}: the suffix is one of {', '.join(SUFFIXES)}", field="path"
        )
    return suffix


def notebook_png(scores: SaliencyScores) -> bytes | None:
    """The plots as a PNG file; None where no metric has a curve."""
    return _saving.png(scores.curves_figure()) if _groups(scores) else None


def _groups(scores: SaliencyScores) -> list[list[MetricScore]]:
    """Scores with a curve, those of one metric's sides together."""
    groups: list[list[MetricScore]] = []
    for score in scores.scores:
        if score.curve is None:
            continue
        # A side that comes again is of the next metric, were its parameters the same.
        last = groups[-1] if groups else []
        same = last and last[0].metric == score.metric
        if same and score.side not in [other.side for other in last]:
            last.append(score)
        else:
            groups.append([score])
    return groups


def _metric_plot(
    group: Sequence[MetricScore], scores: SaliencyScores, size: tuple[int, int]
) -> Image.Image:
    first = group[0]
    name = first.metric.name
    title = name.replace("_", " ").capitalize()
    if first.metric.parameters.get("order") == "least_relevant_first":
        title += ", least relevant first"
    if len(group) == 1:
        title += f": area {_area(first)}"
        title += f" ({first.side})" if first.side != "image" else ""
    if first.better:
        title += f"{', ' if len(group) == 1 else ': '}{first.better} is better"
    curves, fractions = [], _shared_fractions(group)
    for score in group:
        assert score.curve is not None  # of _groups
        values = np.interp(fractions, score.curve.fractions, score.curve.scores)
        color, marker = _LOOKS.get(score.side, (BLUE, "circle"))
        label = f"{score.side}: area {_area(score)}"
        curves.append(_plot.Curve(label, color, marker, values, values, values))
    return _plot.line_plot(
        fractions.tolist(),
        curves,
        title=title,
        x_label=_X_LABELS.get(name, "share of the picture changed"),
        y_label="cosine similarity" if first.class_index is None else "probability",
        y_range=_range(scores, of_class=first.class_index is not None),
        size=size,
    )


def _area(score: MetricScore) -> str:
    return "undefined" if score.value is None else f"{score.value:.3f}"


def _shared_fractions(group: Sequence[MetricScore]) -> npt.NDArray[np.float64]:
    """Fractions of all curves together: sides may have different numbers of cells."""
    every = [score.curve.fractions for score in group if score.curve is not None]
    return np.unique(np.concatenate(every).astype(np.float64))


def _range(scores: SaliencyScores, *, of_class: bool) -> tuple[float, float]:
    """One y axis for all plots of a unit, with zero in sight."""
    values = np.concatenate(
        [
            score.curve.scores
            for score in scores.scores
            if score.curve is not None and (score.class_index is not None) == of_class
        ]
    )
    low, high = min(0.0, float(values.min())), max(0.0, float(values.max()))
    margin = 0.06 * (high - low) or 1.0
    return low - margin if low < 0 else 0.0, high + margin


def _header(sheet: Image.Image, scores: SaliencyScores) -> None:
    draw = ImageDraw.Draw(sheet)
    width = sheet.width - 2 * _MARGIN
    method = "a given map" if scores.method is None else scores.method.name
    line = _text.cut(f"{scores.provenance.model}: {method}", _TITLE, width)
    draw.text((_MARGIN, _MARGIN), line, fill=_text.INK, font=_text.font(_TITLE))
    note = "" if scores.target is None else _text.cut(_described(scores), _NOTE, width)
    at = (_MARGIN, _MARGIN + round(1.5 * _TITLE))
    draw.text(at, note, fill=_text.FAINT_INK, font=_text.font(_NOTE))


def _described(scores: SaliencyScores) -> str:
    target, name = scores.target, scores.image.name
    what = f"class {target}" if target and target.class_index is not None else str(target)
    return f"{name}, {what}" if name else what


def _arrays(scores: SaliencyScores) -> dict[str, npt.NDArray[Any]]:
    """As `SaliencyScores.save` says."""
    nan = float("nan")
    arrays: dict[str, npt.NDArray[Any]] = {}
    if scores.heatmap is not None:
        arrays |= scores.heatmap._arrays()
    if scores.partner is not None:
        arrays |= {f"partner_{name}": array for name, array in scores.partner._arrays().items()}
    arrays["metric"] = np.array([str(score.metric) for score in scores.scores])
    arrays["side"] = np.array([score.side for score in scores.scores])
    for name in ("value", "normalized_value", "clean_score", "masked_score"):
        numbers = [getattr(score, name) for score in scores.scores]
        arrays[name] = np.array([nan if number is None else number for number in numbers])
    for index, score in enumerate(scores.scores):
        for name in ("fractions", "scores", "embeddings", "partner_embeddings"):
            array = getattr(score.curve, name, None)
            if array is not None:
                arrays[f"{index}_{score.metric.name}_{score.side}_{name}"] = array
    return arrays
