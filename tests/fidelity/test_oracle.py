"""The oracle against numbers that were worked out by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from pairlens_server.models.loaded import LoadedModel
from tests.fidelity import oracle
from tests.support import pixels, zoo_model


@pytest.fixture(scope="module")
def model() -> LoadedModel:
    return zoo_model("resnet")


@pytest.fixture(scope="module")
def picture(model: LoadedModel) -> Tensor:
    return pixels(model, 1)[0]


def test_area_of_the_thesis() -> None:
    """(.9 + .6 + .3 + .1 - .9/2 - .1/2) / 3 = .4667, not the printed formula's .80."""
    assert oracle.reference_area((0.9, 0.6, 0.3, 0.1)) == pytest.approx(1.4 / 3)
    assert oracle.area((0, 1 / 3, 2 / 3, 1), (0.9, 0.6, 0.3, 0.1)) == pytest.approx(1.4 / 3)
    # .1 x .75 + .4 x .45 + .5 x .2
    assert oracle.area((0, 0.1, 0.5, 1), (0.9, 0.6, 0.3, 0.1)) == pytest.approx(0.355)


def test_a_constant_curve_has_its_value_as_area() -> None:
    assert oracle.reference_area([0.3] * 7) == pytest.approx(0.3)
    assert oracle.area((0, 0.2, 0.7, 1), [0.3] * 4) == pytest.approx(0.3)


def test_normalised_area() -> None:
    assert oracle.normalised_area((0, 0.5, 1), (0.8, 0.5, 0.4), 0.8, 0.4) == pytest.approx(0.375)
    assert oracle.normalised_area(None, (0.4, 0.9, 0.4), 0.4, 0.4) is None
    assert oracle.normalised_area(None, (0.4, 0.5, 0.8), 0.8, 0.4) == pytest.approx(0.375)


@pytest.mark.parametrize(
    ("clean", "masked", "drop", "increase"),
    [(0.8, 0.6, 0.25, 0), (0.6, 0.8, 0, 1), (0.5, 0.5, 0, 0), (0.5, 0.0, 1, 0)],
)
def test_drop_and_increase(clean: float, masked: float, drop: float, increase: float) -> None:
    assert oracle.drop(clean, masked) == pytest.approx(drop)
    assert oracle.increase(clean, masked) == increase


def test_kernel_of_the_thesis() -> None:
    kernel = oracle.reference_kernel()
    assert kernel.sum() == pytest.approx(1)
    assert kernel[5, 5] == pytest.approx(0.008833, abs=1e-6)
    assert kernel[0, 5] == pytest.approx(0.008267, abs=1e-6)
    assert kernel[0, 0] == pytest.approx(0.007737, abs=1e-6)


def test_kernel_is_padded_with_zeros(model: LoadedModel) -> None:
    """Of a picture of ones, the edges keep 55 % of the kernel and the corners 30 %."""
    blurred = oracle.filling(model, torch.ones(3, 24, 30), "blur", reference=True)
    assert float(blurred[0, 12, 15]) == pytest.approx(1)
    assert float(blurred[0, 0, 15]) == pytest.approx(0.55, abs=0.005)
    assert float(blurred[0, 0, 0]) == pytest.approx(0.30, abs=0.005)


def test_strict_blur_is_a_true_gaussian(model: LoadedModel) -> None:
    point = torch.zeros(3, 41, 41)
    point[:, 20, 20] = 1
    blurred = oracle.filling(model, point, "blur", sigma=3)
    ratio = float(blurred[0, 20, 23] / blurred[0, 20, 20])
    assert ratio == pytest.approx(math.exp(-0.5), abs=1e-6)
    ones = oracle.filling(model, torch.ones(3, 16, 20), "blur", sigma=3)
    torch.testing.assert_close(ones, torch.ones(3, 16, 20))


def test_black_is_black_before_normalisation(model: LoadedModel, picture: Tensor) -> None:
    black = oracle.filling(model, picture, "black")
    std, mean = (torch.tensor(v) for v in (model.preprocessing.std, model.preprocessing.mean))
    torch.testing.assert_close(
        black * std[:, None, None] + mean[:, None, None],
        torch.zeros_like(picture),
        atol=1e-6,
        rtol=0,
    )


def test_order_of_ties() -> None:
    saliency = np.array([[1, 0, 2], [2, 0, 1]], np.float32)

    def places(reference: bool, least_first: bool) -> list[tuple[int, int]]:
        groups = oracle.pixel_groups(saliency, reference=reference, least_first=least_first)
        return [place for group in groups for place in group]

    strict = [(0, 2), (1, 0), (0, 0), (1, 2), (0, 1), (1, 1)]
    reference = [(1, 0), (0, 2), (1, 2), (0, 0), (1, 1), (0, 1)]
    assert places(False, False) == strict
    assert places(False, True) == strict[::-1]
    assert places(True, False) == reference
    assert places(True, True) == reference[::-1]


def test_a_constant_map_goes_from_one_end() -> None:
    places = [(row, column) for row in range(2) for column in range(3)]
    flat = np.full((2, 3), 0.5, np.float32)
    strict = oracle.pixel_groups(flat, reference=False, least_first=False)
    reference = oracle.pixel_groups(flat, reference=True, least_first=False)
    assert strict == [[place] for place in places]
    assert reference == [[place] for place in places[::-1]]
    assert not oracle.scaled(flat).any()


def test_cells_hold_the_pixels_whose_middles_they_hold() -> None:
    grid = np.array([[0.0, 1.0, 0.5]], np.float32)
    groups = oracle.cell_groups(grid, (2, 6), reference=False, least_first=False)
    assert groups == [
        [(0, 2), (0, 3), (1, 2), (1, 3)],
        [(0, 4), (0, 5), (1, 4), (1, 5)],
        [(0, 0), (0, 1), (1, 0), (1, 1)],
    ]


def test_steps_of_the_thesis() -> None:
    """ceil(HW / step) + 1 scores: 225 for 224 pixels a side and a step."""
    assert len(oracle.counts_of_step(224 * 224, 224)) == 225
    assert oracle.counts_of_step(10, 4) == (0, 4, 8, 10)
    assert oracle.even_counts(12, 3) == (0, 4, 8, 12)
    assert oracle.even_counts(10, 4) == (0, 3, 5, 8, 10)


@pytest.mark.parametrize("insert", [False, True])
def test_copies_of_a_curve(insert: bool) -> None:
    """A picture of ones over zeros, whose score is how much of it there is."""
    picture, fill = torch.ones(3, 2, 3), torch.zeros(3, 2, 3)
    saliency = np.array([[5, 4, 3], [2, 1, 0]], np.float32)
    groups = oracle.pixel_groups(saliency, reference=False, least_first=False)
    changed = oracle.Changed(picture, fill, groups, (0, 2, 4, 6))
    scores, pictures = oracle.curve([changed], lambda shown: float(shown.mean()), insert=insert)
    shares = [0, 1 / 3, 2 / 3, 1]
    assert scores == pytest.approx(shares if insert else [1 - share for share in shares])
    second = [[1, 1, 0], [0, 0, 0]]
    expected = torch.tensor(second if insert else [[1 - v for v in row] for row in second])
    assert torch.equal(pictures[1][0][0], expected.float())


def test_ends_of_the_curves_meet(model: LoadedModel, picture: Tensor) -> None:
    """First deletion score = last insertion score = the clean score."""
    saliency = np.random.default_rng(3).random(picture.shape[1:], np.float32)
    score = oracle.class_score(model, 2)
    groups = oracle.pixel_groups(saliency, reference=False, least_first=False)
    fill = oracle.filling(model, picture, "blur", sigma=2)
    changed = oracle.Changed(picture, fill, groups, oracle.even_counts(len(groups), 4))
    deletion, _ = oracle.curve([changed], score, insert=False)
    insertion, _ = oracle.curve([changed], score, insert=True)
    assert deletion[0] == insertion[-1] == score(picture)
    assert deletion[-1] == insertion[0] == score(fill)
    assert len({*deletion, *insertion[1:-1]}) > 5


def test_an_all_zero_map_shows_what_stands_in(model: LoadedModel, picture: Tensor) -> None:
    nothing = np.zeros(tuple(picture.shape[1:]), np.float32)
    black = oracle.filling(model, picture, "black")
    assert torch.equal(oracle.under_map(picture, nothing, black), black)


def test_probabilities_are_those_of_softmax(model: LoadedModel, picture: Tensor) -> None:
    expected = torch.softmax(oracle.logits(model, picture), 0)
    found = [oracle.class_score(model, c)(picture) for c in range(model.classes)]
    assert found == pytest.approx(expected.tolist())
    assert oracle.predicted(model, picture) == int(expected.argmax())


def test_similarity_is_summed(model: LoadedModel) -> None:
    first, second, third = (oracle.embedding(model, p) for p in pixels(model, 3))
    expected = sum(
        float(torch.cosine_similarity(torch.tensor(first), torch.tensor(other), dim=0))
        for other in (second, third)
    )
    score = oracle.similarity_score(model, [second, third])
    assert score(pixels(model, 3)[0]) == pytest.approx(expected)


def test_localisation_of_mosaics() -> None:
    """A perfect map of one tile of four scores 1, a uniform one 0.25."""
    inside = np.zeros((8, 8), bool)
    inside[:4, :4] = True
    perfect = np.array([[3.0, 0.0], [-1.0, 0.0]], np.float32)
    assert oracle.energy_in_region(perfect, inside) == 1
    assert oracle.energy_in_region(np.ones((4, 4), np.float32), inside) == pytest.approx(0.25)
    assert oracle.energy_in_region(-np.ones((4, 4), np.float32), inside) is None
    assert oracle.pointing(perfect, inside, 0) == 1
    assert oracle.pointing(np.ones((2, 2), np.float32), inside, 0) == pytest.approx(0.25)
    # Of three cells a side, the middle ones' centres lie on the tile's edge.
    thirds = np.zeros((6, 6), bool)
    thirds[:3, :3] = True
    assert oracle.pointing(np.eye(3, dtype=np.float32), thirds, 0) == pytest.approx(1.25 / 3)
    # The centres of the two next tiles are 2 pixels away, that of the last sqrt(8).
    assert oracle.pointing(np.ones((2, 2), np.float32), inside, 2) == pytest.approx(0.75)
    assert oracle.pointing(np.ones((2, 2), np.float32), inside, 3) == 1
