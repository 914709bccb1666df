from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from pairlens.rendering import Box, GridGeometry, Interpolation, enlarge
from pairlens_server.fidelity.placing import (
    Enlargement,
    cell_ranks_on_input,
    grid_to_input,
    picture_to_input,
    ranks,
    seen_part,
    unit_mask,
)
from pairlens_server.models.loaded import TokenLayout


def layout(rows: int, columns: int, bottom: int = 0, right: int = 0) -> TokenLayout:
    return TokenLayout(rows, columns, 1, (0,), unseen_bottom=bottom, unseen_right=right)


def random_map(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


class TestGridToInput:
    def test_half_pixel_centres_by_hand(self) -> None:
        placed = grid_to_input(torch.tensor([[0.0, 1.0]]), 1, 4, layout(1, 2), Enlargement.BILINEAR)
        assert placed.tolist() == [[0.0, 0.25, 0.75, 1.0]]

    def test_aligned_corners_by_hand(self) -> None:
        placed = grid_to_input(
            torch.tensor([[0.0, 3.0]]), 1, 4, layout(1, 2), Enlargement.BILINEAR_ALIGNED
        )
        assert placed.tolist() == [[0.0, 1.0, 2.0, 3.0]]

    def test_nearest_repeats_the_cells(self) -> None:
        placed = grid_to_input(torch.tensor([[1.0, 2.0]]), 2, 5, layout(1, 2), Enlargement.NEAREST)
        # The middle of pixel 2 lies on the edge between the cells and counts to the second.
        assert placed.tolist() == [[1.0, 1.0, 2.0, 2.0, 2.0]] * 2

    @pytest.mark.parametrize("aligned", [False, True])
    def test_agrees_with_torch(self, aligned: bool) -> None:
        cells = random_map(7, 5)
        placed = grid_to_input(
            cells,
            45,
            32,
            layout(7, 5),
            Enlargement.BILINEAR_ALIGNED if aligned else Enlargement.BILINEAR,
        )
        expected = F.interpolate(
            cells[None, None], size=(45, 32), mode="bilinear", align_corners=aligned
        )[0, 0]
        torch.testing.assert_close(placed, expected, rtol=0, atol=1e-5)

    @pytest.mark.parametrize("enlargement", list(Enlargement))
    def test_pixels_that_the_grid_does_not_cover_have_the_smallest_value(
        self, enlargement: Enlargement
    ) -> None:
        cells = random_map(4, 4)
        placed = grid_to_input(cells, 18, 19, layout(4, 4, bottom=2, right=3), enlargement)
        alone = grid_to_input(cells, 16, 16, layout(4, 4), enlargement)
        assert placed[:16, :16].equal(alone)
        assert placed[16:].eq(alone.min()).all()
        assert placed[:, 16:].eq(alone.min()).all()

    def test_a_grid_of_another_layer_covers_the_same_part(self) -> None:
        cells = random_map(8, 2)
        placed = grid_to_input(cells, 18, 16, layout(4, 4, bottom=2), Enlargement.NEAREST)
        assert placed[:16].equal(cells.repeat_interleave(2, 0).repeat_interleave(8, 1))

    @pytest.mark.parametrize("enlargement", list(Enlargement))
    def test_a_map_as_large_as_the_input_stays(self, enlargement: Enlargement) -> None:
        cells = random_map(6, 9)
        assert grid_to_input(cells, 6, 9, layout(2, 3), enlargement).equal(cells)

    @pytest.mark.parametrize("enlargement", list(Enlargement))
    def test_a_constant_map_stays_constant_exactly(self, enlargement: Enlargement) -> None:
        cells = torch.full((7, 7), 0.1)
        placed = grid_to_input(cells, 224, 224, layout(7, 7), enlargement)
        assert placed.unique().tolist() == [pytest.approx(0.1, abs=1e-8)]

    def test_equal_cells_tie_between_their_centres(self) -> None:
        cells = torch.zeros(7, 7)
        cells[2:5, 1:6] = 0.1
        placed = grid_to_input(cells, 224, 224, layout(7, 7), Enlargement.BILINEAR)
        assert placed[2 * 32 + 16 : 4 * 32 + 16, 48 : 5 * 32 + 16].unique().numel() == 1

    @pytest.mark.parametrize("enlargement", list(Enlargement))
    def test_the_largest_numbers_stay_finite(self, enlargement: Enlargement) -> None:
        huge = torch.finfo(torch.float32).max
        cells = torch.tensor([[huge, huge], [-huge, huge]])
        placed = grid_to_input(cells, 9, 9, layout(2, 2), enlargement)
        assert placed.isfinite().all()
        assert placed.max() == huge

    def test_integers_are_maps_too(self) -> None:
        placed = grid_to_input(torch.tensor([[0, 1]]), 1, 4, layout(1, 2), Enlargement.BILINEAR)
        assert placed.dtype == torch.float32
        assert placed.tolist() == [[0.0, 0.25, 0.75, 1.0]]


class TestPictureToInput:
    def test_a_stretched_picture_of_the_inputs_size_stays(self) -> None:
        values = random_map(6, 9).numpy()
        geometry = GridGeometry(2, 3, 6, 9, Box(0, 0, 9, 6))
        placed = picture_to_input(values, geometry, 6, 9, layout(2, 3))
        assert placed.equal(torch.from_numpy(values))

    def test_a_crop_takes_its_part(self) -> None:
        values = random_map(10, 12).numpy()
        geometry = GridGeometry(2, 2, 10, 12, Box(left=2, top=1, right=10, bottom=9))
        placed = picture_to_input(values, geometry, 8, 8, layout(2, 2))
        assert placed.equal(torch.from_numpy(values[1:9, 2:10]))

    def test_half_pixels_by_hand(self) -> None:
        # Twice as many input pixels: centres at 1/4, 3/4, 5/4, 7/4 of the two pixels.
        geometry = GridGeometry(1, 1, 1, 2, Box(0, 0, 2, 1))
        placed = picture_to_input(np.array([[0.0, 1.0]]), geometry, 1, 4, layout(1, 1))
        assert placed.tolist() == [[0.0, 0.25, 0.75, 1.0]]
        # Half as many: centres between two pixels each.
        geometry = GridGeometry(1, 1, 1, 4, Box(0, 0, 4, 1))
        placed = picture_to_input(np.array([[0.0, 2.0, 5.0, 9.0]]), geometry, 1, 2, layout(1, 1))
        assert placed.tolist() == [[1.0, 7.0]]

    def test_a_plane_is_sampled_exactly(self) -> None:
        # f(y, x) = 3y - 2x + 1 of the pixels' centres; away from the edge any bilinear
        # sampling gives f of the input pixel's centre.
        rows, columns = np.mgrid[:50, :70] + 0.5
        box = Box(left=7.3, top=4.1, right=61.9, bottom=44.7)
        geometry = GridGeometry(4, 4, 50, 70, box)
        placed = picture_to_input(3 * rows - 2 * columns + 1, geometry, 16, 18, layout(4, 4, 0, 2))
        y = 4.1 + (torch.arange(16).double() + 0.5) * (44.7 - 4.1) / 16
        x = 7.3 + (torch.arange(16).double() + 0.5) * (61.9 - 7.3) / 16
        expected = (3 * y[:, None] - 2 * x + 1).float()
        torch.testing.assert_close(placed[:, :16], expected, rtol=0, atol=1e-4)
        assert placed[:, 16:].eq(expected.min()).all()

    @pytest.mark.parametrize(
        "box", [Box(2.5, 1.2, 9.49, 8.51), Box(3.0, 1.0, 8.0, 9.0), Box(-3.0, 0.0, 15.0, 10.0)]
    )
    def test_what_the_client_draws_comes_back_without_its_nan(self, box: Box) -> None:
        cells = random_map(3, 3).numpy()
        geometry = GridGeometry(3, 3, 10, 12, box)
        drawn = enlarge(cells, geometry, 10, 12, Interpolation.BILINEAR)
        placed = picture_to_input(drawn, geometry, 24, 24, layout(3, 3))
        assert placed.isfinite().all()
        rows, columns = seen_part(geometry)
        assert np.isfinite(drawn[rows, columns]).all()
        outside = np.ones_like(drawn, dtype=bool)
        outside[rows, columns] = False
        assert np.isnan(drawn[outside]).all()

    def test_padding_has_the_smallest_value_of_the_picture(self) -> None:
        # A picture of 4 x 8 in a square input of 8: two rows of padding above and below.
        values = 5 + random_map(4, 8).numpy()
        geometry = GridGeometry(2, 2, 4, 8, Box(left=0, top=-2, right=8, bottom=6))
        placed = picture_to_input(values, geometry, 8, 8, layout(2, 2))
        assert placed[2:6].equal(torch.from_numpy(values))
        assert placed[[0, 1, 6, 7]].eq(float(values.min())).all()

    def test_a_region_thinner_than_a_pixel_reads_the_pixel_it_lies_in(self) -> None:
        geometry = GridGeometry(1, 1, 5, 1, Box(left=0, top=2.1, right=1, bottom=2.3))
        values = np.array([[0.0], [1.0], [2.0], [3.0], [4.0]])
        placed = picture_to_input(values, geometry, 3, 3, layout(1, 1))
        assert placed.eq(2.0).all()

    def test_another_shape_than_the_picture_is_refused(self) -> None:
        geometry = GridGeometry(1, 1, 4, 4, Box(0, 0, 4, 4))
        with pytest.raises(ValueError, match="map of shape"):
            picture_to_input(np.zeros((4, 5)), geometry, 2, 2, layout(1, 1))


class TestRanks:
    def test_equal_values_go_in_reading_order(self) -> None:
        values = torch.tensor([[1.0, 3.0, 1.0], [3.0, 0.0, 1.0]])
        assert ranks(values).tolist() == [[2, 0, 3], [1, 5, 4]]

    def test_flipped_equal_values_go_from_the_bottom_right(self) -> None:
        values = torch.tensor([[1.0, 3.0, 1.0], [3.0, 0.0, 1.0]])
        assert ranks(values, flipped_ties=True).tolist() == [[4, 1, 3], [0, 5, 2]]

    def test_a_constant_map(self) -> None:
        assert ranks(torch.zeros(2, 2)).tolist() == [[0, 1], [2, 3]]
        assert ranks(torch.zeros(2, 2), flipped_ties=True).tolist() == [[3, 2], [1, 0]]

    def test_minus_zero_is_zero(self) -> None:
        assert ranks(torch.tensor([[-0.0, 0.0, -0.0]])).tolist() == [[0, 1, 2]]

    @pytest.mark.parametrize("flipped", [False, True])
    def test_many_ties_against_numpy(self, flipped: bool) -> None:
        values = random_map(60, 70).mul(3).round()
        flat = values.numpy().ravel().astype(np.float64)
        index = np.arange(flat.size)
        order = np.lexsort((-index if flipped else index, -flat))
        expected = np.empty_like(order)
        expected[order] = index
        found = ranks(values, flipped_ties=flipped)
        assert found.dtype == torch.int64
        assert found.flatten().tolist() == expected.tolist()

    def test_flipping_matters_for_ties_alone(self) -> None:
        values = random_map(20, 20)
        assert ranks(values).equal(ranks(values, flipped_ties=True))


class TestCellRanks:
    def test_every_pixel_has_its_cells_rank_and_the_rest_comes_last(self) -> None:
        cell_ranks = torch.tensor([[2, 0], [1, 3]])
        placed = cell_ranks_on_input(cell_ranks, 5, 4, layout(2, 2, bottom=1))
        assert placed.tolist() == [[2, 2, 0, 0]] * 2 + [[1, 1, 3, 3]] * 2 + [[4] * 4]
        assert placed.dtype == torch.int64

    def test_agrees_with_the_nearest_enlargement(self) -> None:
        values = random_map(5, 3)
        on_input = layout(7, 7, bottom=1, right=2)
        placed = cell_ranks_on_input(ranks(values), 31, 30, on_input)
        enlarged = grid_to_input(values, 31, 30, on_input, Enlargement.NEAREST)
        by_rank = torch.cat([values.flatten().sort(descending=True).values, values.min()[None]])
        assert by_rank[placed].equal(enlarged)


class TestUnitMask:
    def test_by_hand(self) -> None:
        mask = unit_mask(torch.tensor([[-1.0, 0.0], [1.0, 3.0]]))
        assert mask.tolist() == [[0.0, 0.25], [0.5, 1.0]]

    def test_a_constant_map_becomes_zero(self) -> None:
        assert unit_mask(torch.full((3, 4), 7.5)).equal(torch.zeros(3, 4))

    def test_the_whole_range_of_float32(self) -> None:
        huge = torch.finfo(torch.float32).max
        assert unit_mask(torch.tensor([[-huge, 0.0, huge]])).tolist() == [[0.0, 0.5, 1.0]]
        tiny = torch.tensor([[0.0, 1e-45, 2.8e-45]])
        assert unit_mask(tiny).tolist() == [[0.0, 0.5, 1.0]]
