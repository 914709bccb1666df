from __future__ import annotations

import numpy as np
import pytest

from pairlens_server.fidelity.curves import area, boundaries, normalized_area, reference_area


def test_steps_divide_the_units_as_evenly_as_they_can() -> None:
    assert boundaries(10, steps=4) == (0, 3, 5, 8, 10)  # 2.5 and 7.5 are rounded up
    assert boundaries(10, steps=1) == (0, 10)
    assert boundaries(5, steps=5) == (0, 1, 2, 3, 4, 5)


@pytest.mark.parametrize("count", [1, 7, 196, 50176])
def test_any_number_of_steps_is_kept(count: int) -> None:
    for steps in {1, min(2, count), min(64, count), count - count // 3, count}:
        points = boundaries(count, steps=steps)
        sizes = np.diff(points)
        assert len(sizes) == steps
        assert (points[0], points[-1]) == (0, count)
        assert sizes.min() >= 1
        assert sizes.max() - sizes.min() <= 1


def test_a_step_size_leaves_the_rest_to_the_last_step() -> None:
    assert boundaries(10, step_size=4) == (0, 4, 8, 10)
    assert boundaries(8, step_size=4) == (0, 4, 8)
    assert boundaries(10, step_size=10) == (0, 10)
    # The thesis: 224 pixels a step of a 224 x 224 input give 225 scores.
    assert len(boundaries(224 * 224, step_size=224)) == 225
    assert len(boundaries(224 * 224 + 1, step_size=224)) == 226


def test_fractions_are_rounded_and_get_both_ends() -> None:
    assert boundaries(10, fractions=(0.1, 0.3, 0.55)) == (0, 1, 3, 6, 10)
    assert boundaries(4, fractions=(0.01, 0.2, 0.25, 0.99)) == (0, 1, 4)  # duplicates dropped
    assert boundaries(4, fractions=(0, 1)) == (0, 4)


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"steps": 0},
        {"steps": 11},
        {"step_size": 0},
        {"step_size": 11},
        {"steps": 2, "step_size": 2},
        {"steps": 2, "fractions": (0.5,)},
        {"fractions": (-0.1,)},
        {"fractions": (1.1,)},
        {"fractions": (float("nan"),)},
    ],
)
def test_settings_that_make_no_curve_are_refused(settings: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"steps|units|share"):
        boundaries(10, **settings)  # type: ignore[arg-type]


def test_the_worked_example_of_the_thesis() -> None:
    scores = (0.9, 0.6, 0.3, 0.1)
    assert area((0, 1 / 3, 2 / 3, 1), scores) == pytest.approx(1.4 / 3, abs=1e-12)
    assert reference_area(scores) == pytest.approx(0.46667, abs=5e-6)


def test_an_uneven_last_step_counts_by_its_share() -> None:
    # Trapezoids of 0.4, 0.4 and 0.2: means 0.9, 0.6 and 0.2.
    assert area((0, 0.4, 0.8, 1), (1.0, 0.8, 0.4, 0.0)) == pytest.approx(0.64, abs=1e-12)
    assert reference_area((1.0, 0.8, 0.4, 0.0)) == pytest.approx(1.7 / 3, abs=1e-12)


def test_a_constant_curve_has_its_value_as_area() -> None:
    points = np.array(boundaries(1000, step_size=7)) / 1000
    scores = np.full(len(points), 0.37)
    assert area(points, scores) == pytest.approx(0.37, abs=1e-12)
    assert reference_area(scores) == pytest.approx(0.37, abs=1e-12)


def test_areas_of_single_precision_scores_are_taken_in_double() -> None:
    scores = np.full(50001, np.float32(0.1))
    exact = float(np.float32(0.1))
    assert reference_area(scores) == pytest.approx(exact, rel=1e-12)
    assert area(np.linspace(0, 1, 50001), scores) == pytest.approx(exact, rel=1e-12)


def test_the_normalized_area_puts_the_two_ends_at_one_and_zero() -> None:
    fractions = (0, 0.5, 1)
    for scores, full, empty, expected in (
        # Scaled, the scores are 1, 1/4 and 0.
        ((0.9, 0.3, 0.1), 0.9, 0.1, 0.375),
        # A straight line from the one to the other is a half, wherever they lie.
        ((-0.2, 0.1, 0.4), -0.2, 0.4, 0.5),
        # Insertion runs the other way.
        ((0.1, 0.7, 0.9), 0.9, 0.1, 0.625),
    ):
        # Evenly spaced, so that both rules agree.
        for found in (area(fractions, scores), reference_area(scores)):
            assert normalized_area(found, full, empty) == pytest.approx(expected)


def test_the_normalized_area_is_the_area_under_the_scaled_scores() -> None:
    rng = np.random.default_rng(0)
    fractions = np.array([0, *np.sort(rng.random(9)), 1])
    scores, full, empty = rng.normal(size=11), 0.7, -0.4
    scaled = (scores - empty) / (full - empty)
    found = normalized_area(area(fractions, scores), full, empty)
    assert found == pytest.approx(area(fractions, scaled), abs=1e-12)
    found = normalized_area(reference_area(scores), full, empty)
    assert found == pytest.approx(reference_area(scaled), abs=1e-12)


def test_no_area_is_normalized_by_nothing() -> None:
    assert normalized_area(0.5, 0.5, 0.5) is None
    assert normalized_area(0.5, 0.5, 0.5 + 9e-7) is None
    assert normalized_area(0.5, 0.5, 0.5 + 2e-6) is not None


def test_a_single_point_is_no_curve() -> None:
    with pytest.raises(ValueError, match="two points"):
        reference_area((0.5,))
    with pytest.raises(ValueError, match="2 fractions, 3 scores"):
        area((0, 1), (0.5, 0.5, 0.5))
