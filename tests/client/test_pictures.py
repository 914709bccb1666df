import io

import numpy as np
import pytest
from PIL import ExifTags, Image, ImageOps

from pairlens.pictures import to_rgb

# Upright: red top left, green top right, blue bottom left, black bottom right, wider than tall.
CORNERS = {(0, 0): (255, 0, 0), (0, -1): (0, 255, 0), (-1, 0): (0, 0, 255), (-1, -1): (0, 0, 0)}


def upright() -> Image.Image:
    pixels = np.zeros((20, 30, 3), np.uint8)
    pixels[:10, :15], pixels[:10, 15:], pixels[10:, :15] = (255, 0, 0), (0, 255, 0), (0, 0, 255)
    return Image.fromarray(pixels)


def stored_turned(orientation: int, file_format: str) -> Image.Image:
    """A file whose pixels are turned such that its EXIF tag makes it upright again."""
    inverse = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }
    image = upright()
    if orientation in inverse:
        image = image.transpose(inverse[orientation])
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    file = io.BytesIO()
    image.save(file, file_format, exif=exif, **({"quality": 95} if file_format == "JPEG" else {}))
    return Image.open(file)


def assert_upright(rgb: Image.Image) -> None:
    assert rgb.mode == "RGB"
    assert rgb.size == (30, 20)
    pixels = np.asarray(rgb).astype(int)
    for corner, color in CORNERS.items():
        assert np.abs(pixels[corner] - color).max() <= 12, corner


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("file_format", ["JPEG", "PNG", "TIFF", "WEBP"])
def test_orientation_is_applied_once(orientation: int, file_format: str) -> None:
    rgb = to_rgb(stored_turned(orientation, file_format))
    assert_upright(rgb)
    assert_upright(to_rgb(rgb))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_agrees_with_pillow(orientation: int) -> None:
    image = stored_turned(orientation, "PNG")
    expected = np.asarray(ImageOps.exif_transpose(image))
    np.testing.assert_array_equal(np.asarray(to_rgb(image)), expected)


@pytest.mark.parametrize("exif", [b"", b"Exif\0\0garbage", b"Exif\0\0II*\0\xff\xff\xff\xff"])
@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
def test_garbage_exif_counts_as_upright(exif: bytes) -> None:
    image = upright()
    image.info["exif"] = exif
    assert_upright(to_rgb(image))


def test_unknown_orientation_counts_as_upright() -> None:
    assert_upright(to_rgb(stored_turned(9, "PNG")))


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "RGBX", "CMYK", "YCbCr", "HSV", "LAB", "RGBa"])
def test_color_modes(mode: str) -> None:
    source = upright()
    image = source.convert("RGBA").convert(mode) if mode == "RGBa" else source.convert(mode)
    tolerance = 25 if mode == "LAB" else 2  # 8 bits hold saturated colours coarsely there
    difference = np.asarray(to_rgb(image)).astype(int) - np.asarray(source)
    assert np.abs(difference).max() <= tolerance


@pytest.mark.parametrize("mode", ["1", "L", "P", "LA", "La", "PA"])
def test_grey_modes(mode: str) -> None:
    grey = upright().point(lambda v: 255 if v > 128 else 0).convert("L")
    grey = grey.point(lambda v: 255 if v else 0)
    if mode == "La":
        image = grey.convert("LA").convert("La")
    elif mode == "PA":
        image = grey.convert("P").convert("PA")
    else:
        image = grey.convert(mode)
    assert image.mode == mode
    np.testing.assert_array_equal(np.asarray(to_rgb(image))[..., 1], np.asarray(grey))


@pytest.mark.parametrize(("alpha", "expected"), [(0, 255), (51, 224), (255, 100)])
@pytest.mark.parametrize("mode", ["LA", "RGBA", "RGBa", "La"])
def test_alpha_lies_over_white(mode: str, alpha: int, expected: int) -> None:
    straight = mode.upper()
    color = (100,) * (len(straight) - 1) + (alpha,)
    image = Image.new(straight, (2, 2), color)
    image = image if mode == straight else image.convert(mode)
    # 100 * alpha + 255 * (1 - alpha); premultiplied modes round twice.
    assert np.abs(np.asarray(to_rgb(image)).astype(int) - expected).max() <= 1


def test_palette_with_transparency_from_png_and_gif() -> None:
    image = Image.new("P", (4, 4), 0)
    image.putpalette([10, 20, 30, 200, 100, 50])
    image.putpixel((1, 2), 1)
    for file_format in ("PNG", "GIF"):
        file = io.BytesIO()
        image.save(file, file_format, transparency=0)
        pixels = np.asarray(to_rgb(Image.open(file)))
        assert tuple(pixels[2, 1]) == (200, 100, 50)
        assert tuple(pixels[0, 0]) == (255, 255, 255)


def test_half_transparent_palette_entries() -> None:
    image = Image.new("P", (2, 1), 0)
    image.putpalette([0, 0, 0, 200, 100, 50])
    file = io.BytesIO()
    image.save(file, "PNG", transparency=bytes([51, 255]))
    assert tuple(np.asarray(to_rgb(Image.open(file)))[0, 0]) == (204, 204, 204)


@pytest.mark.parametrize(("mode", "color"), [("L", 7), ("RGB", (1, 2, 3))])
def test_color_named_transparent(mode: str, color: int | tuple[int, int, int]) -> None:
    image = Image.new(mode, (3, 3), color)
    image.putpixel((1, 1), 90 if mode == "L" else (90, 90, 90))
    file = io.BytesIO()
    image.save(file, "PNG", transparency=color)
    pixels = np.asarray(to_rgb(Image.open(file)))
    assert tuple(pixels[0, 0]) == (255, 255, 255)
    assert tuple(pixels[1, 1]) == (90, 90, 90)


LEVELS_16 = np.array([[0, 128, 257, 32896], [65535, 65278, 300, 25700]], np.uint16)
LEVELS_8 = np.array([[0, 0, 1, 128], [255, 254, 1, 100]])


def test_sixteen_bit_png_is_scaled_not_clipped() -> None:
    file = io.BytesIO()
    Image.fromarray(LEVELS_16).save(file, "PNG")
    np.testing.assert_array_equal(np.asarray(to_rgb(Image.open(file)))[..., 0], LEVELS_8)


def test_sixteen_bit_png_with_transparent_level() -> None:
    file = io.BytesIO()
    Image.fromarray(LEVELS_16).save(file, "PNG", transparency=300)
    pixels = np.asarray(to_rgb(Image.open(file)))[..., 2]
    assert pixels[1, 2] == 255
    assert pixels[1, 3] == 100


@pytest.mark.parametrize("mode", ["I;16", "I;16L", "I;16B", "I"])
def test_sixteen_bit_modes(mode: str) -> None:
    if mode == "I":
        image = Image.fromarray(LEVELS_16.astype(np.int32))
    else:
        data = LEVELS_16.astype(">u2" if mode == "I;16B" else "<u2").tobytes()
        image = Image.frombytes(mode, (4, 2), data)
    assert image.mode == mode
    np.testing.assert_array_equal(np.asarray(to_rgb(image))[..., 1], LEVELS_8)


def test_sixteen_bit_tiff_big_endian() -> None:
    file = io.BytesIO()
    Image.frombytes("I;16B", (4, 2), LEVELS_16.astype(">u2").tobytes()).save(file, "TIFF")
    np.testing.assert_array_equal(np.asarray(to_rgb(Image.open(file)))[..., 1], LEVELS_8)


def test_thirty_two_bit_integers_above_sixteen_bits() -> None:
    levels = np.array([[0, -5, 2**31 - 1, 2**30]], np.int32)
    pixels = np.asarray(to_rgb(Image.fromarray(levels)))[..., 0]
    np.testing.assert_array_equal(pixels, [[0, 0, 255, 128]])


@pytest.mark.parametrize(
    ("levels", "expected"),
    [
        ([0.0, 0.2, 1.0], [0, 51, 255]),
        ([0.0, 51.0, 255.0], [0, 51, 255]),
        ([0.0, 25700.0, 65535.0], [0, 100, 255]),
        ([-3.0, 4e5, 1e6], [0, 102, 255]),
        ([float("nan"), float("inf"), 0.2], [0, 255, 51]),
        ([float("nan"), float("nan"), float("-inf")], [0, 0, 0]),
    ],
)
def test_floats(levels: list[float], expected: list[int]) -> None:
    image = Image.fromarray(np.array([levels], np.float32))
    np.testing.assert_array_equal(np.asarray(to_rgb(image))[0, :, 0], expected)


def test_cmyk_jpeg() -> None:
    # Pillow writes, as Photoshop does, an Adobe marker and inverted inks.
    file = io.BytesIO()
    upright().convert("CMYK").save(file, "JPEG", quality=95)
    assert_upright(to_rgb(Image.open(file)))


def test_source_is_left_alone_and_result_is_bare() -> None:
    image = stored_turned(6, "JPEG")
    before = image.size
    rgb = to_rgb(image)
    assert image.size == before
    assert rgb.info == {}
    assert not rgb.getexif()
