"""Pictures as callers have them, turned into the encoded bytes that travel."""

from __future__ import annotations

import hashlib
import io
import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import NoReturn, TypeAlias, TypeGuard, cast, overload

import numpy as np
import numpy.typing as npt
from PIL import Image

from pairlens.errors import ImageFileError, ImageUndecodableError, InvalidParameterError
from pairlens.pictures import to_rgb

_SHA256 = re.compile("[0-9a-f]{64}")


class NotAPictureError(TypeError):
    """What was given stands for no picture."""


@dataclass(frozen=True)
class StoredImage:
    """A picture that the server has, or whose results it has, known by its file's hash.

    It stands for a picture in every call, so that a back end that knows the hashes of its
    gallery needs none of its files. A call that has to look at one that the server does not
    have fails with `ImageMissingError`. Nothing is drawn over it here: results have their
    numbers, and what the server was asked to draw.

    Attributes:
        sha256: Of the file's bytes, 64 hex digits.
        size_bytes: Length of the file.
        name: What to call the picture, or "".

    Raises:
        InvalidParameterError: No such hash, or no positive length.
    """

    sha256: str
    size_bytes: int
    name: str = ""

    def __post_init__(self) -> None:
        lowered = self.sha256.lower() if isinstance(self.sha256, str) else ""
        if not _SHA256.fullmatch(lowered):
            raise InvalidParameterError(f"sha256 is 64 hex digits, not {self.sha256!r}")
        if isinstance(self.size_bytes, bool) or not isinstance(self.size_bytes, int):
            raise InvalidParameterError(f"size_bytes is a number, not {self.size_bytes!r}")
        if not 0 < self.size_bytes < 2**64:
            raise InvalidParameterError(f"size_bytes is positive, not {self.size_bytes}")
        object.__setattr__(self, "sha256", lowered)

    def picture(self) -> NoReturn:
        """There is nothing to decode.

        Raises:
            ImageFileError: Always.
        """
        raise ImageFileError(
            f"{self.name or 'the picture'}: its file is not here, only its hash ({self.sha256}); "
            "ask the server to draw (render=...)"
        )


@dataclass(frozen=True)
class EncodedImage:
    """A picture as it travels, kept so that results can be drawn over it.

    Attributes:
        data: The encoded file.
        name: What to call the picture: its file's name, or "" when it has none.
    """

    data: bytes = field(repr=False)
    name: str = ""

    @cached_property
    def sha256(self) -> str:
        """Of the file's bytes, 64 hex digits."""
        return hashlib.sha256(self.data).hexdigest()

    @property
    def hashed(self) -> bool:
        """Whether the hash is known already: it takes a millisecond per megabyte."""
        return "sha256" in self.__dict__

    @property
    def size_bytes(self) -> int:
        """Length of the file."""
        return len(self.data)

    def picture(self) -> Image.Image:
        """Decode: an upright RGB picture, new on each call.

        Raises:
            ImageUndecodableError: Pillow cannot read the bytes.
        """
        try:
            with Image.open(io.BytesIO(self.data)) as image:
                return to_rgb(image)
        except Exception as error:  # Pillow's readers raise nearly anything on broken data
            raise ImageUndecodableError(f"{self.name or 'the picture'}: {error}") from error


SentImage: TypeAlias = EncodedImage | StoredImage
"""A picture of a call: its file, or what it is known by."""

FileInput: TypeAlias = (
    str | os.PathLike[str] | bytes | bytearray | memoryview | Image.Image | npt.NDArray[np.generic]
)
"""What a picture's file is made of."""

ImageInput: TypeAlias = FileInput | StoredImage
"""What stands for a picture: a path, an encoded file's bytes, a PIL image, an array, or a
`StoredImage`.

Arrays are uint8 in [0, 255] or float in [0, 1], of shape [height, width] (grey),
[height, width, 3] (RGB) or [height, width, 4] (RGB and alpha).
"""

_ACCEPTED = (
    "a path, the bytes of an encoded file, a PIL image, or a numpy array (uint8, or float in "
    "[0, 1]; [height, width], [height, width, 3] or [height, width, 4])"
)
_FILES = (str, os.PathLike, bytes, bytearray, memoryview, Image.Image, np.ndarray)
_ONE = (*_FILES, EncodedImage, StoredImage)


@overload
def encode(image: FileInput | EncodedImage, *, field: str = "image") -> EncodedImage: ...


@overload
def encode(image: ImageInput | EncodedImage, *, field: str = "image") -> SentImage: ...


def encode(image: ImageInput | EncodedImage, *, field: str = "image") -> SentImage:
    """Encode a picture; paths and bytes stay as they are, the rest becomes PNG.

    Args:
        image: See `ImageInput`; what is encoded or stored is returned as it is.
        field: Name of the argument, for error messages.

    Raises:
        ImageFileError: The path cannot be read.
        ImageUndecodableError: The PIL image cannot be loaded.
        InvalidParameterError: Empty bytes, or an array that is not as in `ImageInput`.
        NotAPictureError: Anything else.
    """
    if isinstance(image, (EncodedImage, StoredImage)):
        return image
    if isinstance(image, (str, os.PathLike)):
        return _from_path(Path(os.fsdecode(image)), field)
    if isinstance(image, (bytes, bytearray, memoryview)):
        if not len(image):
            raise InvalidParameterError(f"{field} is empty", field=field)
        return EncodedImage(bytes(image))
    if isinstance(image, Image.Image):
        return _from_pil(image)
    if isinstance(image, np.ndarray):
        return EncodedImage(_png(Image.fromarray(_levels(image, field))))
    raise NotAPictureError(f"{field} is {_ACCEPTED}; not {type(image).__name__}")


def at_hand(image: ImageInput | EncodedImage) -> bool:
    """Whether encoding a picture neither reads a file nor compresses pixels."""
    return isinstance(image, (EncodedImage, StoredImage, bytes, bytearray, memoryview))


def encode_all(
    images: ImageInput | EncodedImage | Iterable[ImageInput | EncodedImage], *, field: str
) -> list[SentImage]:
    """Encode one picture or several; an array of four dimensions is several, too.

    Raises:
        Exception: As `encode`; the message names the picture ("candidates[3]").
    """
    return [encode(image, field=where) for image, where in each(images, field=field)]


def each(
    images: ImageInput | EncodedImage | Iterable[ImageInput | EncodedImage], *, field: str
) -> Iterator[tuple[ImageInput | EncodedImage, str]]:
    """One picture or several, one after the other, with the names of their fields.

    Raises:
        NotAPictureError: Neither.
    """
    if is_one(images):
        yield images, field
        return
    if not isinstance(images, Iterable):
        raise NotAPictureError(
            f"{field} holds pictures, each {_ACCEPTED}; not {type(images).__name__}"
        )
    # Neither bytes nor a text, whose elements are no pictures: those are one picture.
    for index, image in enumerate(cast("Iterable[ImageInput | EncodedImage]", images)):
        yield image, f"{field}[{index}]"


def is_one(images: object) -> TypeGuard[ImageInput | EncodedImage]:
    """Whether something is one picture; an array of four dimensions is several."""
    return isinstance(images, _ONE) and not (isinstance(images, np.ndarray) and images.ndim == 4)


def _from_path(path: Path, field: str) -> EncodedImage:
    try:
        data = path.read_bytes()
    except (OSError, ValueError) as error:  # ValueError: no file can be called so
        reason = getattr(error, "strerror", None) or str(error)
        raise ImageFileError(f"cannot read {path}: {reason}", field=field) from error
    if not data:
        raise ImageFileError(f"cannot read {path}: the file is empty", field=field)
    return EncodedImage(data, path.name)


def _from_pil(image: Image.Image) -> EncodedImage:
    name = Path(str(getattr(image, "filename", "") or "")).name
    try:
        return EncodedImage(_png(to_rgb(image)), name)
    except Exception as error:  # a lazily opened broken file
        raise ImageUndecodableError(f"{name or 'the PIL image'}: {error}") from error


def _levels(array: npt.NDArray[np.generic], field: str) -> npt.NDArray[np.uint8]:
    """Levels in [0, 255] of an array as `ImageInput` describes it; same shape."""

    def refuse(what: str) -> InvalidParameterError:
        return InvalidParameterError(f"{field} is {_ACCEPTED}; not an array {what}", field=field)

    colours = array.ndim == 2 or (array.ndim == 3 and array.shape[2] in (3, 4))
    if not colours or not array.size:
        raise refuse(f"of shape {array.shape}")
    if array.dtype == np.uint8:
        return np.ascontiguousarray(array, dtype=np.uint8)
    if not np.issubdtype(array.dtype, np.floating):
        raise refuse(f"of dtype {array.dtype}")
    values = array.astype(np.float32)
    low, high = float(values.min()), float(values.max())
    if not (low >= 0 and high <= 1):  # also true of NaN
        raise refuse(f"of floats from {low:g} to {high:g}")
    return np.rint(values * 255).astype(np.uint8)


def _png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    # Level 1 takes a fifth of the default's time for files a tenth longer.
    image.save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()
