"""Which copies the metrics of a call need, each of them once, and bounds on how many."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from pairlens_server.errors import InvalidParameterError
from pairlens_server.fidelity.copies import CLEAN, Copy, MapOnInput, Ranking, Side
from pairlens_server.fidelity.erasures import CurveMetric
from pairlens_server.fidelity.metrics import ErasureMetric, Metric
from pairlens_server.fidelity.parameters import Board
from pairlens_server.fidelity.placing import ErasureUnit
from pairlens_server.models.loaded import LoadedModel
from pairlens_server.service.limits import ServiceLimits
from pairlens_server.service.score_maps import PlacedMap


def wanted_copies(
    metrics: Sequence[Metric], board: Board, most: int, limits: ServiceLimits
) -> tuple[Copy, ...]:
    """Every copy that any metric needs, but for the clean one, which is recorded already.

    Args:
        metrics: Resolved.
        board: What the maps lie on.
        most: Copies of each changed picture that the call may take.
        limits: For the error.

    Raises:
        InvalidParameterError: There are more.
    """
    wanted: dict[Copy, None] = {}
    for metric in dict.fromkeys(metrics):
        if isinstance(metric, ErasureMetric):
            wanted |= dict.fromkeys(metric.copies(board))
        wanted.pop(CLEAN, None)
        # Before the next one, which may have as many.
        if len(wanted) > most:
            raise InvalidParameterError(
                f"the metrics take more copies than the {limits.max_copies} of a call",
                field="metrics",
            )
    return tuple(wanted)


def check_embeddings_returned(
    metrics: Sequence[Metric], board: Board, sides: Sequence[Side], size: int, limits: ServiceLimits
) -> None:
    """Bound the embeddings that curves bring back.

    Args:
        metrics: Resolved.
        board: What the maps lie on.
        sides: Of the answer.
        size: Of an embedding.
        limits: Its `max_match_values` bounds them as it does match matrices.

    Raises:
        InvalidParameterError: They hold more values.
    """
    points = sum(len(m.boundaries(board)) for m in metrics if isinstance(m, CurveMetric))
    pictures = sum(2 if side is Side.BOTH else 1 for side in sides)
    values = points * pictures * size
    if values > limits.max_match_values:
        raise InvalidParameterError(
            f"the embeddings along the curves hold {values} values, the limit is "
            f"{limits.max_match_values}; ask for fewer points or metrics",
            field="return_embeddings",
        )


def maps_for_copies(
    copies: Iterable[Copy], maps: Sequence[PlacedMap], model: LoadedModel
) -> list[MapOnInput]:
    """Rank the maps of the changed pictures as the copies need them.

    Raises:
        InvalidParameterError: Cells of maps that have not the same number of them.
    """
    rankings: Mapping[Ranking, None] = dict.fromkeys(
        copy.ranking for copy in copies if copy.ranking is not None
    )
    by_cells = any(ranking.unit is ErasureUnit.CELLS for ranking in rankings)
    if by_cells and len({placed.cells for placed in maps}) > 1:
        raise InvalidParameterError(
            "the two maps have different numbers of cells; erase pixels", field="partner_heatmap"
        )
    return [placed.for_copies(rankings, model) for placed in maps]
