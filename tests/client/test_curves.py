import dataclasses

import numpy as np
import pytest

from pairlens import HeadInterrelation, InvalidParameterError, focus_curve, interrelation_curves
from pairlens.curves import BLUE, GREEN, PURPLE, VERMILLION, over_heads
from tests.client.answers import explanation_of
from tests.client.test_plot import where

HEADS = explanation_of("semantic_attention").interrelations


def test_over_heads():
    mean, low, high = over_heads(HEADS, "kk")
    np.testing.assert_allclose(mean, (5 + np.arange(12)) / 32)
    np.testing.assert_allclose(low, (4 + np.arange(12)) / 32)
    np.testing.assert_allclose(high, (6 + np.arange(12)) / 32)
    mean, low, high = over_heads(HEADS, "nk")
    assert np.isnan([mean[1], low[1], high[1]]).all()
    assert np.isfinite(np.delete(mean, 1)).all()


def test_heads_may_come_in_any_order_and_some_without_values():
    some = [
        HeadInterrelation(3, 1, None, None, 0.5, 0.5, 4.0),
        HeadInterrelation(1, 0, 0.25, 0.75, 0.5, 0.5, 2.0),
        HeadInterrelation(3, 0, 0.5, 0.5, 0.5, 0.5, 8.0),
    ]
    mean, low, high = over_heads(some, "kk")
    assert (mean.tolist(), low.tolist(), high.tolist()) == ([0.25, 0.5],) * 3
    assert over_heads(some, "focus_index")[0].tolist() == [2, 6]


def test_the_four_curves_lie_where_the_data_says():
    drawn = np.asarray(interrelation_curves(HEADS)).astype(int)[110:]
    found = {color: where(drawn, color) for color in (BLUE, VERMILLION, GREEN, PURPLE)}
    for _, columns in found.values():
        assert columns.min() < 90
        assert columns.max() > 680
    # In the first block KK is 5/32 and KN the rest of 1.
    left = {color: rows[columns < 90].mean() for color, (rows, columns) in found.items()}
    assert left[VERMILLION] < left[BLUE] - 150
    _, columns = found[GREEN]
    step = (columns.max() - columns.min()) / 11
    torn = (columns > columns.min() + 0.5 * step) & (columns < columns.min() + 1.5 * step)
    assert not torn.any()  # NK is unset in block 1


def test_focus_curve_falls():
    rows, columns = where(np.asarray(focus_curve(HEADS)).astype(int), BLUE)
    assert rows[columns < 90].mean() < rows[columns > 680].mean() - 100


def test_nothing_to_plot():
    for plot in (interrelation_curves, focus_curve):
        with pytest.raises(InvalidParameterError, match="nothing to plot"):
            plot([])


def test_a_picture_without_keypoints_has_two_curves():
    bare = [dataclasses.replace(head, kk=None, kn=None) for head in HEADS]
    drawn = np.asarray(interrelation_curves(bare)).astype(int)[110:]
    assert not where(drawn, BLUE)[0].size
    assert where(drawn, PURPLE)[0].size
