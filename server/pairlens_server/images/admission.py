"""Decoding of pictures that strangers send, within limits.

Cheap checks come first: a picture's size is known from its header before a single
pixel is decoded, since 171 KB of PNG can hold 176 million pixels.
"""

from __future__ import annotations

import ctypes
import hashlib
import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice

# Importing a plugin registers it; Pillow otherwise loads all of its readers.
from PIL import (
    BmpImagePlugin,  # noqa: F401
    GifImagePlugin,  # noqa: F401
    Image,
    ImageFile,
    JpegImagePlugin,  # noqa: F401
    PngImagePlugin,  # noqa: F401
    TiffImagePlugin,  # noqa: F401
    WebPImagePlugin,  # noqa: F401
    _imaging,
)

from pairlens.pictures import to_rgb
from pairlens_server.errors import (
    ImageTooLargeError,
    ImageUndecodableError,
    OutOfMemoryError,
    PairlensError,
)

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF")

# JPEG's own limit. A longer side is no photograph, and float32, in which regions
# travel, would no longer hold its edges to a fraction of a pixel.
_MAX_SIDE = 65_535
_PREFIX_BYTES = 16

# A JPEG's decoder goes over all pixels with each scan, and 95 bytes are one: a file of 20 MB could
# take hours. Encoders write about ten; libtiff, too, takes a hundred.
_MAX_SCANS = 100
_LIKE_A_SCAN = re.compile(rb"\xff\xda")
_START_OF_SCAN, _END_OF_IMAGE = 0xDA, 0xD9
# But for stuffed zeros and restarts, which are within a scan; the one without a length is TEM.
_JPEG_MARKER = re.compile(rb"\xff+([\x02-\xcf\xd8-\xfe])")


def _silence_libtiff() -> None:
    """Keep libtiff from writing to stderr, where a broken fax fills the log, a line for a row."""
    try:
        libtiff = ctypes.CDLL(_imaging.__file__)  # and whatever it is linked with
        for name in ("TIFFSetErrorHandler", "TIFFSetWarningHandler"):
            setter = getattr(libtiff, name)
            setter.argtypes, setter.restype = (ctypes.c_void_p,), ctypes.c_void_p
            setter(None)
    # A Pillow that has it built in, or none.
    except (OSError, AttributeError):
        return


_silence_libtiff()


@dataclass(frozen=True)
class ImageLimits:
    """What a picture may cost.

    Attributes:
        max_bytes: Longest file, in bytes.
        max_pixels: Largest height times width. Above 178 million, Pillow's readers
            of some formats refuse by themselves.
        formats: Accepted file formats, of `FORMATS`.
    """

    max_bytes: int = 20 * 1024 * 1024
    max_pixels: int = 64_000_000
    formats: tuple[str, ...] = FORMATS


@dataclass(frozen=True)
class Picture:
    """A decoded picture.

    Attributes:
        image: Upright, mode "RGB".
        sha256: Hex hash of the file's bytes.
        height, width: Of `image`, in pixels.
    """

    image: Image.Image
    sha256: str
    height: int
    width: int


def decode(data: bytes, limits: ImageLimits, field: str) -> Picture:
    """Checks and decodes an encoded picture.

    Args:
        data: The file.
        limits: What it may cost.
        field: Path of the request field that held it, for error messages.

    Returns:
        The picture, upright and in RGB.

    Raises:
        ImageTooLargeError: More bytes, pixels or pixels along one side than allowed.
        ImageUndecodableError: No bytes, no picture, a format not accepted, more than
            one frame, a JPEG of too many scans, or broken or truncated data.
    """
    with _opened(data, limits, field) as file:
        if file.format in ("JPEG", "MPO"):
            _check_scans(data, field)
        image = to_rgb(file)
    return Picture(image, hashlib.sha256(data).hexdigest(), image.height, image.width)


def measure(data: bytes, limits: ImageLimits, field: str) -> tuple[int, int]:
    """Reads a picture's size from its header, with all of `decode`'s checks of it.

    Returns:
        Its two sides in pixels, in the order of the file: EXIF may turn it later.

    Raises:
        ImageTooLargeError: As `decode`.
        ImageUndecodableError: As `decode`, except for broken data behind the header.
    """
    with _opened(data, limits, field) as file:
        width, height = file.size
        return height, width


def check_length(size_bytes: int, limits: ImageLimits, field: str) -> None:
    """Refuse a file by its length.

    Raises:
        ImageUndecodableError: It is empty.
        ImageTooLargeError: It is longer than allowed.
    """
    if not size_bytes:
        raise ImageUndecodableError(f"{field}: the picture has no bytes", field=field)
    if size_bytes > limits.max_bytes:
        raise ImageTooLargeError(
            f"{field}: the file has {size_bytes} bytes, the limit is {limits.max_bytes}",
            field=field,
        )


def check_size(height: int, width: int, limits: ImageLimits, field: str) -> None:
    """Refuse a picture by its size in pixels.

    Raises:
        ImageTooLargeError: More pixels, in all or along one side, than allowed.
    """
    if width * height > limits.max_pixels:
        raise ImageTooLargeError(
            f"{field}: {width} x {height} = {width * height} pixels, "
            f"the limit is {limits.max_pixels}",
            field=field,
        )
    if max(width, height) > _MAX_SIDE:
        raise ImageTooLargeError(
            f"{field}: {width} x {height} pixels, the limit of a side is {_MAX_SIDE}", field=field
        )


@contextmanager
def _opened(data: bytes, limits: ImageLimits, field: str) -> Iterator[ImageFile.ImageFile]:
    """The file behind its header checks; what Pillow raises in the block becomes typed."""
    check_length(len(data), limits, field)
    name = _format(data)
    if name not in limits.formats:
        accepted = ", ".join(limits.formats)
        found = f"{name} is not accepted" if name else "not a picture that can be read"
        raise ImageUndecodableError(f"{field}: {found}; send one of {accepted}", field=field)
    with _pillow_errors(name, limits, field):
        # Not Image.open, whose own pixel limit is a process-wide variable: it warns
        # below and fails above sizes that are for `limits` to decide.
        file = Image.OPEN[name][0](io.BytesIO(data), "")
        _check_header(file, limits, field)
        yield file


@contextmanager
def _pillow_errors(name: str, limits: ImageLimits, field: str) -> Iterator[None]:
    """Turns what Pillow raises into typed errors, without its texts."""
    try:
        yield
    except PairlensError:
        raise
    except Image.DecompressionBombError as error:
        raise ImageTooLargeError(
            f"{field}: more pixels than the limit of {limits.max_pixels}", field=field
        ) from error
    except MemoryError as error:
        raise OutOfMemoryError(
            f"{field}: no memory to decode this picture now", field=field, retry_after_s=1.0
        ) from error
    # Broken files raise whatever their decoder stumbles over: OSError, SyntaxError,
    # ValueError, IndexError, struct.error, zlib.error, OverflowError...
    except Exception as error:
        raise ImageUndecodableError(
            f"{field}: the {name} data is broken or cut short", field=field
        ) from error


def _format(data: bytes) -> str:
    """Format that the first bytes announce, "" for none of `FORMATS`."""
    prefix = data[:_PREFIX_BYTES]
    for name in FORMATS:
        accepts = Image.OPEN[name][1]
        # Anything but True is a text saying that this build of Pillow lacks the codec.
        if accepts is not None and accepts(prefix) is True:
            return name
    return ""


def _check_header(file: ImageFile.ImageFile, limits: ImageLimits, field: str) -> None:
    """Refuses by size and number of frames, before any pixel is decoded."""
    width, height = file.size
    check_size(height, width, limits, field)
    if width < 1 or height < 1:
        raise ImageUndecodableError(f"{field}: the picture has no pixels", field=field)
    # In MPO, a JPEG with further JPEGs behind it, phones keep previews and depth maps.
    if file.format != "MPO" and getattr(file, "is_animated", False):
        raise ImageUndecodableError(
            f"{field}: the picture is animated or has several pages; send one frame", field=field
        )


def _check_scans(data: bytes, field: str) -> None:
    """Refuses a JPEG that goes over its picture again and again."""
    # Almost always enough: a thumbnail, or what stands behind the picture, may hold some more.
    if next(islice(_LIKE_A_SCAN.finditer(data), _MAX_SCANS, None), None) is None:
        return
    scans, at = 0, 2
    while (found := _JPEG_MARKER.search(data, at)) and found[1][0] != _END_OF_IMAGE:
        scans += found[1][0] == _START_OF_SCAN
        if scans > _MAX_SCANS:
            raise ImageUndecodableError(
                f"{field}: a JPEG of more than {_MAX_SCANS} scans", field=field
            )
        at = found.end() + int.from_bytes(data[found.end() : found.end() + 2], "big")
