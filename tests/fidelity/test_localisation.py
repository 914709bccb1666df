from __future__ import annotations

import itertools
import time

import numpy as np
import pytest
from numpy.typing import NDArray

from pairlens.rendering import Box, GridGeometry
from pairlens_server.fidelity.localisation import (
    RegionOfInterest,
    coverage,
    energy_pointing_game,
    pointing_game,
)
from pairlens_server.images.regions import covered_cells
from pairlens_server.rpc.convert_scores import MAX_BOXES


def whole(rows: int, columns: int, height: int, width: int) -> GridGeometry:
    return GridGeometry(rows, columns, height, width, Box(0, 0, width, height))


def boxes(*edges: tuple[float, float, float, float]) -> RegionOfInterest:
    return RegionOfInterest(tuple(Box(*box) for box in edges), None)


def mask_of(mask: NDArray[np.bool_]) -> RegionOfInterest:
    return RegionOfInterest((), mask)


def random_mask(height: int, width: int, share: float = 0.3) -> NDArray[np.bool_]:
    return np.random.default_rng(0).random((height, width)) < share


CROP = GridGeometry(5, 4, 30, 40, Box(left=3.7, top=2.2, right=33.1, bottom=28.4))
PADDED = GridGeometry(7, 5, 30, 40, Box(left=-6.5, top=-20.0, right=46.5, bottom=47.0))


def coverage_by_hand(region: RegionOfInterest, geometry: GridGeometry) -> NDArray[np.float64]:
    """Inclusion and exclusion over boxes and single pixels of the mask, cell by cell."""
    pieces = [(b.left, b.top, b.right, b.bottom) for b in region.boxes]
    if region.mask is not None:
        pieces += [(x, y, x + 1, y + 1) for y, x in np.argwhere(region.mask)]
    found = np.zeros((geometry.rows, geometry.columns))
    down = np.linspace(geometry.region.top, geometry.region.bottom, geometry.rows + 1)
    across = np.linspace(geometry.region.left, geometry.region.right, geometry.columns + 1)
    for row, column in np.ndindex(found.shape):
        cell = (
            max(across[column], 0.0),
            max(down[row], 0.0),
            min(across[column + 1], float(geometry.image_width)),
            min(down[row + 1], float(geometry.image_height)),
        )
        if _area(cell) == 0:
            continue
        near = [piece for piece in pieces if _area(_overlap(cell, piece)) > 0]
        for count in range(1, len(near) + 1):
            for chosen in itertools.combinations(near, count):
                common = cell
                for piece in chosen:
                    common = _overlap(common, piece)
                found[row, column] -= (-1) ** count * _area(common) / _area(cell)
    return found


def _overlap(
    a: tuple[float, float, float, float], b: tuple[float, float, float, float]
) -> tuple[float, float, float, float]:
    return max(a[0], b[0]), max(a[1], b[1]), min(a[2], b[2]), min(a[3], b[3])


def _area(box: tuple[float, float, float, float]) -> float:
    return max(box[2] - box[0], 0.0) * max(box[3] - box[1], 0.0)


class TestCoverage:
    def test_a_box_by_hand(self) -> None:
        # Cells of 4 x 4; the box covers 1.5 of 4 columns and 3 of 4 rows of the first cell.
        found = coverage(boxes((2.5, 1, 6, 6)), whole(2, 2, 8, 8))
        np.testing.assert_allclose(
            found, [[1.5 * 3 / 16, 2 * 3 / 16], [1.5 * 2 / 16, 2 * 2 / 16]], atol=1e-12
        )

    def test_rows_between_the_same_edges_are_alike(self) -> None:
        """Many rows to a box, a few of which cross its edges."""
        edges = (1.25, 3.5, 30.75, 20.0), (9.0, 20.0, 25.0, 28.125), (2.0, 7.0, 9.0, 23.0)
        for geometry in (whole(60, 8, 30, 40), GridGeometry(60, 4, 30, 40, Box(-3, -5, 44, 33))):
            found = coverage(boxes(*edges), geometry)
            expected = coverage_by_hand(boxes(*edges), geometry)
            np.testing.assert_allclose(found, expected, atol=1e-9)

    def test_boxes_that_overlap_count_once(self) -> None:
        found = coverage(boxes((0, 0, 4, 4), (2, 2, 6, 6), (1, 1, 3, 3)), whole(1, 1, 8, 8))
        assert found[0, 0] == pytest.approx((16 + 16 - 4) / 64, abs=1e-12)

    def test_a_mask_by_hand(self) -> None:
        mask = np.zeros((3, 3), dtype=np.bool_)
        mask[1, 1] = True
        # The middle pixel falls on four cells of 1.5 x 1.5, a quarter on each.
        found = coverage(mask_of(mask), whole(2, 2, 3, 3))
        np.testing.assert_allclose(found, np.full((2, 2), 0.25 / 2.25), atol=1e-12)

    @pytest.mark.parametrize("geometry", [whole(5, 4, 30, 40), CROP])
    def test_one_box_as_for_the_correspondence(self, geometry: GridGeometry) -> None:
        box = Box(5.3, 7.7, 21.2, 19.0)
        expected = covered_cells(geometry, box).reshape(geometry.rows, geometry.columns)
        found = coverage(RegionOfInterest((box,), None), geometry)
        np.testing.assert_allclose(found, expected, atol=1e-6)

    @pytest.mark.parametrize("geometry", [whole(3, 4, 30, 40), CROP, PADDED])
    def test_boxes_and_mask_by_inclusion_and_exclusion(self, geometry: GridGeometry) -> None:
        mask = np.zeros((30, 40), dtype=np.bool_)
        mask[[3, 3, 10, 17, 18, 29], [5, 6, 12, 39, 38, 0]] = True
        region = RegionOfInterest(
            (Box(2.5, 1.25, 17.75, 12.5), Box(10.1, 5.2, 39.5, 18.3), Box(0, 28.5, 40, 30)), mask
        )
        np.testing.assert_allclose(
            coverage(region, geometry), coverage_by_hand(region, geometry), atol=1e-9
        )

    def test_a_mask_of_a_boxs_pixels_is_the_box(self) -> None:
        mask = np.zeros((30, 40), dtype=np.bool_)
        mask[4:19, 7:31] = True
        for geometry in (whole(7, 7, 30, 40), CROP, PADDED):
            by_mask = coverage(mask_of(mask), geometry)
            by_box = coverage(boxes((7, 4, 31, 19)), geometry)
            both = coverage(RegionOfInterest((Box(7, 4, 31, 19),), mask), geometry)
            np.testing.assert_allclose(by_mask, by_box, atol=1e-12)
            np.testing.assert_allclose(both, by_box, atol=1e-12)

    def test_a_cell_for_each_pixel_is_the_mask(self) -> None:
        mask = random_mask(13, 17)
        assert (coverage(mask_of(mask), whole(13, 17, 13, 17)) == mask).all()

    @pytest.mark.parametrize("geometry", [whole(7, 7, 30, 40), CROP])
    def test_the_whole_area_is_shared_out(self, geometry: GridGeometry) -> None:
        mask = random_mask(30, 40)
        box = geometry.region
        area = (box.right - box.left) * (box.bottom - box.top)
        shared = coverage(mask_of(mask), geometry).mean() * area
        edges = [
            np.clip(
                np.minimum(np.arange(1, size + 1), stop) - np.maximum(np.arange(size), start), 0, 1
            )
            for size, start, stop in ((30, box.top, box.bottom), (40, box.left, box.right))
        ]
        assert shared == pytest.approx((np.outer(*edges) * mask).sum(), abs=1e-9)

    def test_padding_is_not_covered_and_does_not_count(self) -> None:
        # Rows of the grid at -2..0, 0..2, 2..4, 4..6 of a picture of 3: the third is half in it.
        geometry = GridGeometry(4, 1, 3, 2, Box(left=0, top=-2, right=2, bottom=6))
        for region in (boxes((0, 0, 2, 3)), mask_of(np.ones((3, 2), dtype=np.bool_))):
            assert coverage(region, geometry).tolist() == [[0.0], [1.0], [1.0], [0.0]]

    def test_padding_left_and_right(self) -> None:
        geometry = GridGeometry(1, 5, 2, 3, Box(left=-4, top=0, right=6, bottom=2))
        found = coverage(boxes((0, 0, 2.5, 1)), geometry)
        np.testing.assert_allclose(found, [[0, 0, 0.5, 0.25, 0]], atol=1e-12)

    def test_a_mask_of_another_picture_is_refused(self) -> None:
        with pytest.raises(ValueError, match="mask of shape"):
            coverage(mask_of(np.ones((3, 4), dtype=np.bool_)), whole(1, 1, 4, 3))

    def test_a_region_needs_something(self) -> None:
        with pytest.raises(ValueError, match="a box or a mask"):
            RegionOfInterest((), None)


class TestEnergyPointingGame:
    TILE = boxes((0, 0, 50, 50))

    @pytest.mark.parametrize("cells", [14, 7, 5, 2, 1])
    def test_a_uniform_map_of_a_mosaic_scores_a_quarter(self, cells: int) -> None:
        geometry = whole(cells, cells, 100, 100)
        found = energy_pointing_game(np.full((cells, cells), 0.3), geometry, self.TILE)
        assert found == pytest.approx(0.25, abs=1e-12)

    @pytest.mark.parametrize("cells", [14, 7, 2])
    def test_a_perfect_map_of_a_mosaic_scores_one(self, cells: int) -> None:
        geometry = whole(cells, cells, 100, 100)
        inside = coverage(self.TILE, geometry) > 1 - 1e-12
        heatmap = np.where(inside, 2.0, -1.0)
        assert energy_pointing_game(heatmap, geometry, self.TILE) == pytest.approx(1, abs=1e-12)

    def test_crossing_cells_by_hand(self) -> None:
        # A grid of 3 on 100: the middle column reaches from 33.3 to 66.7, half in the tile.
        heatmap = np.zeros((3, 3))
        heatmap[0, 1], heatmap[2, 2] = 4.0, 1.0
        geometry = whole(3, 3, 100, 100)
        assert energy_pointing_game(heatmap, geometry, self.TILE) == pytest.approx(2 / 5)

    def test_negative_values_count_as_zero(self) -> None:
        heatmap = np.array([[1.0, -5.0], [3.0, -5.0]])
        assert energy_pointing_game(heatmap, whole(2, 2, 100, 100), self.TILE) == 0.25

    @pytest.mark.parametrize("value", [0.0, -1.0])
    def test_a_map_without_positive_values_has_none(self, value: float) -> None:
        heatmap = np.full((2, 2), value)
        assert energy_pointing_game(heatmap, whole(2, 2, 100, 100), self.TILE) is None

    @pytest.mark.parametrize("value", [1e308, 1e-310])
    def test_the_scale_does_not_matter(self, value: float) -> None:
        heatmap = np.full((10, 10), value)
        found = energy_pointing_game(heatmap, whole(10, 10, 100, 100), self.TILE)
        assert found == pytest.approx(0.25, abs=1e-9)

    def test_an_empty_mask_scores_zero(self) -> None:
        region = mask_of(np.zeros((4, 4), dtype=np.bool_))
        assert energy_pointing_game(np.ones((2, 2)), whole(2, 2, 4, 4), region) == 0

    def test_another_shape_than_the_grid_is_refused(self) -> None:
        with pytest.raises(ValueError, match="map of shape"):
            energy_pointing_game(np.ones((2, 3)), whole(2, 2, 4, 4), boxes((0, 0, 1, 1)))


def one_cell(rows: int, columns: int, row: int, column: int) -> NDArray[np.float64]:
    heatmap = np.zeros((rows, columns))
    heatmap[row, column] = 1
    return heatmap


class TestPointingGame:
    GRID = whole(4, 4, 40, 40)  # centres at 5, 15, 25, 35

    def test_the_largest_cells_centre_decides(self) -> None:
        region = boxes((10, 10, 20, 20))
        assert pointing_game(one_cell(4, 4, 1, 1), self.GRID, region, 0) == 1
        assert pointing_game(one_cell(4, 4, 1, 2), self.GRID, region, 0) == 0
        # Most of the cell is in this box, its centre is not; the edge of the next one is.
        assert pointing_game(one_cell(4, 4, 1, 1), self.GRID, boxes((0, 0, 14.9, 40)), 0) == 0
        assert pointing_game(one_cell(4, 4, 1, 1), self.GRID, boxes((0, 0, 15.1, 40)), 0) == 1

    @pytest.mark.parametrize("as_mask", [False, True])
    def test_a_centre_on_the_edge_counts_by_what_is_around_it(self, as_mask: bool) -> None:
        heatmap = one_cell(4, 4, 1, 1)  # its centre is (15, 15)
        for expected, *edges in (
            (0.5, (0, 0, 15, 40)),
            (0.25, (15, 15, 40, 40)),
            (0.75, (0, 0, 15, 40), (14, 15, 40, 16)),
            (0.5, (0, 0, 15, 15), (15, 15, 16, 16)),
            # An edge within the region is none.
            (1, (0, 0, 15, 40), (15, 0, 40, 40)),
            (0, (16, 0, 40, 40)),
        ):
            region = boxes(*edges)
            if as_mask:
                mask = np.zeros((40, 40), dtype=np.bool_)
                for left, top, right, bottom in edges:
                    mask[top:bottom, left:right] = True
                region = mask_of(mask)
            assert pointing_game(heatmap, self.GRID, region, 0) == expected
            # With a tolerance, the edge is in the region.
            assert pointing_game(heatmap, self.GRID, region, 1e-3) == (expected > 0)

    def test_boxes_and_mask_share_an_edge(self) -> None:
        mask = np.zeros((40, 40), dtype=np.bool_)
        mask[:, 15:] = True
        region = RegionOfInterest((Box(0, 0, 15, 40),), mask)
        assert pointing_game(one_cell(4, 4, 1, 1), self.GRID, region, 0) == 1

    @pytest.mark.parametrize("side", [100.0, 99.0, 256.0])
    @pytest.mark.parametrize("cells", [7, 5, 3, 1])
    @pytest.mark.parametrize("kind", ["constant", "centre", "random", "flat and random"])
    def test_the_tiles_of_a_mosaic_share_every_map_out(
        self, cells: int, side: float, kind: str
    ) -> None:
        """Whatever the grid: a constant map and one of the centre are worth chance, 1/4."""
        middle = side / 2
        # A crop whose edges are no binary fractions, with the same middle.
        crop = Box(0.1, 0.3, side - 0.1, side - 0.3)
        for geometry in (
            whole(cells, cells, int(side), int(side)),
            GridGeometry(cells, cells, int(side), int(side), crop),
        ):
            heatmap = {
                "constant": np.full((cells, cells), 0.3),
                "centre": one_cell(cells, cells, cells // 2, cells // 2),
                "random": np.random.default_rng(1).random((cells, cells)),
                "flat and random": np.random.default_rng(2).integers(0, 2, (cells, cells)),
            }[kind].astype(np.float32)
            tiles = [
                boxes((left, top, left + middle, top + middle))
                for top in (0.0, middle)
                for left in (0.0, middle)
            ]
            found = [pointing_game(heatmap, geometry, tile, 0) for tile in tiles]
            assert sum(found) == 1
            if kind in ("constant", "centre"):
                assert found == [0.25] * 4

    def test_beyond_the_picture_is_nothing_that_a_centre_shares(self) -> None:
        """Of a padded picture a centre lies on its border."""
        geometry = GridGeometry(2, 1, 10, 10, Box(left=0, top=-5, right=10, bottom=15))
        every = boxes((0, 0, 10, 10)), mask_of(np.ones((10, 10), dtype=np.bool_))
        for region in every:
            assert pointing_game(np.ones((2, 1)), geometry, region, 0) == 1
        left = boxes((0, 0, 5, 10))
        assert pointing_game(np.ones((2, 1)), geometry, left, 0) == 0.5

    def test_equal_cells_share(self) -> None:
        assert pointing_game(np.ones((4, 4)), self.GRID, boxes((0, 0, 20, 20)), 0) == 0.25
        heatmap = np.array([[1.0, 0, 0, 0], [0, 0, 0, 0], [0, 0, 0, 1], [0, 0, 0, 1]])
        assert pointing_game(heatmap, self.GRID, boxes((0, 0, 20, 20)), 0) == pytest.approx(1 / 3)

    def test_a_map_that_is_negative_everywhere_has_a_largest_cell(self) -> None:
        heatmap = -1 - one_cell(4, 4, 0, 0)
        assert pointing_game(heatmap, self.GRID, boxes((0, 0, 10, 10)), 0) == 0
        assert pointing_game(-heatmap, self.GRID, boxes((0, 0, 10, 10)), 0) == 1

    @pytest.mark.parametrize("as_mask", [False, True])
    def test_the_tolerance_is_a_distance(self, as_mask: bool) -> None:
        region = boxes((18, 19, 30, 30))
        if as_mask:
            mask = np.zeros((40, 40), dtype=np.bool_)
            mask[19:30, 18:30] = True
            region = mask_of(mask)
        # From the centre (15, 15) of the cell: 3 across and 4 down, so 5.
        heatmap = one_cell(4, 4, 1, 1)
        assert pointing_game(heatmap, self.GRID, region, 4.999) == 0
        assert pointing_game(heatmap, self.GRID, region, 5) == 1
        assert pointing_game(heatmap, self.GRID, region, 1e30) == 1

    @pytest.mark.parametrize("geometry", [whole(9, 11, 30, 40), CROP, PADDED])
    @pytest.mark.parametrize("tolerance", [0.0, 0.6, 2.3, 15.0])
    def test_a_mask_against_every_pixel_of_it(
        self, geometry: GridGeometry, tolerance: float
    ) -> None:
        mask = random_mask(30, 40, share=0.02)
        box = geometry.region
        ys = box.top + (np.arange(geometry.rows) + 0.5) / geometry.rows * (box.bottom - box.top)
        xs = box.left + (np.arange(geometry.columns) + 0.5) / geometry.columns * (
            box.right - box.left
        )
        top, left = (index[:, None, None] for index in np.nonzero(mask))
        y, x = ys[:, None], xs[None, :]
        down = np.maximum(np.maximum(top - y, y - top - 1), 0)
        across = np.maximum(np.maximum(left - x, x - left - 1), 0)
        touching = np.hypot(down, across) <= tolerance
        near: NDArray[np.floating] = touching.any(axis=0).astype(np.float64)
        if tolerance == 0:
            # On the edges between pixels, as many as touch the centre share it.
            near = touching.sum(axis=0) / np.outer(1 + (ys % 1 == 0), 1 + (xs % 1 == 0))
        assert 0 <= near.mean() < 1 or tolerance == 15
        for row, column in np.ndindex(near.shape):
            heatmap = one_cell(geometry.rows, geometry.columns, row, column)
            found = pointing_game(heatmap, geometry, mask_of(mask), tolerance)
            assert found == near[row, column]
        uniform = np.zeros((geometry.rows, geometry.columns))
        found = pointing_game(uniform, geometry, mask_of(mask), tolerance)
        assert found == pytest.approx(near.mean(), abs=1e-12)

    @pytest.mark.parametrize("geometry", [whole(9, 11, 30, 40), CROP, PADDED])
    @pytest.mark.parametrize("tolerance", [0.0, 0.6, 2.3, 15.0])
    def test_boxes_against_every_one_of_them(
        self, geometry: GridGeometry, tolerance: float
    ) -> None:
        rng = np.random.default_rng(3)
        corners = [
            (x, y, x + w, y + h) for x, y, w, h in rng.random((6, 4)) * [33, 24, 7, 6] + 0.01
        ]
        box = geometry.region
        for row, column in np.ndindex(geometry.rows, geometry.columns):
            y = box.top + (row + 0.5) / geometry.rows * (box.bottom - box.top)
            x = box.left + (column + 0.5) / geometry.columns * (box.right - box.left)
            near = any(
                np.hypot(max(top - y, 0, y - bottom), max(left - x, 0, x - right)) <= tolerance
                for left, top, right, bottom in corners
            )
            heatmap = one_cell(geometry.rows, geometry.columns, row, column)
            assert pointing_game(heatmap, geometry, boxes(*corners), tolerance) == near

    def test_boxes_and_mask_together(self) -> None:
        mask = np.zeros((40, 40), dtype=np.bool_)
        mask[35, 35] = True
        region = RegionOfInterest((Box(0, 0, 10, 10),), mask)
        # A quarter of what is around the centre (35, 35) is the mask's pixel.
        assert pointing_game(np.ones((4, 4)), self.GRID, region, 0) == 1.25 / 16
        assert pointing_game(np.ones((4, 4)), self.GRID, region, 0.5) == 2 / 16

    def test_an_empty_mask_is_never_hit(self) -> None:
        region = mask_of(np.zeros((40, 40), dtype=np.bool_))
        assert pointing_game(np.ones((4, 4)), self.GRID, region, 1000) == 0

    def test_a_centre_in_padding_can_be_near_and_not_in(self) -> None:
        geometry = GridGeometry(2, 1, 10, 10, Box(left=0, top=-10, right=10, bottom=10))
        heatmap = one_cell(2, 1, 0, 0)  # its centre is 5 above the picture
        for region in (boxes((0, 0, 10, 10)), mask_of(np.ones((10, 10), dtype=np.bool_))):
            assert pointing_game(heatmap, geometry, region, 0) == 0
            assert pointing_game(heatmap, geometry, region, 4.9) == 0
            assert pointing_game(heatmap, geometry, region, 5) == 1

    @pytest.mark.parametrize("tolerance", [-1.0, float("nan"), float("inf")])
    def test_a_tolerance_that_is_no_distance_is_refused(self, tolerance: float) -> None:
        with pytest.raises(ValueError, match="tolerance"):
            pointing_game(np.ones((4, 4)), self.GRID, boxes((0, 0, 1, 1)), tolerance)


@pytest.mark.parametrize("tolerance", [0.0, 15.0])
def test_many_boxes_on_a_large_flat_map_take_no_time(tolerance: float) -> None:
    """A thread that counts cannot be stopped."""
    side = 2000
    flat, grid = np.ones((side, side), dtype=np.float32), whole(side, side, side, side)
    # Each nearly the picture.
    region = boxes(*((i, i, side - 2 * i, side - i) for i in range(MAX_BOXES)))
    started = time.process_time()
    assert pointing_game(flat, grid, region, tolerance) == 1
    # 0.1 s; distances of all pixels to each box take 5 s.
    assert time.process_time() - started < 2
