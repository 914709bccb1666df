"""Augmentation keeps shapes and ranges, depends on its generator alone, and mixes as it says."""

import pytest
import torch
from augment import Strength, crop_views, erase_boxes, random_views
from regions import enlarge, mix, pool

PLAIN = Strength(least_area=1.0, stretch=1.0, degrees=0.0, colour=0.0, grey=0.0, erase=0.0)


def gen(seed: int = 0) -> torch.Generator:
    """Return a seeded generator."""
    return torch.Generator().manual_seed(seed)


@pytest.fixture
def pictures() -> torch.Tensor:
    """Return eight random uint8 pictures of 24 x 24."""
    return torch.randint(256, (8, 3, 24, 24), generator=gen(), dtype=torch.uint8)


@pytest.mark.parametrize("size", [16, 24, 40])
def test_views_have_the_size_asked_for_and_lie_in_range(pictures, size):
    views = random_views(pictures, size, gen(), Strength())
    assert views.shape == (8, 3, size, size)
    assert views.dtype == torch.float32
    assert views.min() >= 0
    assert views.max() <= 1


def test_views_repeat_with_the_seed(pictures):
    first = random_views(pictures, 16, gen(3), Strength())
    assert torch.equal(first, random_views(pictures, 16, gen(3), Strength()))
    assert not torch.equal(first, random_views(pictures, 16, gen(4), Strength()))


def test_no_strength_leaves_the_picture_or_its_mirror(pictures):
    views = crop_views(pictures, 24, gen(), PLAIN)
    plain = pictures.float() / 255
    same = (views - plain).abs().amax((1, 2, 3)) < 1e-4
    mirrored = (views - plain.flip(3)).abs().amax((1, 2, 3)) < 1e-4
    assert (same | mirrored).all()
    assert same.any()
    assert mirrored.any()


def test_erasing_blanks_one_box_in_the_chosen_share():
    views = torch.ones(400, 3, 20, 20)
    erased = erase_boxes(views, gen(), 0.25)
    touched = (erased != 1).flatten(1).any(1)
    assert 0.15 < touched.float().mean() < 0.35
    shares = (erased[touched] != 1).float().mean((1, 2, 3))
    assert shares.min() > 0.02
    assert shares.max() < 0.31


@pytest.mark.parametrize(("pixels", "side"), [(128, 8), (128, 16), (96, 6), (96, 12)])
def test_parts_of_a_mixed_picture_are_pooled_apart(pixels, side):
    # Each picture has one constant value, so each part must pool to the value of its source.
    values = torch.arange(6.0)
    mixed = mix(values.view(6, 1, 1, 1).expand(6, 3, pixels, pixels), gen())
    stride = pixels // side
    tokens = mixed.images[:, :, ::stride, ::stride].flatten(2).transpose(1, 2)
    pooled = pool(tokens, enlarge(mixed.inside, side).flatten(1))
    expected = torch.cat([values, values[mixed.source]])
    torch.testing.assert_close(pooled, expected[:, None].expand(-1, 3))


def test_whole_pictures_are_pooled_over_all_tokens():
    tokens = torch.randn((2, 64, 5), generator=gen())
    torch.testing.assert_close(pool(tokens, None), tokens.mean(1))
