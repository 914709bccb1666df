import dataclasses

import numpy as np
import pytest
from PIL import Image

from pairlens import InvalidParameterError, attention_figure, contact_sheet, panel_grid
from pairlens.figures import CELL_SIDE, title_of
from tests.client.answers import explanation_of
from tests.client.scripted_answers import MASK

PICTURE = Image.new("RGB", (60, 40), (10, 20, 30))
COLORS = [(200, 0, 0), (0, 200, 0), (0, 0, 200), (200, 200, 0), (0, 200, 200)]
CELLS = [(f"cell {index}", Image.new("RGB", (60, 40), color)) for index, color in enumerate(COLORS)]


def spots(drawn: Image.Image, color: tuple[int, int, int]) -> tuple[int, int, int, int]:
    """Left, top, right and bottom of a colour's pixels."""
    rows, columns = np.nonzero((np.asarray(drawn) == color).all(axis=2))
    return columns.min(), rows.min(), columns.max() + 1, rows.max() + 1


def inked(drawn: Image.Image, left: int, top: int, right: int, bottom: int) -> bool:
    return bool((np.asarray(drawn)[top:bottom, left:right] < 140).any())


def test_cells_lie_in_a_grid_with_captions():
    sheet = contact_sheet(PICTURE, CELLS, side=120, columns=3)
    places = [spots(sheet, color) for color in ((10, 20, 30), *COLORS)]
    for left, top, right, bottom in places:
        assert (right - left, bottom - top) == (120, 80)
        assert inked(sheet, left, bottom + 2, right, bottom + 26)  # its caption
    assert [place[1] for place in places[:3]] == [places[0][1]] * 3
    assert [place[0] for place in places[3:]] == [place[0] for place in places[:3]]
    assert places[3][1] > places[0][3] + 20


def test_the_page_is_wider_than_high():
    sheet = contact_sheet(PICTURE, CELLS * 4)
    assert 1.1 < sheet.width / sheet.height < 2
    assert spots(sheet, (10, 20, 30))[2] - spots(sheet, (10, 20, 30))[0] == CELL_SIDE


def test_pictures_of_other_sizes_fill_their_cells():
    large = [("large", Image.new("RGB", (600, 400), COLORS[0]))]
    left, top, right, bottom = spots(contact_sheet(PICTURE, large, side=120), COLORS[0])
    assert (right - left, bottom - top) == (120, 80)


def test_a_cell_may_say_why_it_is_empty():
    sheet = contact_sheet(PICTURE, [("broken", "failed: the device had no room for it")], side=240)
    left, top, right, bottom = spots(sheet, (244, 240, 238))
    assert (right - left, bottom - top) == (240, 160)
    assert spots(sheet, (150, 40, 20))  # the message
    assert inked(sheet, left, bottom + 2, right, bottom + 26)


def test_titles_and_notes_make_room():
    plain = contact_sheet(PICTURE, CELLS, side=120)
    titled = contact_sheet(PICTURE, CELLS, side=120, title="title\nnote")
    noted = contact_sheet(PICTURE, [("a\nb\nc", CELLS[0][1]), *CELLS[1:]], side=120)
    assert titled.height > plain.height + 40
    assert noted.height > plain.height
    assert inked(titled, 20, 20, titled.width, 60)
    assert titled.width == plain.width


def test_long_captions_stay_in_their_column():
    sheet = contact_sheet(PICTURE, [("w" * 200, CELLS[0][1])], side=120, columns=2)
    assert not inked(sheet, sheet.width - 18, 0, sheet.width, sheet.height)


def test_sheets_that_cannot_be():
    for wrong in ({"side": 5}, {"columns": 0}):
        with pytest.raises(InvalidParameterError):
            contact_sheet(PICTURE, CELLS, **wrong)


def test_heads_are_a_sheet_of_their_overlays():
    made = explanation_of("raw_attention", each="EACH_HEAD")
    cells = [
        (f"block 11, head {head}", made.panels[head].overlay(max_side=80)) for head in range(3)
    ]
    expected = contact_sheet(
        made.image.picture(), cells, title="vit: raw_attention\neach=head", side=80
    )
    np.testing.assert_array_equal(np.asarray(panel_grid(made, side=80)), np.asarray(expected))
    np.testing.assert_array_equal(np.asarray(panel_grid(made, max_side=80)), np.asarray(expected))


def test_heads_and_blocks_are_a_matrix():
    made = explanation_of("raw_attention", each="EACH_BLOCK_AND_HEAD")
    drawn = np.asarray(panel_grid(made, side=60))
    assert drawn.shape[0] > 12 * 40
    for panel in (made.panels[0], made.panels[4], made.panels[35]):
        cell = np.asarray(panel.overlay(max_side=60))
        shown = [
            (y, x)
            for y, x in zip(*np.nonzero((drawn == cell[0, 0]).all(axis=2)), strict=True)
            if np.array_equal(drawn[y : y + 40, x : x + 60], cell)
        ]
        assert shown
        panel_row = {y for y, _ in shown}
        # Heads run to the right and blocks down: maps are unique up to their sum.
        same = {p.block for p in made.panels if np.array_equal(p.heatmap, panel.heatmap)}
        assert len(panel_row) == len(same)
    labels = drawn[:, :60]
    assert (labels < 140).any()


def test_titles_leave_out_what_differs_from_panel_to_panel():
    every = {"each": "EACH_BLOCK_AND_HEAD", "block": 11}
    made = explanation_of("raw_attention", **every)
    assert "block=11" in str(made.method)
    assert title_of(made) == "vit: raw_attention\neach=block_and_head"
    one = dataclasses.replace(made, panels=made.panels[-1:])
    assert title_of(one) == "vit: raw_attention\nblock=11, each=block_and_head"


def test_the_matrix_puts_each_block_and_head_in_its_place():
    made = explanation_of("raw_attention", each="EACH_BLOCK_AND_HEAD")
    marked = tuple(
        dataclasses.replace(panel, mask=np.full((2, 3), panel.block == 7 and panel.head == 2))
        for panel in made.panels
    )
    drawn = np.asarray(panel_grid(dataclasses.replace(made, panels=marked), side=60)).astype(int)
    veiled = np.abs(drawn - (118, 118, 121)).max(axis=2) < 4  # 0.4 x 128 + 0.6 x 112
    plain = (drawn == 128).all(axis=2)
    cells = np.argwhere(plain[:, 80:] & plain[:, 79:-1])  # right of the labels
    top, left = cells[:, 0].min(), cells[:, 1].min() + 79
    rows, columns = np.nonzero(veiled[top:, left:])
    assert (rows.max() + 1 - rows.min(), columns.max() + 1 - columns.min()) == (40, 60)
    assert (rows.min(), columns.min()) == (7 * 42, 2 * 62)


def test_units_and_masks_are_sheets_too():
    units = panel_grid(explanation_of("hidden_unit"))
    masks = explanation_of("attention_mask", blocks=[1, 2])
    assert units.size[0] > 2 * CELL_SIDE
    cells = [(f"block {panel.block}", panel.overlay(max_side=CELL_SIDE)) for panel in masks.panels]
    expected = contact_sheet(masks.image.picture(), cells, title="vit: attention_mask\nblocks=1,2")
    np.testing.assert_array_equal(np.asarray(panel_grid(masks)), np.asarray(expected))
    assert masks.panels[0].mask.tolist() == MASK.tolist()


def test_no_panels():
    with pytest.raises(InvalidParameterError, match="gives no further maps"):
        panel_grid(explanation_of("rollout"))


def test_attention_figure_holds_pictures_and_curves():
    made = explanation_of("semantic_attention", block=5)
    drawn = attention_figure(made)
    assert drawn.width == 1440
    for color in ((0, 114, 178), (213, 94, 0), (0, 158, 115), (204, 121, 167)):
        left, top = spots(drawn, color)[:2]
        assert left < 720
        assert top > 300
    assert spots(drawn, (0, 114, 178))[2] > 1300  # the focus index on the right
    # The yellow of the patch with most keypoints, at the bottom right of its picture.
    pixels = np.asarray(drawn).astype(int)
    keypoints = pixels[:420, 490:950]
    yellow = (keypoints[..., 0] > 190) & (keypoints[..., 1] > 180) & (keypoints[..., 2] < 130)
    rows, columns = np.nonzero(yellow)
    assert rows.size > 5000
    assert columns.mean() > 300


def test_no_attention_figure():
    with pytest.raises(InvalidParameterError, match="no interrelations"):
        attention_figure(explanation_of("rollout"))
    made = dataclasses.replace(explanation_of("semantic_attention"), keypoints=None)
    with pytest.raises(InvalidParameterError, match="gives no keypoints"):
        attention_figure(made)
