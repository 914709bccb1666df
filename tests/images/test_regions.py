"""Which cells a region covers; the numbers are counted by hand."""

import math

import numpy as np
import pytest

from pairlens.rendering import Box, GridGeometry
from pairlens_server.images.regions import covered_cells

# Two rows of 40 pixels and three columns of 20, which begin 10 pixels from the left.
GEOMETRY = GridGeometry(2, 3, 80, 80, Box(10, 0, 70, 80))


def covered(left, top, right, bottom):
    return covered_cells(GEOMETRY, Box(left, top, right, bottom)).reshape(2, 3).tolist()


@pytest.mark.parametrize(
    ("box", "expected"),
    [
        ((10, 0, 70, 80), [[1, 1, 1], [1, 1, 1]]),
        ((30, 40, 50, 80), [[0, 0, 0], [0, 1, 0]]),
        ((20, 0, 30, 40), [[0.5, 0, 0], [0, 0, 0]]),
        ((40, 30, 55, 60), [[0, 0.125, 0.0625], [0, 0.25, 0.125]]),
        # What the model did not see belongs to no cell.
        ((0, 0, 10, 80), [[0, 0, 0], [0, 0, 0]]),
        ((0, 0, 20, 10), [[0.125, 0, 0], [0, 0, 0]]),
        # Beyond the picture.
        ((-50, -50, 500, 500), [[1, 1, 1], [1, 1, 1]]),
        ((-math.inf, -math.inf, math.inf, math.inf), [[1, 1, 1], [1, 1, 1]]),
        ((80, 0, 90, 80), [[0, 0, 0], [0, 0, 0]]),
        ((100, 100, 200, 200), [[0, 0, 0], [0, 0, 0]]),
    ],
)
def test_covered_cells(box, expected):
    np.testing.assert_allclose(covered(*box), expected, atol=1e-6)


def test_the_parts_of_a_split_region_add_up():
    whole = covered_cells(GEOMETRY, Box(13, 7, 66, 71))
    halves = (
        covered_cells(GEOMETRY, Box(13, 7, 44, 71)),
        covered_cells(GEOMETRY, Box(44, 7, 66, 71)),
    )
    np.testing.assert_allclose(halves[0] + halves[1], whole, atol=1e-6)
    # Of 60 by 80 pixels that the model saw, 53 by 64.
    assert whole.sum() / 6 == pytest.approx(53 * 64 / (60 * 80), abs=1e-6)
    assert whole.dtype == np.float32
