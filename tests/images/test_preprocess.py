import io
import math
import resource

import numpy as np
import pytest
import torch
from PIL import ExifTags, Image
from timm.data import create_transform

from pairlens.rendering import Box, enlarge
from pairlens.rendering import Interpolation as Drawing
from pairlens_server.images.admission import ImageLimits, Picture, decode
from pairlens_server.images.preprocess import grid_geometry, input_pixels
from pairlens_server.models.loaded import TokenLayout
from pairlens_server.models.preprocessing import Interpolation, Preprocessing, ResizeMode

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def settings_of(
    mode: ResizeMode,
    size: tuple[int, int] = (224, 224),
    crop_fraction: float = 0.875,
    interpolation: Interpolation = Interpolation.BICUBIC,
) -> Preprocessing:
    return Preprocessing(*size, mode, crop_fraction, interpolation, MEAN, STD)


class Prepared:
    """The input of a picture and its geometry."""

    def __init__(self, picture: Picture, preprocessing: Preprocessing, rows: int, columns: int):
        self.pixels = input_pixels(picture, preprocessing)
        layout = TokenLayout(rows, columns, 0, ())
        self.geometry = grid_geometry(picture.height, picture.width, preprocessing, layout)


def noise(height: int, width: int) -> Picture:
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Picture(Image.fromarray(pixels), "", height, width)


SHAPES = [(300, 400), (401, 299), (100, 100), (224, 224), (256, 257), (37, 190), (1, 7), (500, 333)]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(
    ("interpolation", "size", "fraction"),
    [
        (Interpolation.BICUBIC, 224, 0.9),
        (Interpolation.BICUBIC, 256, 1.0),
        (Interpolation.BILINEAR, 224, 0.875),
        (Interpolation.BILINEAR, 97, 0.95),
    ],
)
def test_crop_agrees_with_timm(shape, interpolation, size, fraction) -> None:
    picture = noise(*shape)
    transform = create_transform(
        input_size=(3, size, size),
        is_training=False,
        interpolation=interpolation.value,
        mean=MEAN,
        std=STD,
        crop_pct=fraction,
        crop_mode="center",
    )
    preprocessing = settings_of(ResizeMode.CROP, (size, size), fraction, interpolation)
    pixels = Prepared(picture, preprocessing, 7, 7).pixels
    assert pixels.dtype == torch.float32
    assert pixels.is_contiguous()
    torch.testing.assert_close(pixels, transform(picture.image), atol=1e-6, rtol=0)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("size", [(224, 160), (160, 224)])
def test_crop_to_an_oblong_agrees_with_timm(shape, size) -> None:
    picture = noise(*shape)
    transform = create_transform(
        input_size=(3, *size),
        is_training=False,
        interpolation="bicubic",
        mean=MEAN,
        std=STD,
        crop_pct=0.9,
        crop_mode="center",
    )
    pixels = Prepared(picture, settings_of(ResizeMode.CROP, size, 0.9), 7, 5).pixels
    torch.testing.assert_close(pixels, transform(picture.image), atol=1e-6, rtol=0)


@pytest.mark.parametrize("size", [(224, 224), (160, 224)])
def test_stretch_is_pillows_resize(size) -> None:
    picture = noise(300, 401)
    prepared = Prepared(picture, settings_of(ResizeMode.STRETCH, size), 14, 14)
    expected = picture.image.resize(size[::-1], Image.Resampling.BICUBIC)
    restored = prepared.pixels * torch.tensor(STD).view(3, 1, 1) + torch.tensor(MEAN).view(3, 1, 1)
    np.testing.assert_allclose(
        restored.permute(1, 2, 0).numpy() * 255, np.asarray(expected), atol=1e-3
    )
    assert prepared.geometry.region == Box(0, 0, 401, 300)


def test_region_of_a_crop() -> None:
    # 300 x 400 becomes 256 x 341; the window starts at (16, round(58.5) = 58).
    region = Prepared(noise(300, 400), settings_of(ResizeMode.CROP), 7, 7).geometry.region
    across = 400 / 341
    assert region.top == pytest.approx(16 * 300 / 256)
    assert region.bottom == pytest.approx(240 * 300 / 256)
    assert region.left == pytest.approx(58 * across)
    assert region.right == pytest.approx(282 * across)


def test_region_and_borders_of_a_padded_picture() -> None:
    prepared = Prepared(noise(50, 100), settings_of(ResizeMode.PAD), 14, 14)
    assert prepared.geometry.region == Box(left=0, top=-25, right=100, bottom=75)
    assert (prepared.pixels[:, :56] == 0).all()
    assert (prepared.pixels[:, 168:] == 0).all()
    assert (prepared.pixels[:, 56:168] != 0).any(dim=0).all()


@pytest.mark.parametrize("mode", list(ResizeMode))
@pytest.mark.parametrize("interpolation", list(Interpolation))
@pytest.mark.parametrize("shape", [(1, 1), (1, 3000), (3000, 1), (2, 2), (223, 225)])
def test_any_shape_gives_a_finite_input(mode, interpolation, shape) -> None:
    preprocessing = settings_of(mode, (64, 96), interpolation=interpolation)
    prepared = Prepared(noise(*shape), preprocessing, 4, 6)
    assert prepared.pixels.shape == (3, 64, 96)
    assert prepared.pixels.isfinite().all()
    region = prepared.geometry.region
    assert region.left < region.right
    assert region.top < region.bottom


@pytest.mark.parametrize("shape", [(1, 65_535), (65_535, 1)])
def test_extreme_strips_stay_cheap(shape) -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    Prepared(noise(*shape), settings_of(ResizeMode.CROP), 7, 7)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000  # KiB


def test_computing_only_the_crop_changes_nothing_to_speak_of(monkeypatch) -> None:
    picture = noise(300, 900)
    whole = Prepared(picture, settings_of(ResizeMode.CROP), 7, 7)
    monkeypatch.setattr("pairlens_server.images.preprocess._MAX_RESIZED_PIXELS", 0)
    part = Prepared(picture, settings_of(ResizeMode.CROP), 7, 7)
    assert part.geometry == whole.geometry
    one_level = 1 / 255 / min(STD)
    assert (part.pixels - whole.pixels).abs().max() <= one_level * 1.01


def with_square(height: int, width: int, box: tuple[int, int, int, int]) -> Image.Image:
    image = Image.new("RGB", (width, height), "black")
    image.paste("white", box)
    return image


@pytest.mark.parametrize("mode", list(ResizeMode))
@pytest.mark.parametrize(("height", "width"), [(480, 640), (640, 480), (300, 900), (211, 150)])
@pytest.mark.parametrize("orientation", [1, 3, 6])
def test_what_the_model_saw_bright_is_drawn_where_it_is(mode, height, width, orientation) -> None:
    # Off the centre, inside the crop of every shape.
    side = min(height, width)
    left, top = width // 2 + side // 8, height // 2 - side // 4
    square = (left, top, left + side // 6, top + side // 6)
    turned = {1: 0, 3: 180, 6: 90}[orientation]
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    file = io.BytesIO()
    with_square(height, width, square).rotate(turned, expand=True).save(file, "PNG", exif=exif)
    picture = decode(file.getvalue(), ImageLimits(), "query")
    assert (picture.height, picture.width) == (height, width)

    rows = columns = 56
    prepared = Prepared(picture, settings_of(mode), rows, columns)
    cells = prepared.pixels.mean(0).reshape(rows, 4, columns, 4).mean((1, 3)).numpy()
    drawn = enlarge(cells, prepared.geometry, height, width, Drawing.BILINEAR)

    middle = (cells.min() + cells.max()) / 2
    found_y, found_x = np.nonzero(np.nan_to_num(drawn, nan=-math.inf) > middle)
    assert cells.max() > 2  # white, after normalisation
    cell = max(
        (prepared.geometry.region.right - prepared.geometry.region.left) / columns,
        (prepared.geometry.region.bottom - prepared.geometry.region.top) / rows,
    )
    edges = np.array([found_x.min(), found_y.min(), found_x.max() + 1, found_y.max() + 1])
    assert np.abs(edges - square).max() <= cell / 2 + 1
    centers = np.array([found_x.mean() + 0.5, found_y.mean() + 0.5])
    expected = np.array([(square[0] + square[2]) / 2, (square[1] + square[3]) / 2])
    assert np.abs(centers - expected).max() <= cell / 4


@pytest.mark.parametrize("mode", list(ResizeMode))
def test_geometry_is_exact_to_a_fraction_of_a_pixel(mode) -> None:
    # A linear ramp along x, so that each input pixel tells which original x it shows.
    width, height = 517, 389
    ramp = np.repeat(np.linspace(0, 255, width)[None], height, 0).round().astype(np.uint8)
    picture = Picture(Image.fromarray(ramp).convert("RGB"), "", height, width)
    preprocessing = settings_of(mode, interpolation=Interpolation.BILINEAR)
    prepared = Prepared(picture, preprocessing, 7, 7)
    levels = (prepared.pixels[0, 112] * STD[0] + MEAN[0]).numpy() * (width - 1) + 0.5
    region = prepared.geometry.region
    x = region.left + (np.arange(224) + 0.5) * (region.right - region.left) / 224
    inside = (x > 10) & (x < width - 10)
    assert np.abs(levels - x)[inside].max() < 2.1  # one grey level is two pixels wide
    assert abs((levels - x)[inside].mean()) < 0.1


def test_pixels_that_no_patch_covers_are_outside_the_region() -> None:
    # 27 patches of 14 pixels cover 378 of 384: SigLIP's patch-14 models at 384.
    layout = TokenLayout(27, 27, 0, (), unseen_bottom=6, unseen_right=6)
    settings = settings_of(ResizeMode.STRETCH, (384, 384))
    region = grid_geometry(768, 384, settings, layout).region
    assert region == Box(left=0, top=0, right=378, bottom=756)
