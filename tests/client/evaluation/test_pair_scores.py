from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest
from scipy.stats import spearmanr

from pairlens.evaluation.pair_scores import (
    UndefinedScoreError,
    area,
    contrast,
    hit,
    joint_floor,
    nearest_point,
    normalised,
    spearman,
)


def test_area_by_hand_over_the_true_shares() -> None:
    # 0.1 * (1 + 0.6) / 2 + 0.4 * (0.6 + 0.2) / 2 + 0.5 * (0.2 + 0) / 2
    assert area([0, 0.1, 0.5, 1], [1, 0.6, 0.2, 0]) == pytest.approx(0.08 + 0.16 + 0.05)
    assert area([0, 0.3, 1], [0.7, 0.7, 0.7]) == pytest.approx(0.7)


def test_normalised_puts_the_ends_at_one_and_zero() -> None:
    np.testing.assert_allclose(normalised([0.9, 0.5, 0.3, 0.1], 0.9, 0.3), [1, 1 / 3, 0, -1 / 3])


@pytest.mark.parametrize("floor", [0.9, 0.86, 0.95, float("nan")])
def test_a_pair_that_filling_does_not_part_is_undefined(floor: float) -> None:
    with pytest.raises(UndefinedScoreError, match=r"less than 0\.05"):
        normalised([0.9, 0.5], 0.9, floor)


def test_filling_both_is_no_floor() -> None:
    # Clean 0.8; one filled 0.2 or 0.3; both filled with one colour 1.0. By the end of its own
    # curve the fall to 0.4 would count as a rise far above the clean pair.
    clean, found = 0.8, [0.8, 0.4, 1.0]
    floor = joint_floor(0.2, 0.3)
    assert floor == 0.25
    with pytest.raises(UndefinedScoreError):
        normalised(found, clean, found[-1])
    assert normalised(found, clean, floor)[1] == pytest.approx(0.15 / 0.55)


def test_the_true_map_of_a_linear_score_beats_every_other_order() -> None:
    weights = np.array([0.3, -0.1, 0.25, 0.05, 0.2, 0.1])
    shares = np.arange(7) / 6

    def gain(order: tuple[int, ...]) -> float:
        def left(erased: tuple[int, ...]) -> float:
            return weights.sum() - weights[list(erased)].sum()

        morf = [left(order[:count]) for count in range(7)]
        lerf = [left(order[::-1][:count]) for count in range(7)]
        clean, floor = weights.sum(), 0.0
        return area(shares, normalised(lerf, clean, floor)) - area(
            shares, normalised(morf, clean, floor)
        )

    best = max(permutations(range(6)), key=gain)
    assert best == tuple(np.argsort(-weights))
    # Reading an order backwards swaps the two areas, and equal halves gain nothing.
    assert gain(best[::-1]) == pytest.approx(-gain(best))


def copies(order: tuple[int, ...], to_p: np.ndarray, to_n: np.ndarray) -> np.ndarray:
    """Embeddings of length 1 whose cosines to e1 and e2 lose the cells' parts in that order."""
    kept = [sorted(set(range(len(to_p))) - set(order[:count])) for count in range(len(order) + 1)]
    a = np.array([to_p[cells].sum() for cells in kept])
    b = np.array([to_n[cells].sum() for cells in kept])
    return np.stack([a, b, np.sqrt(1 - a**2 - b**2)], axis=1)


def test_contrast_by_hand() -> None:
    # One cell of two holds all of the cosine to p (0.6), the other all of that to n (0.4).
    to_p, to_n = np.array([0.6, 0.0]), np.array([0.0, 0.4])
    shares = [0, 0.5, 1]
    e1, e2 = np.eye(3)[:2]
    # Drops over (0, 0.5, 1): p 0, 0.6, 0.6 and n 0, 0, 0.4.
    right = contrast(shares, copies((0, 1), to_p, to_n), e1, e2)
    assert right == pytest.approx((0.15 + 0.3) - 0.1)
    wrong = contrast(shares, copies((1, 0), to_p, to_n), e1, e2)
    assert wrong == pytest.approx(0.15 - (0.1 + 0.2))
    # The length of an embedding is no part of a cosine.
    scaled = copies((0, 1), to_p, to_n) * np.array([[3.0], [0.2], [7.0]])
    assert contrast(shares, scaled, 5 * e1, 2 * e2) == pytest.approx(right)


def test_the_map_of_what_is_only_shared_with_p_has_the_most_contrast() -> None:
    to_p = np.array([0.2, 0.1, 0.0, 0.15, 0.05])
    to_n = np.array([0.2, 0.0, 0.1, 0.05, 0.02])
    shares, (e1, e2) = np.arange(6) / 5, np.eye(3)[:2]

    def found(order: tuple[int, ...]) -> float:
        return contrast(shares, copies(order, to_p, to_n), e1, e2)

    top = max(found(order) for order in permutations(range(5)))
    assert found(tuple(np.argsort(-(to_p - to_n), kind="stable"))) == pytest.approx(top)
    # A map of p alone cannot tell what n has as well.
    assert found(tuple(np.argsort(-to_p, kind="stable"))) < top - 0.01


def test_hit_leaves_out_the_query_and_pictures_without_an_embedding() -> None:
    gallery = np.array([[1.0, 0], [0.8, 0.6], [0.6, 0.8], [np.nan, np.nan]], np.float32)
    labels = ["a", "b", "a", "a"]
    assert hit([2.0, 0.1], gallery, labels, (), "a")
    assert not hit([2.0, 0.1], gallery, labels, (0,), "a")
    assert hit([2.0, 0.1], gallery, labels, (0, 1), "a")


def test_nearest_point() -> None:
    assert nearest_point([0, 0.102, 0.204, 0.306, 1], 0.2) == 2


def test_spearman_against_scipy() -> None:
    draw = np.random.default_rng(0)
    first, second = draw.integers(0, 5, (2, 7, 7))  # many ties
    expected = spearmanr(first.ravel(), second.ravel()).statistic
    assert spearman(first, second) == pytest.approx(expected, abs=1e-12)
    assert spearman(first, 3 * first + 1) == pytest.approx(1)
    assert spearman(first, -first) == pytest.approx(-1)
    with pytest.raises(UndefinedScoreError):
        spearman(first, np.ones((7, 7)))


@pytest.mark.parametrize("broken", [0.0, float("nan"), float("inf")])
def test_an_erased_query_without_a_direction_has_no_score(broken: float) -> None:
    gallery = np.eye(2, dtype=np.float32)
    with pytest.raises(UndefinedScoreError, match="zero or not finite"):
        hit([broken, 0.0], gallery, ["a", "b"], (), "a")
    copies = np.array([[1.0, 0.0], [broken, 0.0], [0.0, 1.0]])
    with pytest.raises(UndefinedScoreError, match="zero or not finite"):
        contrast([0, 0.5, 1], copies, *np.eye(2))
