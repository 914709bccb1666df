import math

import numpy as np
import pytest

from pairlens_server.errors import InvalidParameterError
from pairlens_server.fidelity.copies import CLEAN, filled
from pairlens_server.fidelity.drops import AverageDrop, AverageIncrease
from pairlens_server.fidelity.erasures import Deletion, Insertion
from pairlens_server.fidelity.metrics import Score
from pairlens_server.fidelity.parameters import Board, ScoredClass
from pairlens_server.fidelity.placing import ErasureOrder, ErasureUnit
from pairlens_server.fidelity.pointing import EnergyPointingGame, PointingGame
from pairlens_server.fidelity.substrates import Substrate
from pairlens_server.methods.parameters import Profile

BOARD = Board(height=224, width=224, cells=196, black=(-2.0, -2.0, -2.0))
SMALL = Board(height=2, width=5, cells=4, black=(0.0, 0.0, 0.0))
REFERENCE = Profile.REFERENCE


def resolved(metric, board=BOARD):
    return metric.resolve(board, f"metrics[0].{metric.name}")


def probability(value: float) -> Score:
    return Score(value, math.log(value) if value else -math.inf)


def verdict(metric, clean: Score, masked: Score):
    metric = resolved(metric)
    first, second = metric.copies(BOARD)
    return metric.judge({first: clean, second: masked}, BOARD)


@pytest.mark.parametrize("profile", [Profile.STRICT, REFERENCE])
def test_the_worked_example_of_average_drop(profile):
    found = verdict(AverageDrop(profile), probability(0.8), probability(0.6))
    assert found.value == pytest.approx(0.25)
    assert (found.clean_score, found.masked_score) == (0.8, 0.6)
    increase = verdict(AverageIncrease(profile), probability(0.8), probability(0.6))
    assert increase.value == 0


@pytest.mark.parametrize("profile", [Profile.STRICT, REFERENCE])
def test_a_score_that_rises_drops_by_nothing(profile):
    rising = probability(0.25), probability(0.5)
    assert verdict(AverageDrop(profile), *rising).value == 0
    assert verdict(AverageIncrease(profile), *rising).value == 1
    # Strictly greater: an equal score is no increase.
    same = probability(0.25), probability(0.25)
    assert verdict(AverageIncrease(profile), *same).value == 0
    assert verdict(AverageDrop(profile), *same).value == 0


def test_a_probability_that_underflows_is_defined_under_strict_alone():
    tiny = Score(math.exp(-800), -800.0), Score(math.exp(-801), -801.0)
    assert tiny[0].value == 0
    assert verdict(AverageDrop(), *tiny).value == pytest.approx(1 - math.exp(-1))
    assert verdict(AverageIncrease(), *reversed(tiny)).value == 1
    found = verdict(AverageDrop(REFERENCE), *tiny)
    assert found.value is None
    assert "float32" in found.undefined


@pytest.mark.parametrize(
    ("clean", "masked", "expected"),
    [
        # 1e-46 and 2e-46 are both 0 as float32.
        (probability(1e-46), probability(2e-46), (1, 0)),
        (probability(0.0), probability(0.1), (1, 1)),
        (probability(0.0), probability(0.0), (0, 0)),
        (probability(0.1), probability(0.0), (0, 0)),
        (Score(-0.5), Score(-0.4), (1, 1)),
        (Score(-0.5), Score(-0.6), (0, 0)),
        (Score(0.0), Score(0.1), (1, 1)),
        (Score(0.0), Score(0.0), (0, 0)),
        (Score(0.0), Score(-0.1), (0, 0)),
    ],
)
def test_an_increase_needs_no_positive_score(clean, masked, expected):
    """Of [O > Y] there is nothing to divide by: under STRICT, and under REFERENCE."""
    for profile, value in zip((Profile.STRICT, REFERENCE), expected, strict=True):
        found = verdict(AverageIncrease(profile), clean, masked)
        assert (found.value, found.undefined) == (value, "")


def test_float32_decides_what_underflows_under_reference():
    # 1e-46 is a double, and 0 as float32.
    assert verdict(AverageDrop(REFERENCE), probability(1e-46), probability(0.1)).value is None
    assert verdict(AverageDrop(REFERENCE), probability(1e-44), probability(0.1)).value == 0


@pytest.mark.parametrize("clean", [0.0, -0.5])
def test_a_similarity_that_is_not_positive_has_no_relative_change(clean):
    for profile in (Profile.STRICT, REFERENCE):
        found = verdict(AverageDrop(profile), Score(clean), Score(0.1))
        assert found.value is None
        assert found.undefined == "the clean similarity is not positive"


def test_a_similarity_drops_below_zero():
    assert verdict(AverageDrop(), Score(0.5), Score(-0.5)).value == 2


def curve(metric, values: list[float]):
    metric = resolved(metric, SMALL)
    copies = metric.copies(SMALL)
    assert len(copies) == len(values)
    scores = {copy: Score(v) for copy, v in zip(copies, values, strict=True)}
    return metric.judge(scores, SMALL)


def test_the_worked_example_of_the_area():
    # Ten pixels in three steps of 4, 4 and 2.
    reference = curve(Deletion(REFERENCE, step_size=4), [0.9, 0.6, 0.3, 0.1])
    assert reference.value == pytest.approx(0.466667, abs=1e-6)
    strict = curve(Deletion(step_size=4), [0.9, 0.6, 0.3, 0.1])
    assert strict.value == pytest.approx(0.4 * 0.75 + 0.4 * 0.45 + 0.2 * 0.2)
    np.testing.assert_allclose(strict.curve.fractions, [0, 0.4, 0.8, 1])
    assert (strict.clean_score, strict.masked_score) == (0.9, 0.1)
    # (s - 0.1) / 0.8, so that the curve runs from 1 to 0.
    assert strict.normalized_value == pytest.approx((strict.value - 0.1) / 0.8)


def test_insertion_runs_from_the_filled_picture_to_the_clean_one():
    found = curve(Insertion(steps=2), [0.2, 0.4, 0.6])
    assert (found.clean_score, found.masked_score) == (0.6, 0.2)
    assert found.curve.copies[0] == filled(resolved(Insertion(), SMALL).filling(SMALL))
    assert found.curve.copies[-1] == CLEAN
    assert found.value == pytest.approx(0.4)
    assert found.normalized_value == pytest.approx(0.5)


@pytest.mark.parametrize("profile", [Profile.STRICT, REFERENCE])
@pytest.mark.parametrize("metric", [Deletion, Insertion])
def test_a_constant_curve_has_its_value(metric, profile):
    found = curve(metric(profile, step_size=3), [0.3] * 5)
    assert found.value == pytest.approx(0.3)
    assert found.normalized_value is None


def test_defaults_of_the_profiles():
    strict, reference = resolved(Deletion()), resolved(Deletion(REFERENCE))
    assert (strict.steps, strict.step_size) == (64, None)
    assert (reference.steps, reference.step_size) == (None, 224)
    assert len(reference.boundaries(BOARD)) == 225
    assert len(strict.boundaries(BOARD)) == 65
    assert strict.scored_class is ScoredClass.TARGET
    assert reference.scored_class is ScoredClass.PREDICTED
    assert resolved(AverageDrop(REFERENCE)).scored_class is ScoredClass.TARGET
    assert resolved(Insertion()).substrate is Substrate.BLUR
    assert strict.substrate is Substrate.MEAN
    assert resolved(AverageDrop()).substrate is Substrate.BLACK
    assert resolved(Deletion(), SMALL).steps == 10
    assert resolved(Deletion(unit=ErasureUnit.CELLS), SMALL).steps == 4
    assert not strict.ranking().flipped_ties
    assert reference.ranking().flipped_ties
    assert resolved(Insertion(REFERENCE)).filling(BOARD).reference_blur


@pytest.mark.parametrize("board", [BOARD, SMALL, Board(384, 400, 9, (0.0, 0.0, 0.0))])
@pytest.mark.parametrize("kind", [AverageDrop, AverageIncrease, Deletion, Insertion])
def test_the_blurs_deviation_is_resolved_to_its_number(kind, board):
    found = resolved(kind(substrate=Substrate.BLUR), board)
    assert found.blur_sigma == pytest.approx(5 * min(board.height, board.width) / 224, rel=3e-7)
    assert found.blur_sigma == float(str(np.float32(found.blur_sigma)))
    again = resolved(found, board)
    assert again == found
    assert again.filling(board) == found.filling(board)
    assert again.copies(board) == found.copies(board)
    # Where there is no Gaussian there is no deviation, and what is echoed can be sent again.
    for other in (kind(REFERENCE, substrate=Substrate.BLUR), kind(substrate=Substrate.NOISE)):
        assert resolved(other, board).blur_sigma is None
        assert resolved(resolved(other, board), board) == resolved(other, board)


def test_more_fractions_than_units_are_refused_unseen():
    class Unread(tuple):
        __slots__ = ()

        def __iter__(self):
            raise AssertionError("the values were looked at")

    for metric, board, said in (
        (Deletion(fractions=Unread([0.5] * 11)), SMALL, "11 fractions; there are 10 pixels"),
        (Insertion(fractions=Unread([0.5] * 5), unit=ErasureUnit.CELLS), SMALL, "4 cells"),
        (Deletion(fractions=Unread([0.5] * (224 * 224 + 1))), BOARD, "50176 pixels"),
    ):
        with pytest.raises(InvalidParameterError, match=said) as caught:
            resolved(metric, board)
        assert caught.value.field == f"metrics[0].{metric.name}.fractions"
    every = tuple((i + 0.5) / 10 for i in range(10))
    assert resolved(Deletion(fractions=every), SMALL).fractions == every


def test_deletion_and_insertion_share_every_picture_of_opposite_orders():
    both = {"unit": ErasureUnit.CELLS, "substrate": Substrate.BLUR, "steps": 14}
    least = resolved(Deletion(order=ErasureOrder.LEAST_RELEVANT_FIRST, **both))
    most = resolved(Insertion(**both))
    assert least.copies(BOARD) == most.copies(BOARD)[::-1]
    first = resolved(Deletion(**both))
    assert set(first.copies(BOARD)) & set(most.copies(BOARD)) == {
        CLEAN,
        filled(first.filling(BOARD)),
    }


@pytest.mark.parametrize(
    ("metric", "field", "said"),
    [
        (Deletion(steps=0), "steps", "at least 1"),
        (Deletion(steps=224 * 224 + 1), "steps", "at most 50176"),
        (Insertion(step_size=0), "step_size", "at least 1"),
        (Deletion(steps=197, unit=ErasureUnit.CELLS), "steps", "there are 196 cells"),
        (Deletion(steps=3, step_size=3), "step_size", "at most one"),
        (Deletion(steps=3, fractions=(0.5,)), "fractions", "at most one"),
        (Deletion(fractions=(0.5, 0.2)), "fractions", "ascend"),
        (Deletion(fractions=(0.0, 0.2)), "fractions", "more than 0"),
        (Deletion(fractions=(0.2, 1.0)), "fractions", "less than 1"),
        (Deletion(fractions=(math.nan,)), "fractions", "out of range"),
        (Deletion(Profile.PAPER), "profile", "strict and reference"),
        (AverageDrop(Profile.PAPER), "profile", "strict and reference"),
        (Deletion(blur_sigma=3.0), "blur_sigma", "substrate blur"),
        (Insertion(REFERENCE, blur_sigma=3.0), "blur_sigma", "strict"),
        (Insertion(blur_sigma=0.0), "blur_sigma", "more than 0"),
        (AverageDrop(substrate=Substrate.NOISY_LINEAR), "substrate", "noisy_linear"),
        (PointingGame(tolerance=-1.0), "tolerance", "at least 0"),
    ],
)
def test_what_is_refused_names_its_field(metric, field, said):
    with pytest.raises(InvalidParameterError, match=said) as caught:
        resolved(metric)
    assert caught.value.field == f"metrics[0].{metric.name}.{field}"


def test_a_map_of_the_pictures_own_pixels_has_no_cells():
    board = Board(8, 8, 0, (0.0, 0.0, 0.0))
    with pytest.raises(InvalidParameterError, match="no cells") as caught:
        resolved(Deletion(unit=ErasureUnit.CELLS), board)
    assert caught.value.field == "metrics[0].deletion.unit"


def test_the_games_need_a_region_and_no_copy():
    assert PointingGame.needs_region
    assert EnergyPointingGame.needs_region
    assert resolved(PointingGame()).tolerance == 0
    assert not hasattr(EnergyPointingGame(), "copies")
