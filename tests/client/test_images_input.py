import io
from pathlib import Path

import numpy as np
import pytest
from PIL import ExifTags, Image

from pairlens._images import EncodedImage, encode, encode_all
from pairlens.errors import ImageFileError, ImageUndecodableError, InvalidParameterError
from tests.client.scripted import png


@pytest.fixture
def path(tmp_path: Path) -> Path:
    file = tmp_path / "cat.png"
    file.write_bytes(png())
    return file


def test_files_and_bytes_travel_as_they_are(path: Path):
    data = path.read_bytes()
    for source, name in [
        (path, "cat.png"),
        (str(path), "cat.png"),
        (data, ""),
        (bytearray(data), ""),
    ]:
        assert encode(source) == EncodedImage(data, name)
    assert encode(memoryview(data)).data == data


def test_an_encoded_image_is_itself(path: Path):
    encoded = encode(path)
    assert encode(encoded) is encoded


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_float_arrays(dtype: type):
    values = np.array([[0, 0.5, 1]], dtype)
    pixels = np.asarray(encode(values).picture())
    np.testing.assert_array_equal(pixels[0], [[0] * 3, [128] * 3, [255] * 3])


@pytest.mark.parametrize("shape", [(5, 7), (5, 7, 3)])
def test_uint8_arrays_are_lossless(shape: tuple[int, ...]):
    values = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    pixels = np.asarray(encode(values).picture())
    np.testing.assert_array_equal(pixels, np.broadcast_to(values.reshape(5, 7, -1), (5, 7, 3)))


def test_alpha_lies_over_white():
    transparent = np.zeros((2, 2, 4), np.uint8)
    assert np.asarray(encode(transparent).picture()).min() == 255


def test_a_strided_array():
    values = np.arange(48, dtype=np.uint8).reshape(4, 4, 3)[::-1, ::2]
    np.testing.assert_array_equal(np.asarray(encode(values).picture()), values)


@pytest.mark.parametrize(
    "array",
    [
        np.zeros((5,), np.uint8),
        np.zeros((5, 7, 1), np.uint8),
        np.zeros((3, 5, 7), np.uint8),
        np.zeros((0, 7, 3), np.uint8),
        np.zeros((5, 7), np.int64),
        np.zeros((5, 7), bool),
        np.zeros((5, 7), object),
        np.full((5, 7), 255.0),
        np.full((5, 7), -0.1),
        np.full((5, 7), np.nan),
    ],
)
def test_other_arrays(array: np.ndarray):
    with pytest.raises(InvalidParameterError, match=r"query is a path.*uint8, or float") as caught:
        encode(array, field="query")
    assert caught.value.field == "query"


def test_pil_images_are_turned_upright(tmp_path: Path):
    image = Image.new("RGB", (30, 20))
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    image.save(tmp_path / "turned.jpg", exif=exif)
    with Image.open(tmp_path / "turned.jpg") as turned:
        encoded = encode(turned)
    assert encoded.name == "turned.jpg"
    assert encoded.picture().size == (20, 30)


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "CMYK", "I;16", "F", "1"])
def test_pil_modes(mode: str):
    assert encode(Image.new(mode, (3, 2))).picture().size == (3, 2)


def test_missing_file(tmp_path: Path):
    with pytest.raises(ImageFileError, match=r"no-such\.png: No such file") as caught:
        encode(tmp_path / "no-such.png")
    assert isinstance(caught.value.__cause__, FileNotFoundError)


def test_folder_and_empty_file(tmp_path: Path):
    with pytest.raises(ImageFileError, match="directory"):
        encode(tmp_path)
    (tmp_path / "empty").touch()
    with pytest.raises(ImageFileError, match="empty"):
        encode(tmp_path / "empty")
    with pytest.raises(InvalidParameterError, match="image is empty"):
        encode(b"")


@pytest.mark.parametrize("thing", [None, 3, [1, 2], object()])
def test_other_types(thing: object):
    with pytest.raises(TypeError, match="image is a path"):
        encode(thing)  # type: ignore[arg-type]


def test_broken_pil_image():
    broken = Image.open(io.BytesIO(png(noise=True)[:200]))
    with pytest.raises(ImageUndecodableError):
        encode(broken)


def test_what_cannot_be_decoded_here_is_an_error_when_drawn():
    with pytest.raises(ImageUndecodableError, match=r"notes\.txt"):
        EncodedImage(b"hello", "notes.txt").picture()


def test_one_or_several(path: Path):
    one = encode(path)
    pixels = np.asarray(one.picture())
    assert encode_all(path, field="candidates") == [one]
    assert encode_all([path, one.data], field="candidates") == [one, EncodedImage(one.data)]
    assert len(encode_all(pixels, field="candidates")) == 1
    assert len(encode_all(np.stack([pixels] * 3), field="candidates")) == 3
    assert len(encode_all((file for file in [path, path]), field="candidates")) == 2


def test_the_bad_one_of_several_is_named(path: Path):
    with pytest.raises(InvalidParameterError, match=r"candidates\[1\] is empty") as caught:
        encode_all([path, b""], field="candidates")
    assert caught.value.field == "candidates[1]"
    with pytest.raises(TypeError, match="candidates holds pictures"):
        encode_all(5, field="candidates")  # type: ignore[arg-type]
