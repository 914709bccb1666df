import itertools

import numpy as np
import pytest

from pairlens.evaluation.statistics import (
    Bootstrap,
    Interval,
    bands,
    bootstrap_mean,
    bootstrap_means,
    paired_difference,
)


def test_the_mean_is_over_cases_not_over_classes():
    interval = bootstrap_mean([1, 2, 3, 10], ["a", "a", "a", "b"])
    assert interval.mean == 4
    assert interval.count == 4


def test_classes_that_do_not_vary_inside_have_no_width():
    # Plain resampling would mix the classes: between 0 and 1.
    interval = bootstrap_mean([0, 0, 0, 1, 1, 1], ["a", "a", "a", "b", "b", "b"])
    assert interval == Interval(0.5, 0.5, 0.5, 6)


def test_draws_are_those_of_each_class():
    # a sums to 0, 1 or 2 in one, two and one of four draws; b to 20 in all.
    values, groups = np.array([[0.0], [1.0], [10.0], [10.0]]), ["a", "a", "b", "b"]
    ends = {0.4: (21 / 4, 21 / 4), 0.98: (20 / 4, 22 / 4)}
    for level, expected in ends.items():
        low, high = bands(values, groups, Bootstrap(4000, level, seed=3))
        assert (low[0], high[0]) == expected


def test_against_all_draws_of_a_small_example():
    values = [0.1, 0.4, 0.7, 0.2, 0.8]
    groups = ["a", "a", "a", "b", "b"]
    exact = [
        (sum(first) + sum(second)) / 5
        for first in itertools.product(values[:3], repeat=3)
        for second in itertools.product(values[3:], repeat=2)
    ]
    interval = bootstrap_mean(values, groups, samples=40_000, seed=1, level=0.8)
    assert interval.mean == pytest.approx(0.44)
    # The draws have 0.02 between their means: the ends are among the exact ones.
    assert interval.low == pytest.approx(np.quantile(exact, 0.1), abs=0.021)
    assert interval.high == pytest.approx(np.quantile(exact, 0.9), abs=0.021)


def test_of_normal_values_it_is_the_normal_interval():
    generator = np.random.default_rng(0)
    values = generator.normal(3, 2, 400)
    interval = bootstrap_mean(values, ["a"] * 400, samples=4000, seed=5)
    half = 1.959964 * values.std() / 20
    assert interval.low == pytest.approx(values.mean() - half, abs=0.02)
    assert interval.high == pytest.approx(values.mean() + half, abs=0.02)


def test_stratified_it_is_narrower_by_what_classes_differ():
    generator = np.random.default_rng(0)
    groups = ["a"] * 200 + ["b"] * 200
    values = generator.normal(0, 1, 400) + np.repeat([0, 10], 200)
    interval = bootstrap_mean(values, groups, samples=4000, seed=5)
    inside = np.sqrt((values[:200].var() + values[200:].var()) / 2)
    assert interval.high - interval.low == pytest.approx(2 * 1.96 * inside / 20, rel=0.06)


def test_lone_cases_are_drawn_from_together():
    # As a class each they would never vary.
    groups = [str(index) for index in range(100)]
    values = np.arange(100.0)
    alone = bootstrap_mean(values, groups, seed=2)
    together = bootstrap_mean(values, ["a"] * 100, seed=2)
    assert alone == together
    assert alone.high - alone.low > 8


def test_undefined_values_are_left_out():
    nan = float("nan")
    interval = bootstrap_mean([1, nan, 1, float("inf")], ["a", "a", "b", "b"])
    assert interval == Interval(1, 1, 1, 2)
    assert bootstrap_mean([nan, nan], ["a", "b"]) == Interval(None, None, None, 0)
    assert bootstrap_mean([], []) == Interval(None, None, None, 0)


def test_columns_are_as_each_by_itself():
    generator = np.random.default_rng(1)
    values = generator.random((30, 3))
    values[[2, 7], 1] = np.nan
    groups = [f"{index % 4}" for index in range(30)]
    together = bootstrap_means(values, groups, Bootstrap(500, seed=9))
    for column, interval in enumerate(together):
        alone = bootstrap_mean(values[:, column], groups, samples=500, seed=9)
        assert interval.count == alone.count
        for name in ("mean", "low", "high"):
            assert getattr(interval, name) == pytest.approx(getattr(alone, name), abs=1e-12)
    assert [interval.count for interval in together] == [30, 28, 30]


def test_the_seed_decides():
    values, groups = np.random.default_rng(0).random(20), ["a"] * 20
    first = bootstrap_mean(values, groups, seed=1)
    assert first == bootstrap_mean(values, groups, seed=1)
    assert first != bootstrap_mean(values, groups, seed=2)


def test_blocks_of_draws_are_one(monkeypatch):
    values, groups = np.random.default_rng(0).random((50, 2)), ["a", "b"] * 25
    whole = bands(values, groups, Bootstrap(300))
    monkeypatch.setattr("pairlens.evaluation.statistics._DRAWN_AT_ONCE", 50 * 300)
    assert np.array_equal(whole, bands(values, groups, Bootstrap(300)))
    monkeypatch.setattr("pairlens.evaluation.statistics._DRAWN_AT_ONCE", 50 * 7)
    low, high = bands(values, groups, Bootstrap(300))
    assert np.allclose((low, high), whole, atol=0.03)


def test_a_difference_is_over_common_cases():
    first = ("x", "y", "z"), [0.5, 0.9, 0.7]
    second = ("z", "x", "q"), [0.5, 0.3, 0.0]
    interval = paired_difference(first, second, ["a", "a", "a"], Bootstrap())
    # x: 0.2, z: 0.2; y has no partner. Paired, they do not vary.
    assert interval.mean == pytest.approx(0.2)
    assert interval.low == pytest.approx(0.2)
    assert interval.high == pytest.approx(0.2)
    assert interval.count == 2
