"""Which copies a call needs, how many it may, and what stands for the same runs once."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from pairlens.rendering import Box, GridGeometry
from pairlens_server.errors import InvalidParameterError
from pairlens_server.fidelity.copies import CLEAN, Ranking, Side, filled
from pairlens_server.fidelity.drops import AverageDrop, AverageIncrease
from pairlens_server.fidelity.erasures import Deletion, Insertion
from pairlens_server.fidelity.metrics import Metric
from pairlens_server.fidelity.parameters import Board
from pairlens_server.fidelity.placing import ErasureOrder, ErasureUnit
from pairlens_server.fidelity.pointing import EnergyPointingGame, PointingGame
from pairlens_server.fidelity.substrates import Substrate
from pairlens_server.service.limits import ServiceLimits
from pairlens_server.service.score_copies import (
    check_embeddings_returned,
    maps_for_copies,
    wanted_copies,
)
from pairlens_server.service.score_maps import PlacedMap
from tests.support import vit

BOARD = Board(32, 48, 24, (-1.0, -2.0, -3.0))
LIMITS = ServiceLimits(max_copies=50, max_match_values=1000)
CELLS, LEAST = ErasureUnit.CELLS, ErasureOrder.LEAST_RELEVANT_FIRST
PIXELS = Ranking(ErasureUnit.PIXELS, flipped_ties=False)
FLIPPED = Ranking(ErasureUnit.PIXELS, flipped_ties=True)
GRID = Ranking(CELLS, flipped_ties=False)


def resolved(*metrics: Metric) -> list[Metric]:
    return [metric.resolve(BOARD, metric.name) for metric in metrics]


def wanted(*metrics: Metric, most: int = 1000) -> tuple:
    return wanted_copies(resolved(*metrics), BOARD, most, LIMITS)


def test_the_clean_picture_is_not_copied():
    found = wanted(Deletion(steps=3))
    assert CLEAN not in found
    assert len(found) == 3
    assert found[-1] == filled(resolved(Deletion())[0].filling(BOARD))


def test_where_a_map_lies_needs_no_copy():
    assert wanted(PointingGame(), EnergyPointingGame()) == ()
    assert wanted(PointingGame(), Deletion(steps=3)) == wanted(Deletion(steps=3))


def test_equal_metrics_and_equal_copies_are_wanted_once():
    deletion = Deletion(steps=8)
    assert wanted(deletion, deletion, Deletion(steps=8)) == wanted(deletion)
    # Metrics that differ in what they read, and not in their copies.
    assert wanted(AverageDrop(), AverageIncrease()) == wanted(AverageDrop())
    assert wanted(deletion, Deletion(steps=8, seed=4)) == wanted(deletion)
    assert wanted(deletion, Deletion(steps=4)) == wanted(deletion)
    back = Insertion(steps=8, substrate=Substrate.MEAN, order=LEAST)
    assert set(wanted(deletion, back)) == set(wanted(deletion))
    assert len(wanted(deletion, replace(back, order=None))) == 8 + 7
    # Unset and said.
    assert wanted(Insertion(), resolved(Insertion())[0]) == wanted(Insertion())


def test_a_copy_too_many_is_refused():
    assert len(wanted(Deletion(steps=9), most=9)) == 9
    assert len(wanted(Deletion(steps=9), Deletion(steps=9), most=9)) == 9
    for metrics in (
        (Deletion(steps=10),),
        (Deletion(steps=9), AverageDrop()),
        (PointingGame(), Deletion(steps=6), Deletion(steps=6, substrate=Substrate.BLACK)),
    ):
        with pytest.raises(InvalidParameterError, match="the 50 of a call") as caught:
            wanted(*metrics, most=9)
        assert caught.value.field == "metrics"
    with pytest.raises(InvalidParameterError):
        wanted(AverageDrop(), most=0)


@pytest.mark.parametrize(
    ("metrics", "sides", "size", "values"),
    [
        ((Deletion(steps=9),), (Side.IMAGE,), 100, 1000),
        ((Deletion(steps=9),), (Side.PARTNER,), 100, 1000),
        ((Deletion(steps=4),), (Side.BOTH,), 100, 1000),
        ((Deletion(steps=4), Insertion(fractions=(0.1, 0.2, 0.9))), (Side.IMAGE,), 100, 1000),
        ((Deletion(steps=4),), tuple(Side), 50, 1000),
        # Every curve holds its own, equal ones, too; a drop and a game have none.
        ((Deletion(steps=4), Deletion(steps=4)), (Side.IMAGE,), 100, 1000),
        ((Deletion(steps=9), AverageDrop(), PointingGame()), (Side.IMAGE,), 100, 1000),
        ((AverageDrop(), PointingGame()), tuple(Side), 10**9, 0),
    ],
)
def test_embeddings_that_come_back_are_bounded(metrics, sides, size, values):
    asked = resolved(*metrics)
    check_embeddings_returned(asked, BOARD, sides, size, LIMITS)
    if not values:
        return
    limits = replace(LIMITS, max_match_values=values - 1)
    with pytest.raises(InvalidParameterError, match="the limit is 999") as caught:
        check_embeddings_returned(asked, BOARD, sides, size, limits)
    assert f"hold {values} values" in caught.value.message
    assert caught.value.field == "return_embeddings"


def placed(values: np.ndarray, cells: int | None = None) -> PlacedMap:
    rows, columns = values.shape
    geometry = GridGeometry(rows, columns, 32, 48, Box(0, 0, 48, 32))
    on_input = np.kron(values, np.ones((32 // rows, 48 // columns))).astype(np.float32)
    cells = values.size if cells is None else cells
    return PlacedMap(values.astype(np.float32), geometry, torch.from_numpy(on_input), cells)


FINE, COARSE = placed(np.arange(24.0).reshape(4, 6)), placed(np.arange(6.0).reshape(2, 3))


def test_maps_are_ranked_as_the_copies_need_them_and_no_further():
    copies = wanted(Deletion(steps=3), Insertion(steps=3, unit=CELLS), AverageDrop())
    (found,) = maps_for_copies(copies, [FINE], vit())
    assert set(found.ranks) == {PIXELS, GRID}
    # The largest cell is the last one: its 64 pixels come first.
    assert (found.ranks[PIXELS][24:, 40:] < 64).all()
    assert (found.ranks[GRID][24:, 40:] == 0).all()
    assert (found.ranks[GRID][:8, :8] == 23).all()
    (bare,) = maps_for_copies(wanted(AverageDrop()), [FINE], vit())
    assert bare.ranks == {}
    assert (bare.mask.min(), bare.mask.max()) == (0, 1)


def test_cells_of_two_maps_go_together_when_they_are_as_many():
    by_cells = wanted(Deletion(steps=3, unit=CELLS))
    for maps in ([FINE, FINE], [FINE, placed(np.ones((2, 12)))]):
        assert len(maps_for_copies(by_cells, maps, vit())) == 2
    for partner in (COARSE, placed(np.ones((32, 48)), cells=0)):
        with pytest.raises(InvalidParameterError, match="erase pixels") as caught:
            maps_for_copies(by_cells, [FINE, partner], vit())
        assert caught.value.field == "partner_heatmap"
        # By pixels they do.
        assert len(maps_for_copies(wanted(Deletion(steps=3)), [FINE, partner], vit())) == 2
