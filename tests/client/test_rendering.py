import cv2
import matplotlib
import numpy as np
import pytest
import torch
from PIL import Image

from pairlens.rendering import (
    Box,
    ColorMap,
    ColorScale,
    GridGeometry,
    Interpolation,
    color_range,
    colorize,
    enlarge,
    overlay,
    rendered_size,
)


def whole(rows: int, columns: int, height: int, width: int) -> GridGeometry:
    return GridGeometry(rows, columns, height, width, Box(0, 0, width, height))


def random_map(rows: int, columns: int) -> np.ndarray:
    return np.random.default_rng(rows * 100 + columns).standard_normal((rows, columns), np.float32)


def photo(height: int = 60, width: int = 90) -> Image.Image:
    pixels = np.random.default_rng(1).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


@pytest.mark.parametrize(
    ("size", "max_side", "expected"),
    [
        ((300, 400), None, (300, 400)),
        ((300, 400), 500, (300, 400)),
        ((300, 400), 200, (150, 200)),
        ((400, 300), 100, (100, 75)),
        ((1, 5000), 16, (1, 16)),
    ],
)
def test_rendered_size(size, max_side, expected) -> None:
    assert rendered_size(*size, max_side) == expected


@pytest.mark.parametrize(
    ("interpolation", "row"),
    [
        (Interpolation.NEAREST, [0, 0, 1, 1]),
        (Interpolation.BILINEAR, [0, 0.25, 0.75, 1]),
        (Interpolation.BICUBIC, [-0.316, 0.016, 0.563, 0.895]),
    ],
)
def test_first_row_of_two_by_two(interpolation: Interpolation, row: list[float]) -> None:
    values = np.array([[0, 1], [2, 3]], np.float32)
    enlarged = enlarge(values, whole(2, 2, 4, 4), 4, 4, interpolation)
    np.testing.assert_allclose(enlarged[0], row, atol=6e-4)


@pytest.mark.parametrize("grid", [(1, 1), (1, 5), (2, 3), (7, 7), (14, 14), (14, 9), (37, 37)])
@pytest.mark.parametrize("size", [(37, 53), (224, 224), (301, 97)])
@pytest.mark.parametrize(
    ("interpolation", "flag"),
    [(Interpolation.BILINEAR, cv2.INTER_LINEAR), (Interpolation.BICUBIC, cv2.INTER_CUBIC)],
)
def test_smooth_enlarging_agrees_with_opencv(grid, size, interpolation, flag) -> None:
    values = random_map(*grid)
    enlarged = enlarge(values, whole(*grid, *size), *size, interpolation)
    assert enlarged.dtype == np.float32
    expected = cv2.resize(values, size[::-1], interpolation=flag)
    np.testing.assert_allclose(enlarged, expected, atol=1e-5)


@pytest.mark.parametrize(
    ("interpolation", "mode"),
    [
        (Interpolation.NEAREST, "nearest-exact"),
        (Interpolation.BILINEAR, "bilinear"),
        (Interpolation.BICUBIC, "bicubic"),
    ],
)
def test_enlarging_agrees_with_torch(interpolation: Interpolation, mode: str) -> None:
    values = random_map(7, 13)
    enlarged = enlarge(values, whole(7, 13, 101, 150), 101, 150, interpolation)
    expected = torch.nn.functional.interpolate(
        torch.from_numpy(values)[None, None], (101, 150), mode=mode
    )
    np.testing.assert_allclose(enlarged, expected[0, 0].numpy(), atol=1e-5)


def test_nearest_agrees_with_opencv_at_whole_factors() -> None:
    values = random_map(7, 14)
    enlarged = enlarge(values, whole(7, 14, 224, 224), 224, 224, Interpolation.NEAREST)
    expected = cv2.resize(values, (224, 224), interpolation=cv2.INTER_NEAREST)
    np.testing.assert_array_equal(enlarged, expected)


@pytest.mark.parametrize("interpolation", list(Interpolation))
def test_rendering_smaller_than_the_original_samples_the_same_map(interpolation) -> None:
    geometry = whole(4, 6, 300, 600)
    small = enlarge(random_map(4, 6), geometry, 30, 60, interpolation)
    # The centre of every third pixel of a 90 x 180 rendering is a centre of the 30 x 60 one.
    large = enlarge(random_map(4, 6), geometry, 90, 180, interpolation)
    np.testing.assert_allclose(small, large[1::3, 1::3], atol=1e-5)


def test_cropped_region_is_filled_and_the_rest_is_nan() -> None:
    values = random_map(3, 3)
    geometry = GridGeometry(3, 3, 60, 100, Box(left=20, top=0, right=80, bottom=60))
    enlarged = enlarge(values, geometry, 60, 100, Interpolation.BILINEAR)
    expected = cv2.resize(values, (60, 60), interpolation=cv2.INTER_LINEAR)
    np.testing.assert_allclose(enlarged[:, 20:80], expected, atol=1e-5)
    assert np.isnan(enlarged[:, :20]).all()
    assert np.isnan(enlarged[:, 80:]).all()


def test_padded_region_reaches_beyond_the_picture() -> None:
    values = random_map(4, 4)
    geometry = GridGeometry(4, 4, 50, 100, Box(left=0, top=-25, right=100, bottom=75))
    enlarged = enlarge(values, geometry, 50, 100, Interpolation.BILINEAR)
    square = cv2.resize(values, (100, 100), interpolation=cv2.INTER_LINEAR)
    np.testing.assert_allclose(enlarged, square[25:75], atol=1e-5)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_cell_that_is_not_finite_stays_where_it_is(bad: float) -> None:
    values = random_map(5, 5)
    values[2, 2] = bad
    enlarged = enlarge(values, whole(5, 5, 50, 50), 50, 50, Interpolation.NEAREST)
    assert np.isnan(enlarged[20:30, 20:30]).all()
    assert np.isnan(enlarged).sum() == 100


def test_map_of_another_shape_is_refused() -> None:
    with pytest.raises(ValueError, match="3 x 4"):
        enlarge(random_map(4, 3), whole(3, 4, 30, 40), 30, 40, Interpolation.NEAREST)


@pytest.mark.parametrize("name", ["viridis", "inferno"])
def test_tables_are_matplotlibs(name: str) -> None:
    values = np.arange(256, dtype=np.float32)[None] / 255
    expected = matplotlib.colormaps[name](np.arange(256))[:, :3] * 255
    np.testing.assert_allclose(colorize(values, ColorMap(name))[0], expected, atol=0.5)


def test_jet_is_opencvs() -> None:
    levels = np.arange(256, dtype=np.uint8)[None]
    ours = colorize(levels.astype(np.float32) / 255, ColorMap.JET)
    opencv = cv2.applyColorMap(levels, cv2.COLORMAP_JET)[..., ::-1]
    assert np.abs(ours.astype(int) - opencv).max() <= 1


def test_colors_of_values_out_of_range() -> None:
    values = np.array([[-np.inf, -1, np.nan, 0, 1, 2, np.inf]], np.float32)
    colors = colorize(values, ColorMap.VIRIDIS)[0]
    assert (colors[:3] == colors[3]).all()
    assert (colors[5:] == colors[4]).all()


def test_color_range() -> None:
    a, b = np.array([[-1, 2], [np.nan, 0]], np.float32), np.array([[5, np.inf]], np.float32)
    assert color_range([a], ColorScale.IMAGE) == (-1, 2)
    assert color_range([a, b], ColorScale.PAIR) == (-1, 5)
    assert color_range([a], ColorScale.FIXED, (0.0, 0.5)) == (0, 0.5)
    assert color_range([np.full((2, 2), np.nan, np.float32)], ColorScale.IMAGE) == (0, 0)


@pytest.mark.parametrize(
    ("maps", "scale", "fixed"),
    [
        (1, ColorScale.PAIR, None),
        (2, ColorScale.IMAGE, None),
        (1, ColorScale.FIXED, None),
        (1, ColorScale.IMAGE, (0.0, 1.0)),
    ],
)
def test_color_range_refuses_what_does_not_fit(maps, scale, fixed) -> None:
    with pytest.raises(ValueError, match=r"map|fixed"):
        color_range([random_map(2, 2)] * maps, scale, fixed)


def test_overlay_at_full_opacity_shows_the_colors() -> None:
    values = np.array([[0, 1]], np.float32)
    drawn = overlay(
        photo(),
        values,
        whole(1, 2, 60, 90),
        low=0,
        high=1,
        opacity=1.0,
        interpolation=Interpolation.NEAREST,
    )
    expected = colorize(values, ColorMap.VIRIDIS)
    pixels = np.asarray(drawn)
    assert (pixels[:, :45] == expected[0, 0]).all()
    assert (pixels[:, 45:] == expected[0, 1]).all()


def test_overlay_at_zero_opacity_is_the_picture() -> None:
    picture = photo()
    drawn = overlay(picture, random_map(4, 4), whole(4, 4, 60, 90), low=-1, high=1, opacity=0.0)
    np.testing.assert_array_equal(np.asarray(drawn), np.asarray(picture))


def test_hue_of_an_overlay_is_the_maps_alone() -> None:
    values = np.array([[0, 1]], np.float32)
    options = {"low": 0.0, "high": 1.0, "interpolation": Interpolation.NEAREST}
    orange = Image.new("RGB", (90, 60), (255, 150, 0))
    grey = orange.convert("L").convert("RGB")
    drawn = overlay(orange, values, whole(1, 2, 60, 90), **options)
    expected = overlay(grey, values, whole(1, 2, 60, 90), **options)
    np.testing.assert_array_equal(np.asarray(drawn), np.asarray(expected))


def test_unseen_pixels_are_dimmed_but_in_color() -> None:
    picture = Image.new("RGB", (100, 60), (200, 100, 40))
    geometry = GridGeometry(3, 3, 60, 100, Box(left=20, top=0, right=80, bottom=60))
    drawn = np.asarray(overlay(picture, random_map(3, 3), geometry, low=-1, high=1))
    assert (drawn[:, :20] == drawn[0, 0]).all()
    assert (drawn[:, 80:] == drawn[0, 0]).all()
    ratio = drawn[0, 0] / np.array([200, 100, 40])
    assert ratio.std() < 0.01
    assert 0.4 < ratio.mean() < 0.8


@pytest.mark.parametrize(("low", "high"), [(1, 1), (0, np.nan), (-np.inf, np.inf), (2, 1)])
def test_no_range_means_no_color(low: float, high: float) -> None:
    picture = photo()
    drawn = overlay(picture, random_map(3, 3), whole(3, 3, 60, 90), low=low, high=high)
    np.testing.assert_array_equal(np.asarray(drawn), np.asarray(picture))


@pytest.mark.parametrize("value", [0.3, np.nan, np.inf])
def test_constant_maps_show_no_color_under_any_scale(value: float) -> None:
    picture = photo()
    values = np.full((3, 3), value, np.float32)
    drawn = overlay(picture, values, whole(3, 3, 60, 90), low=0, high=1)
    np.testing.assert_array_equal(np.asarray(drawn), np.asarray(picture))


@pytest.mark.filterwarnings("error")
def test_extreme_and_missing_values_are_drawn() -> None:
    values = np.array([[np.nan, np.inf, -np.inf], [3e38, -3e38, 0]], np.float32)
    low, high = color_range([values], ColorScale.IMAGE)
    for interpolation in Interpolation:
        drawn = overlay(
            photo(), values, whole(2, 3, 60, 90), low=low, high=high, interpolation=interpolation
        )
        assert drawn.size == (90, 60)
    overlay(photo(), values, whole(2, 3, 60, 90), low=0.0, high=1e-30)


def test_overlay_fits_max_side_and_maps_any_resolution() -> None:
    values = random_map(5, 5)
    geometry = whole(5, 5, 600, 900)
    small = overlay(photo(60, 90), values, geometry, low=-1, high=1, opacity=1.0)
    assert small.size == (90, 60)
    shrunk = overlay(photo(600, 900), values, geometry, low=-1, high=1, opacity=1.0, max_side=90)
    np.testing.assert_array_equal(np.asarray(shrunk), np.asarray(small))


@pytest.mark.parametrize("opacity", [-0.1, 1.1, float("nan")])
def test_overlay_refuses_opacity(opacity: float) -> None:
    with pytest.raises(ValueError, match="opacity"):
        overlay(photo(), random_map(2, 2), whole(2, 2, 60, 90), low=0, high=1, opacity=opacity)
