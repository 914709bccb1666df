"""Metrics of single pictures, as columns of a table and as values of its records."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias, cast

import numpy as np
from PIL import Image

from pairlens import specs
from pairlens.errors import InvalidParameterError
from pairlens.evaluation.dataset import Dataset, LabelledImage
from pairlens.evaluation.grid_maps import GridMap
from pairlens.evaluation.protocol import CurveInfo
from pairlens.evaluation.records import Measure, Record, Series
from pairlens.evaluation.rows import text
from pairlens.metrics import Metric, MetricInfo, MetricScore, SaliencyScores
from pairlens.models import ModelInfo
from pairlens.rendering import FloatArray

MetricsInput: TypeAlias = "str | Metric | Sequence[str | Metric] | None"

CLEAN_SCORE = "clean_score"
_CURVES = ("average_drop", "average_increase", "deletion", "insertion")
_GAMES = ("pointing_game", "energy_pointing_game")
_LABELS = {
    "average_drop": "Average drop",
    "average_increase": "Average increase",
    "deletion": "Deletion",
    "insertion": "Insertion",
    "pointing_game": "Pointing game",
    "energy_pointing_game": "Energy in the box",
}
_X_LABELS = {
    "deletion": "share of the picture erased",
    "insertion": "share of the picture put back",
}
_LARGEST_DRAWN_SIDE = 64
CLEAN_MEASURE = Measure(
    CLEAN_SCORE,
    "Clean score",
    "Probability of the class on the unchanged picture: the same for every row.",
)


@dataclass(frozen=True)
class ScoredMetric:
    """A metric as a column: named as it was written, with the profile that it runs with."""

    name: str
    metric: Metric
    needs_region: bool
    measure: Measure


def read_metrics(
    given: MetricsInput, profile: str | None, model: ModelInfo, dataset: Dataset
) -> tuple[ScoredMetric, ...]:
    """The metrics that a caller asks for, each once.

    Args:
        given: None for average drop and increase, deletion and insertion, and the
            localisation games where the data set has boxes.
        profile: For metrics that take one and were not given one; None for the default.
        model: Whose server knows the metrics.
        dataset: What they are for.

    Raises:
        InvalidParameterError: An unknown metric, parameter or profile, or a game without
            any box.
    """
    boxes = any(image.boxes for image in dataset.images)
    if given is None:
        given = (*_CURVES, *(_GAMES if boxes else ()))
    known = {info.name: info for info in model.metrics}
    found: dict[str, ScoredMetric] = {}
    for item in [given] if isinstance(given, (str, Metric)) else given:
        for metric in [item] if isinstance(item, Metric) else map(Metric.parse, specs.split(item)):
            if metric.name not in known:
                raise InvalidParameterError(
                    f"the server does not know the metric {metric.name!r}", field="metrics"
                )
            info = known[metric.name]
            if info.needs_region and not boxes:
                raise InvalidParameterError(
                    f"{metric.name} needs boxes, and the data set has none", field="metrics"
                )
            found.setdefault(text(metric), _scored(metric, info, profile))
    if not found:
        raise InvalidParameterError("no metric to evaluate by", field="metrics")
    return tuple(found.values())


def _scored(metric: Metric, info: MetricInfo, profile: str | None) -> ScoredMetric:
    name = text(metric)
    takes_profile = "profile" in [parameter.name for parameter in info.parameters]
    runs = metric
    if profile is not None and takes_profile and "profile" not in metric.parameters:
        runs = Metric.of(metric.name, profile=profile, **metric.parameters)
    label = name.replace(metric.name, _LABELS.get(metric.name, metric.name), 1)
    description = info.summary.rstrip(".") + "."
    measure = Measure(name, label, description, higher_is_better=metric.higher_is_better)
    return ScoredMetric(name, runs, info.needs_region, measure)


def headline(metrics: Sequence[ScoredMetric]) -> str:
    """What ranks: insertion, else deletion, else the first; a drop sees one mask alone."""
    for name in ("insertion", "deletion"):
        for metric in metrics:
            if metric.metric.name == name:
                return metric.name
    return metrics[0].name


def metric_curves(metrics: Sequence[ScoredMetric]) -> tuple[CurveInfo, ...]:
    """Curves of those metrics that have one."""
    return tuple(
        CurveInfo(
            metric.name,
            metric.measure.label,
            _X_LABELS[metric.metric.name],
            "probability of the class",
            metric.measure.higher_is_better,
        )
        for metric in metrics
        if metric.metric.name in _X_LABELS
    )


def image_record(
    row: str,
    image: LabelledImage,
    metrics: Sequence[ScoredMetric],
    asked: Sequence[ScoredMetric],
    scores: SaliencyScores | None,
    given: GridMap | None,
) -> Record:
    """What a row came to on a picture.

    Args:
        row: Its name.
        image: The picture.
        metrics: All columns.
        asked: Those that were asked for, in the order of `scores`.
        scores: The answer; None where nothing was asked for.
        given: The map that was scored, where the answer does not hold it.
    """
    values: dict[str, float | None] = {metric.name: None for metric in metrics}
    notes = {metric.name: "the picture has no box" for metric in metrics if metric not in asked}
    if scores is None:
        return Record(row, image.path, image.label, {**values, CLEAN_SCORE: None}, notes=notes)
    curves: dict[str, Series] = {}
    for metric, score in zip(asked, scores.scores, strict=True):
        values[metric.name] = score.value
        if score.undefined:
            notes[metric.name] = score.undefined
        if score.curve is not None:
            curves[metric.name] = _series(score)
    clean = (score.clean_score for score in scores.scores if score.clean_score is not None)
    values[CLEAN_SCORE] = next(clean, None)
    scored = given or (None if scores.heatmap is None else GridMap.of(scores.heatmap))
    maps = (
        ()
        if scored is None
        else (replace(scored, values=_shrunk(scored.values)).drawn(image.path, ""),)
    )
    return Record(row, image.path, image.label, values, curves, maps, notes=notes)


def _series(score: MetricScore) -> Series:
    assert score.curve is not None
    fractions, scores = score.curve.fractions.tolist(), score.curve.scores.tolist()
    return Series(tuple(fractions), tuple(scores))


def _shrunk(heatmap: FloatArray) -> FloatArray:
    """The map by means over areas, if it has more cells than a report can show."""
    rows, columns = heatmap.shape
    if max(rows, columns) <= _LARGEST_DRAWN_SIDE:
        return heatmap
    scale = _LARGEST_DRAWN_SIDE / max(rows, columns)
    size = max(1, round(columns * scale)), max(1, round(rows * scale))
    small = Image.fromarray(heatmap).resize(size, Image.Resampling.BOX)
    return cast("FloatArray", np.asarray(small, np.float32))
