"""Which rows an evaluation tells apart."""

from dataclasses import replace

import numpy as np
import pytest

from pairlens.evaluation._standing import Standing, defined_counts, standing, uneven
from pairlens.evaluation.records import Record, Row
from tests.client.evaluation.made_evaluation import made_evaluation

METHODS = {"rollout": 0.3, "grad_cam(rule=libra, layer=3)": 0.2, "attention": 0.25}
CONTROLS = {"random": 0.4, "centre_gaussian": 0.32}


@pytest.fixture
def evaluation(tmp_path):
    return made_evaluation(tmp_path, METHODS, CONTROLS)


def test_the_verdict_is_that_of_paired_differences(evaluation):
    found = standing(evaluation, evaluation.measure("deletion"))
    best = "grad_cam(rule=libra, layer=3)"
    assert found == Standing(best, frozenset(), "centre_gaussian", frozenset())
    # Higher energy is better, so that all is the other way round.
    found = standing(evaluation, evaluation.measure("energy"))
    assert (found.best, found.control) == ("rollout", "random")
    assert found.unproven == set(METHODS)
    assert standing(evaluation, evaluation.measure("passes")) is None


def test_peers_are_equal_within_the_noise(evaluation):
    """Large differences between cases do not hide small ones between rows, nor make them."""
    generator = np.random.default_rng(1)
    level = generator.normal(0, 10, 40)
    offsets = {
        "best": np.zeros(40),
        "equal": generator.permutation(np.tile([-0.1, 0.1], 20)) + 1e-3,
        "worse": generator.normal(0.2, 0.05, 40),
        "control": np.full(40, 0.2),
    }
    records = [
        Record(name, f"{case:02}", str(case % 4), {"deletion": float(level[case] + added[case])})
        for name, added in offsets.items()
        for case in range(40)
    ]
    rows = tuple(Row(name, control=name == "control") for name in offsets)
    small = replace(evaluation, rows=rows, records=tuple(records), failures=(), planned=40)
    found = standing(small, evaluation.measure("deletion"))
    assert found == Standing("best", {"equal"}, "control", {"worse"})


def test_the_best_is_so_over_common_cases(evaluation):
    """Leaving out what it cannot do makes no method the best."""
    level = np.repeat([0.2, 0.8], 10)  # ten easy cases, ten hard ones; lower is better
    rows = {"sound": level, "choosy": np.where(level > 0.5, np.nan, level + 0.05)}
    rows |= {"rare": np.where(np.arange(20) < 3, 0.0, np.nan), "control": level + 0.5}
    records = [
        Record(name, f"{case:02}", "g", {"deletion": None if np.isnan(value) else float(value)})
        for name, values in rows.items()
        for case, value in enumerate(values)
    ]
    kinds = tuple(Row(name, control=name == "control") for name in rows)
    made = replace(evaluation, rows=kinds, records=tuple(records), failures=(), planned=20)
    measure = made.measure("deletion")
    assert made.interval("choosy", "deletion").mean < made.interval("sound", "deletion").mean
    assert standing(made, measure).best == "sound"
    assert defined_counts(made, measure) == {"sound": 20, "choosy": 10, "rare": 3, "control": 20}
    assert uneven(made, measure)
    even = replace(made, rows=(kinds[0], kinds[3]))
    assert not uneven(even, measure)
    # Without a common case each has its own mean.
    apart = [
        Record(name, case, "g", {"deletion": value})
        for name, case, value in (("sound", "1", 0.5), ("choosy", "2", 0.1))
    ]
    assert standing(replace(made, records=tuple(apart)), measure).best == "choosy"
