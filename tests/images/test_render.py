import io
import math

import numpy as np
import pytest
from PIL import Image

from pairlens.rendering import (
    Box,
    ColorMap,
    ColorScale,
    GridGeometry,
    Interpolation,
    enlarge,
    overlay,
)
from pairlens_server.errors import InvalidParameterError
from pairlens_server.images.admission import Picture
from pairlens_server.images.render import (
    RenderOptions,
    check_rendered_pixels,
    fixed_range,
    render,
)

GEOMETRY = GridGeometry(4, 5, 80, 120, Box(20, 0, 100, 80))


@pytest.fixture
def picture() -> Picture:
    pixels = np.random.default_rng(0).integers(0, 256, (80, 120, 3), dtype=np.uint8)
    return Picture(Image.fromarray(pixels), "", 80, 120)


@pytest.fixture
def values() -> np.ndarray:
    return np.random.default_rng(1).standard_normal((4, 5), np.float32)


def test_nothing_asked_for(picture, values) -> None:
    rendered = render(picture, values, GEOMETRY, RenderOptions(), -1, 1)
    assert rendered.upsampled is None
    assert rendered.overlay_png is None


@pytest.mark.parametrize("max_side", [None, 60, 500])
@pytest.mark.parametrize("interpolation", list(Interpolation))
def test_upsampled_keeps_the_maps_unit(picture, values, max_side, interpolation) -> None:
    options = RenderOptions(upsampled=True, interpolation=interpolation, max_side=max_side)
    upsampled = render(picture, values, GEOMETRY, options, 0, 0.1).upsampled
    size = (40, 60) if max_side == 60 else (80, 120)
    assert upsampled.dtype == np.float32
    assert upsampled.shape == size
    np.testing.assert_array_equal(upsampled, enlarge(values, GEOMETRY, *size, interpolation))
    assert np.isnan(upsampled[:, 0]).all()


def test_overlay_png_is_the_overlay(picture, values) -> None:
    options = RenderOptions(
        overlay=True,
        color_map=ColorMap.INFERNO,
        opacity=0.4,
        interpolation=Interpolation.BICUBIC,
        max_side=64,
    )
    rendered = render(picture, values, GEOMETRY, options, -1, 1)
    assert rendered.upsampled is None
    file = Image.open(io.BytesIO(rendered.overlay_png))
    assert (file.format, file.mode, file.size) == ("PNG", "RGB", (64, 43))
    expected = overlay(
        picture.image,
        values,
        GEOMETRY,
        low=-1,
        high=1,
        color_map=ColorMap.INFERNO,
        opacity=0.4,
        interpolation=Interpolation.BICUBIC,
        max_side=64,
    )
    np.testing.assert_array_equal(np.asarray(file), np.asarray(expected))


@pytest.mark.parametrize(
    "options",
    [
        RenderOptions(),
        RenderOptions(opacity=0.0),
        RenderOptions(opacity=1.0, max_side=16),
        RenderOptions(max_side=8192, scale=ColorScale.PAIR),
        RenderOptions(scale=ColorScale.FIXED, fixed=(-1.0, 0.0)),
    ],
)
def test_options_in_range(options: RenderOptions) -> None:
    options.validate()


FIXED = ColorScale.FIXED


@pytest.mark.parametrize(
    ("options", "field"),
    [
        (RenderOptions(opacity=-0.01), "opacity"),
        (RenderOptions(opacity=1.01), "opacity"),
        (RenderOptions(opacity=math.nan), "opacity"),
        (RenderOptions(opacity=math.inf), "opacity"),
        (RenderOptions(max_side=0), "max_side"),
        (RenderOptions(max_side=15), "max_side"),
        (RenderOptions(max_side=8193), "max_side"),
        (RenderOptions(scale=FIXED), "fixed_min"),
        (RenderOptions(scale=FIXED, fixed=(1.0, 1.0)), "fixed_min"),
        (RenderOptions(scale=FIXED, fixed=(2.0, 1.0)), "fixed_min"),
        (RenderOptions(scale=FIXED, fixed=(math.nan, 1.0)), "fixed_min"),
        (RenderOptions(scale=FIXED, fixed=(0.0, math.inf)), "fixed_max"),
        (RenderOptions(fixed=(0.0, 1.0)), "fixed_min"),
        (RenderOptions(scale=ColorScale.PAIR, fixed=(0.0, 1.0)), "fixed_min"),
    ],
)
def test_options_out_of_range(options: RenderOptions, field: str) -> None:
    with pytest.raises(InvalidParameterError) as raised:
        options.validate()
    assert raised.value.field == f"rendering.{field}"
    assert raised.value.message.startswith(f"rendering.{field}: ")


@pytest.mark.parametrize(
    ("scale", "ends", "field"),
    [
        (FIXED, (0.0, None), "fixed_max"),
        (FIXED, (None, 1.0), "fixed_min"),
        (ColorScale.IMAGE, (None, 1.0), "fixed_max"),
    ],
)
def test_half_given_fixed_range(scale, ends, field) -> None:
    with pytest.raises(InvalidParameterError) as raised:
        fixed_range(scale, *ends)
    assert raised.value.field == f"rendering.{field}"


def test_fixed_range_passes_through() -> None:
    assert fixed_range(FIXED, -2.0, 3.0) == (-2.0, 3.0)
    assert fixed_range(ColorScale.IMAGE, None, None) is None


def test_rendered_pixels_of_a_request() -> None:
    check_rendered_pixels([(100, 200), (50, 10)], 20_500)
    with pytest.raises(InvalidParameterError, match=r"20500 pixels.*limit is 20499") as raised:
        check_rendered_pixels([(100, 200), (50, 10)], 20_499)
    assert raised.value.field == "rendering.max_side"
