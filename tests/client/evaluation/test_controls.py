from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from pairlens.evaluation.controls import CENTRE, EDGES, RANDOM, control_map, sobel_magnitude
from pairlens.rendering import Box

BLACK = Image.new("RGB", (8, 8))
WHOLE = Box(0, 0, 8, 8)


def drawn(name: str, picture: Image.Image = BLACK, region: Box = WHOLE, seed: str = "s"):
    return control_map(name, picture, region, 4, 2, seed)


def test_random_follows_from_its_seed_text_alone() -> None:
    other_picture = Image.new("RGB", (30, 20), "white")
    assert np.array_equal(drawn(RANDOM), drawn(RANDOM, other_picture))
    assert not np.array_equal(drawn(RANDOM), drawn(RANDOM, seed="t"))
    many = control_map(RANDOM, BLACK, WHOLE, 200, 200, "s")
    assert many.dtype == np.float32
    assert 0 <= many.min() < many.max() < 1
    assert many.mean() == pytest.approx(0.5, abs=0.01)


def test_centre_is_a_gaussian_of_a_quarter_of_the_side() -> None:
    # Cells' centres: y = +-1/8, +-3/8 and x = +-1/4 of the side from the middle.
    inner, outer = np.exp(-(0.125**2 + 0.25**2) / 0.125), np.exp(-(0.375**2 + 0.25**2) / 0.125)
    expected = np.array([[outer] * 2, [inner] * 2, [inner] * 2, [outer] * 2])
    np.testing.assert_allclose(drawn(CENTRE), expected, rtol=1e-6)


def test_sobel_by_hand() -> None:
    # A step of 10 between columns 1 and 2: (1 + 2 + 1) * 10 on either side of it.
    step = np.array([[0, 0, 10, 10]] * 3, np.float32)
    np.testing.assert_allclose(sobel_magnitude(step), [[0, 40, 40, 0]] * 3)
    # One bright pixel in the middle: 2 beside it in one direction, 1 and 1 at its corners.
    point = np.zeros((3, 3), np.float32)
    point[1, 1] = 1
    corner = np.sqrt(2)
    np.testing.assert_allclose(
        sobel_magnitude(point), [[corner, 2, corner], [2, 0, 2], [corner, 2, corner]]
    )


def test_edges_are_means_over_cells_of_the_region() -> None:
    # Levels 0 and 255 meet between columns 3 and 4: magnitude 4 * 255 in columns 3 and 4.
    half = Image.new("RGB", (8, 8))
    half.paste("white", (4, 0, 8, 8))
    # Either cell is 4 pixels wide and holds one such column.
    np.testing.assert_allclose(drawn(EDGES, half), np.full((4, 2), 255.0), rtol=1e-5)
    # Cells of 1.5 pixels from column 3 on: 3 to 4.5 (both columns, the second half), 4.5 to 6.
    found = drawn(EDGES, half, Box(3, 0, 6, 8))
    expected = [[1020.0, 1020 * 0.5 / 1.5]] * 4
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_edges_count_the_part_of_a_cell_that_lies_on_the_picture() -> None:
    half = Image.new("RGB", (8, 8))
    half.paste("white", (4, 0, 8, 8))
    # The region reaches 8 pixels beyond the right: its second column of cells is off the picture.
    found = drawn(EDGES, half, Box(0, 0, 16, 8))
    np.testing.assert_allclose(found, [[1020 * 2 / 8, 0.0]] * 4, rtol=1e-5)
    # Twelve pixels a cell, of which the first's eight lie on the picture.
    found = drawn(EDGES, half, Box(0, 0, 24, 8))
    np.testing.assert_allclose(found, [[1020 * 2 / 8, 0.0]] * 4, rtol=1e-5)


def test_an_unknown_control_is_refused() -> None:
    with pytest.raises(ValueError, match="no drawn control 'rollout'"):
        drawn("rollout")
