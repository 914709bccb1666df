import dataclasses
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pairlens import InvalidParameterError, mask_overlay
from pairlens.masks import region_outline
from pairlens.rendering import Box, GridGeometry, Interpolation, enlarge
from tests.client.answers import explanation_of
from tests.client.scripted_answers import MASK

WHOLE = GridGeometry(2, 3, 40, 60, Box(0, 0, 60, 40))
HIDDEN, EDGE = np.array([112, 112, 116]), np.array([40, 40, 44])


def photo(height: int = 40, width: int = 60) -> Image.Image:
    pixels = np.random.default_rng(1).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def cells(mask: np.ndarray) -> np.ndarray:
    return np.kron(mask, np.ones((20, 20), bool)).astype(bool)


def test_shown_patches_are_untouched_and_hidden_ones_grey():
    picture = photo()
    drawn = np.asarray(mask_overlay(picture, MASK, WHOLE)).astype(int)
    pixels = np.asarray(picture).astype(int)
    hidden = cells(MASK)
    np.testing.assert_array_equal(drawn[~hidden], pixels[~hidden])
    inside = drawn[2:18, 2:18].reshape(-1, 3)  # of the hidden top left patch
    grey = np.asarray(picture.convert("L")).astype(float)[2:18, 2:18].reshape(-1, 1)
    np.testing.assert_allclose(inside, 0.4 * grey + 0.6 * HIDDEN, atol=2)


def test_a_line_divides_hidden_from_shown_and_nothing_else():
    drawn = np.asarray(mask_overlay(photo(), MASK, WHOLE))
    lines = (drawn == EDGE).all(axis=2)
    assert lines[:19, 19].all()  # right of the top left patch
    assert lines[19, :19].all()  # below it
    assert not lines[:19, 0].any()  # at the picture's border there is nothing to divide
    assert not lines[~cells(MASK)].any()
    everything = np.asarray(mask_overlay(photo(), np.ones((2, 3), bool), WHOLE))
    assert not (everything == EDGE).all(axis=2).any()


def test_no_patch_hidden_or_no_opacity_leaves_the_picture():
    picture = photo()
    for drawn in (
        mask_overlay(picture, np.zeros((2, 3), bool), WHOLE),
        mask_overlay(picture, MASK, WHOLE, opacity=0),
    ):
        np.testing.assert_array_equal(np.asarray(drawn), np.asarray(picture))


def test_full_opacity_hides_all():
    drawn = np.asarray(mask_overlay(photo(), MASK, WHOLE, opacity=1))
    assert (drawn[2:18, 2:18] == HIDDEN).all()


def test_unseen_pixels_are_dimmed():
    cropped = GridGeometry(2, 3, 40, 60, Box(10, 0, 50, 40))
    picture = photo()
    drawn = np.asarray(mask_overlay(picture, np.ones((2, 3), bool), cropped)).astype(float)
    unseen = np.isnan(enlarge(np.ones((2, 3), np.float32), cropped, 40, 60, Interpolation.NEAREST))
    assert unseen[:, :10].all()
    expected = np.asarray(picture).astype(float)[unseen] * 0.55
    np.testing.assert_allclose(drawn[unseen], expected, atol=1)


def test_size_and_mistakes():
    assert mask_overlay(photo(), MASK, WHOLE, max_side=30).size == (30, 20)
    with pytest.raises(ValueError, match="opacity"):
        mask_overlay(photo(), MASK, WHOLE, opacity=1.5)
    with pytest.raises(ValueError, match="shape"):
        mask_overlay(photo(), MASK.T, WHOLE)


def test_an_explanation_with_a_mask_draws_it_and_saves_it(tmp_path: Path):
    made = explanation_of("attention_mask")
    expected = mask_overlay(made.image.picture(), MASK, made.geometry, opacity=0.4)
    np.testing.assert_array_equal(np.asarray(made.overlay(opacity=0.4)), np.asarray(expected))
    made.save_mask(tmp_path / "m.npy")
    saved = np.load(tmp_path / "m.npy", allow_pickle=False)
    assert saved.dtype == bool
    np.testing.assert_array_equal(saved, MASK)
    made.save_mask(tmp_path / "m.png")
    with Image.open(tmp_path / "m.png") as picture:
        np.testing.assert_array_equal(np.asarray(picture.convert("L")), MASK * 255)
    with pytest.raises(InvalidParameterError, match=r"an \.npy or a \.png"):
        made.save_mask(tmp_path / "m.jpg")
    with pytest.raises(InvalidParameterError, match="makes no mask"):
        dataclasses.replace(made, mask=None).save_mask(tmp_path / "n.npy")


def test_a_regions_outline_lies_inside_its_edges():
    black = Image.new("RGB", (120, 80))
    drawn = np.asarray(region_outline(black, Box(10, 5, 40, 30), 40, 60))  # at twice the size
    rows, columns = np.nonzero(drawn.any(axis=2))
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (10, 59, 20, 79)
    assert (drawn[30, 20] == (20, 20, 20)).all()
    assert (drawn[30, 21] == 255).all()
    assert (drawn[30, 22] == 255).all()
    assert (drawn[30, 23] == (20, 20, 20)).all()
    assert not drawn[30, 24:76].any()
    assert not np.asarray(black).any()


@pytest.mark.parametrize(
    "region", [Box(-9, -9, 900, 900), Box(59, 39, 60, 40), Box(70, 50, 80, 60)]
)
def test_regions_at_and_beyond_the_border(region: Box):
    drawn = region_outline(Image.new("RGB", (60, 40)), region, 40, 60)
    assert drawn.size == (60, 40)
