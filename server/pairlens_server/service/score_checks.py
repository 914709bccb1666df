"""What can be refused of a call of ScoreSaliency before any model runs."""

from __future__ import annotations

from pairlens.rendering import GridGeometry
from pairlens_server.errors import InvalidParameterError
from pairlens_server.fidelity.copies import Side
from pairlens_server.fidelity.localisation import RegionOfInterest
from pairlens_server.fidelity.metrics import ErasureMetric, Metric
from pairlens_server.fidelity.parameters import ScoredClass
from pairlens_server.recording.facts import ModelFacts
from pairlens_server.service.commands import SimilarityTarget
from pairlens_server.service.limits import ServiceLimits, check_count
from pairlens_server.service.score_commands import ScoreCommand


def metric_field(index: int, metric: Metric) -> str:
    """Path of a metric in the request."""
    return f"metrics[{index}].{metric.name}"


def check_command(command: ScoreCommand, facts: ModelFacts, limits: ServiceLimits) -> None:
    """Refuse metrics, sides and maps that do not go together.

    Raises:
        InvalidParameterError: Names the field.
    """
    check_count(command.metrics, limits.max_metrics, "metrics")
    if sum(x is not None for x in (command.heatmap, command.method, command.pair_method)) != 1:
        raise InvalidParameterError(
            "give a heatmap, a method or a pair_method to score", field="method"
        )
    similarity = isinstance(command.target, SimilarityTarget)
    if not similarity and not facts.classes:
        raise InvalidParameterError(
            f"{facts.refusals.classes}; give a similarity target", field="target"
        )
    if command.return_embeddings and not similarity:
        raise InvalidParameterError(
            "embeddings are read for a similarity target alone", field="return_embeddings"
        )
    _check_sides(command)
    for index, metric in enumerate(command.metrics):
        field = metric_field(index, metric)
        if metric.needs_region and command.region is None:
            raise InvalidParameterError(f"{metric.name} needs a region", field="region")
        predicted = (
            isinstance(metric, ErasureMetric) and metric.scored_class is ScoredClass.PREDICTED
        )
        if similarity and predicted:
            raise InvalidParameterError(
                "a similarity target has no class", field=f"{field}.scored_class"
            )


def _check_sides(command: ScoreCommand) -> None:
    target = command.target
    pair = (
        isinstance(target, SimilarityTarget)
        and len(target.images) == 1
        and target.embeddings is None
    )
    of_partner = [side for side in command.sides if side is not Side.IMAGE]
    if len(set(command.sides)) != len(command.sides):
        raise InvalidParameterError("a side is named twice", field="sides")
    needs = "a similarity target of one picture and no embeddings"
    if of_partner and not pair:
        raise InvalidParameterError(f"side {of_partner[0].value} needs {needs}", field="sides")
    if command.pair_method is not None and not pair:
        raise InvalidParameterError(f"a pair_method needs {needs}", field="target")
    if command.heatmap is not None and of_partner and command.partner_heatmap is None:
        raise InvalidParameterError(
            f"side {of_partner[0].value} needs the partner's heatmap", field="partner_heatmap"
        )
    if command.partner_heatmap is not None and (command.heatmap is None or not of_partner):
        raise InvalidParameterError(
            "a partner_heatmap goes with a heatmap and side partner or both",
            field="partner_heatmap",
        )


def check_region(region: RegionOfInterest, geometry: GridGeometry) -> None:
    """Refuse a region that does not lie on the picture.

    Raises:
        InvalidParameterError: Names the field.
    """
    height, width = geometry.image_height, geometry.image_width
    for index, box in enumerate(region.boxes):
        inside = 0 <= box.left < box.right <= width and 0 <= box.top < box.bottom <= height
        if not inside:
            raise InvalidParameterError(
                f"box ({box.left:g}, {box.top:g}, {box.right:g}, {box.bottom:g}) has no place on a "
                f"picture of {width} x {height} pixels (left, top, right, bottom)",
                field=f"region.boxes[{index}]",
            )
    if region.mask is not None and region.mask.shape != (height, width):
        rows, columns = region.mask.shape
        raise InvalidParameterError(
            f"a mask of {rows} x {columns}; the picture has {height} x {width} (rows, columns)",
            field="region.mask",
        )
    if region.mask is not None and not region.mask.any() and not region.boxes:
        raise InvalidParameterError("the mask is empty", field="region.mask")
