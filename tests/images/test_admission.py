import hashlib
import io
import re
import struct
import time
import zlib
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import ExifTags, Image, ImageFile

from pairlens_server.errors import ImageTooLargeError, ImageUndecodableError, PairlensError
from pairlens_server.images.admission import FORMATS, ImageLimits, Picture, decode

LIMITS = ImageLimits()
FIELD = "candidates[3].image"


def photo(height: int = 40, width: int = 60) -> Image.Image:
    ramp = np.linspace(0, 255, height * width * 3).reshape(height, width, 3)
    return Image.fromarray(ramp.astype(np.uint8))


def encoded(image: Image.Image, file_format: str, **options) -> bytes:
    file = io.BytesIO()
    image.save(file, file_format, **options)
    return file.getvalue()


def png_chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def png_header(width: int, height: int) -> bytes:
    """A PNG that promises pixels and brings none."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + png_chunk(b"IHDR", header) + png_chunk(b"IDAT", b"")


def webp_header(width: int, height: int) -> bytes:
    body = b"\x2f" + struct.pack("<I", (width - 1) | (height - 1) << 14) + bytes(43)
    chunk = b"VP8L" + struct.pack("<I", len(body)) + body
    return b"RIFF" + struct.pack("<I", 4 + len(chunk)) + b"WEBP" + chunk


def assert_refused(data: bytes, error: type[PairlensError], match: str, limits=LIMITS) -> None:
    with pytest.raises(error, match=match) as raised:
        decode(data, limits, FIELD)
    assert raised.value.field == FIELD
    assert raised.value.message.startswith(FIELD)
    assert "0x" not in raised.value.message  # Pillow's texts show objects and addresses


def assert_decoded_or_refused(data: bytes) -> None:
    try:
        outcome: Picture | PairlensError = decode(data, LIMITS, FIELD)
    except PairlensError as error:
        outcome = error
    if isinstance(outcome, Picture):
        assert outcome.image.size == (outcome.width, outcome.height)
    else:
        assert outcome.field == FIELD


@pytest.mark.parametrize("file_format", FORMATS)
def test_every_format_is_decoded(file_format: str) -> None:
    data = encoded(photo(), file_format)
    picture = decode(data, LIMITS, FIELD)
    assert (picture.height, picture.width) == (40, 60)
    assert picture.image.mode == "RGB"
    assert picture.image.size == (60, 40)
    assert picture.sha256 == hashlib.sha256(data).hexdigest()


def test_size_is_that_of_the_upright_picture() -> None:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    for file_format in ("JPEG", "TIFF", "PNG"):
        picture = decode(encoded(photo(), file_format, exif=exif), LIMITS, FIELD)
        assert (picture.height, picture.width) == (60, 40)


def test_no_bytes() -> None:
    assert_refused(b"", ImageUndecodableError, "no bytes")


def test_too_many_bytes() -> None:
    data = encoded(photo(), "PNG")
    assert_refused(data, ImageTooLargeError, "the limit is 100", ImageLimits(max_bytes=100))
    decode(data, ImageLimits(max_bytes=len(data)), FIELD)


@pytest.mark.parametrize("data", [b"\0", b"hello, world, no picture here", bytes(range(256)) * 9])
def test_not_a_picture(data: bytes) -> None:
    assert_refused(data, ImageUndecodableError, "not a picture")


@pytest.mark.parametrize("file_format", ["PPM", "ICO", "TGA", "PCX", "PDF", "EPS"])
def test_formats_pillow_reads_or_writes_but_we_do_not(file_format: str) -> None:
    assert_refused(encoded(photo(), file_format), ImageUndecodableError, "send one of JPEG, PNG")


def test_formats_the_operator_leaves_out() -> None:
    limits = replace(LIMITS, formats=("JPEG", "PNG"))
    data = encoded(photo(), "GIF")
    assert_refused(
        data, ImageUndecodableError, "GIF is not accepted; send one of JPEG, PNG", limits
    )


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    ("width", "height"), [(10_000, 10_000), (30_000, 30_000), (2**31 - 1, 2**31 - 1)]
)
def test_pixels_are_counted_before_any_is_decoded(width, height, monkeypatch) -> None:
    def load(self: ImageFile.ImageFile) -> None:
        raise AssertionError("decoded")

    monkeypatch.setattr(ImageFile.ImageFile, "load", load)
    started = time.monotonic()
    assert_refused(png_header(width, height), ImageTooLargeError, "the limit is 64000000")
    assert time.monotonic() - started < 1


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("file_format", ["JPEG", "PNG", "BMP"])
def test_pillows_own_pixel_limit_does_not_matter(file_format: str, monkeypatch) -> None:
    data = encoded(photo(), file_format)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    assert decode(data, LIMITS, FIELD).width == 60
    assert Image.MAX_IMAGE_PIXELS == 10


def test_pillows_own_refusals_are_typed(monkeypatch) -> None:
    def read(file: io.BytesIO, name: str) -> ImageFile.ImageFile:
        raise Image.DecompressionBombError("Image size exceeds limit of 178956970 pixels")

    monkeypatch.setitem(Image.OPEN, "PNG", (read, Image.OPEN["PNG"][1]))
    assert_refused(encoded(photo(), "PNG"), ImageTooLargeError, "the limit of 64000000")


@pytest.mark.parametrize("size", [(16383, 16383), (16000, 5000)])
def test_huge_webp_canvas(size: tuple[int, int]) -> None:
    assert_refused(webp_header(*size), ImageTooLargeError, "64000000")


def test_longest_side() -> None:
    assert_refused(png_header(65_536, 1), ImageTooLargeError, "limit of a side is 65535")
    assert decode(encoded(Image.new("RGB", (65_535, 1)), "PNG"), LIMITS, FIELD).width == 65_535


def test_a_side_of_zero() -> None:
    assert_refused(png_header(0, 10), ImageUndecodableError, FIELD[:5])


@pytest.mark.parametrize("file_format", ["GIF", "PNG", "WEBP", "TIFF"])
def test_more_than_one_frame(file_format: str) -> None:
    frames = [photo(), Image.new("RGB", (60, 40), "red")]
    data = encoded(frames[0], file_format, save_all=True, append_images=frames[1:])
    assert_refused(data, ImageUndecodableError, "animated or has several pages")


def test_previews_behind_a_jpeg_are_no_animation() -> None:
    data = encoded(photo(), "MPO", save_all=True, append_images=[photo(20, 30)])
    assert Image.open(io.BytesIO(data)).format == "MPO"
    assert decode(data, LIMITS, FIELD).width == 60


@pytest.mark.parametrize("file_format", FORMATS)
@pytest.mark.parametrize("kept", [0.1, 0.5, 0.9])
@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
def test_truncated_files(file_format: str, kept: float) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (80, 80, 3), dtype=np.uint8)
    options = {"compression": "tiff_lzw"} if file_format == "TIFF" else {}
    data = encoded(Image.fromarray(noise), file_format, **options)
    assert_refused(data[: int(len(data) * kept)], ImageUndecodableError, "broken|cut short")


def jpeg_of_scans(count: int) -> bytes:
    """A progressive JPEG whose last scan is there again and again."""
    data = encoded(photo(), "JPEG", progressive=True)
    starts = [match.start() for match in re.finditer(b"\xff\xda", data)]
    again = data[starts[-1] : -2]
    return data[:-2] + again * (count - len(starts)) + data[-2:]


def test_scans_of_a_jpeg() -> None:
    """20 MB of them over 64 million pixels took hours."""
    plain = decode(encoded(photo(), "JPEG", progressive=True), LIMITS, "image").image
    assert decode(jpeg_of_scans(100), LIMITS, "image").image.size == plain.size
    assert_refused(jpeg_of_scans(101), ImageUndecodableError, "more than 100 scans")
    assert_refused(jpeg_of_scans(5000), ImageUndecodableError, "more than 100 scans")
    # Fill bytes, restarts and stuffed zeros are none, nor do they hide one.
    hidden = jpeg_of_scans(101).replace(b"\xff\xda", b"\xff\xd0\xff\x00\xff\xff\xff\xda")
    assert_refused(hidden, ImageUndecodableError, "more than 100 scans")


def test_what_only_looks_like_scans_of_a_jpeg() -> None:
    data = encoded(photo(), "JPEG")
    plain = decode(data, LIMITS, "image").image.tobytes()
    looks = b"\xff\xda\x00\x02" * 300
    comment = b"\xff\xfe" + struct.pack(">H", len(looks) + 2) + looks
    for strange in (data + b"\x00\x02" + looks, data[:2] + comment + data[2:]):
        assert decode(strange, LIMITS, "image").image.tobytes() == plain


def test_a_broken_fax_fills_no_log(capfd) -> None:
    """libtiff would write a line to stderr for each row that it cannot read."""
    rows = np.random.default_rng(0).integers(0, 2, (500, 64), dtype=np.uint8) * 255
    data = bytearray(encoded(Image.fromarray(rows).convert("1"), "TIFF", compression="group4"))
    for at in range(20, len(data) - 200, 5):
        data[at] ^= 0x55
    assert_decoded_or_refused(bytes(data))
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    "exif", [b"Exif\0\0", b"Exif\0\0garbage", b"Exif\0\0MM\0*\xff\xff\xff\xff"]
)
@pytest.mark.parametrize("file_format", ["JPEG", "PNG", "WEBP"])
@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
def test_garbage_exif(exif: bytes, file_format: str) -> None:
    assert decode(encoded(photo(), file_format, exif=exif), LIMITS, FIELD).width == 60


@pytest.mark.parametrize("name", [b"zTXt", b"iCCP", b"iTXt"])
@pytest.mark.parametrize("before_pixels", [True, False])
def test_bombs_in_png_metadata(name: bytes, before_pixels: bool) -> None:
    bomb = zlib.compress(bytes(100_000_000), 9)
    body = b"Comment\0" + (b"\1\0\0\0" if name == b"iTXt" else b"\0") + bomb
    data = encoded(photo(), "PNG")
    at = data.index(b"IDAT") - 4 if before_pixels else data.index(b"IEND") - 4
    bombed = data[:at] + png_chunk(name, body) + data[at:]
    assert_decoded_or_refused(bombed)


SEEDS = [encoded(photo(12, 17), file_format) for file_format in FORMATS]
SEEDS.append(
    encoded(photo(12, 17), "GIF", save_all=True, append_images=[photo(12, 17).convert("L")])
)
SEEDS.append(encoded(photo(12, 17).convert("P"), "PNG", transparency=3))
SEEDS.append(encoded(photo(12, 17), "TIFF", compression="jpeg"))


@pytest.mark.filterwarnings("ignore")
@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    seed=st.sampled_from(SEEDS),
    edits=st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.binary(max_size=4)), max_size=6),
    kept=st.floats(0.05, 1),
)
def test_damaged_files_decode_or_are_refused(seed, edits, kept) -> None:
    data = bytearray(seed)
    for place, patch in edits:
        at = int(place * len(data))
        data[at : at + len(patch)] = patch
    assert_decoded_or_refused(bytes(data[: max(1, int(kept * len(data)))]))


@pytest.mark.filterwarnings("ignore")
@settings(max_examples=100, deadline=None)
@given(
    st.sampled_from([b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"BM", b"GIF89a", b"II*\0"]),
    st.binary(),
)
def test_random_bytes_after_a_signature(signature: bytes, rest: bytes) -> None:
    assert_decoded_or_refused(signature + rest)
