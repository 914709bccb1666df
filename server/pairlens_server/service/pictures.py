"""A picture on its way through a call: known by its hash, read only when it must be."""

from __future__ import annotations

import asyncio
import dataclasses
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from PIL import Image
from torch import Tensor

from pairlens.rendering import GridGeometry, rendered_size
from pairlens_server.errors import InvalidParameterError, PairlensError
from pairlens_server.images.admission import (
    ImageLimits,
    Picture,
    check_length,
    check_size,
    decode,
)
from pairlens_server.images.preprocess import grid_geometry, input_pixels
from pairlens_server.images.render import RenderOptions
from pairlens_server.images.sources import ImageSource
from pairlens_server.models.loaded import LoadedModel

SMALL_BYTES = 256 * 1024
"""Files that are hashed where the event loop runs: a thread would take longer to be woken."""


@dataclass(frozen=True, eq=False)
class ReadPicture:
    """What a call keeps of a decoded picture.

    Attributes:
        height, width: Of the upright picture, in pixels.
        pixels: The model's input: float32 [3, H, W], normalised, on the CPU; None where it was
            read for drawing alone.
        drawable: The picture at the size that will be drawn; None when nothing will.
    """

    height: int
    width: int
    pixels: Tensor | None
    drawable: Picture | None


@dataclass(eq=False)
class AdmittedPicture:
    """A picture of a call.

    Attributes:
        sha256: Hex hash of the file.
        size_bytes: Of the file.
        field: Path of the request field that held it, for error messages.
        options: What will be drawn over it, if anything.
        data: The file, where it is at hand.
        found: Where the cells of the model's maps lie on it, once its size is known.
        read: What decoding gave, once it was decoded.
    """

    sha256: str
    size_bytes: int
    field: str
    options: RenderOptions | None = None
    data: bytes | None = None
    found: GridGeometry | None = None
    read: ReadPicture | None = None
    reading: asyncio.Lock = dataclasses.field(default_factory=asyncio.Lock)

    @property
    def geometry(self) -> GridGeometry:
        """Where the cells of the model's maps lie on it.

        Raises:
            RuntimeError: Before anything was recorded of it.
        """
        if self.found is None:
            raise RuntimeError(f"the size of {self.field} is not known yet")
        return self.found

    def place(self, height: int, width: int, model: LoadedModel) -> None:
        """Keep the geometry of an upright picture of a height and a width."""
        self.found = grid_geometry(height, width, model.preprocessing, model.layout)


def identify(
    sources: Sequence[tuple[ImageSource, str]],
    limits: ImageLimits,
    options: RenderOptions | None,
) -> list[AdmittedPicture | PairlensError]:
    """Hash files and check lengths; a picture that cannot be used becomes its error.

    Args:
        sources: Pictures, each with its field.
        limits: Of each picture.
        options: What will be drawn over each.
    """
    return [_identified(source, field, limits, options) for source, field in sources]


def _identified(
    source: ImageSource, field: str, limits: ImageLimits, options: RenderOptions | None
) -> AdmittedPicture | PairlensError:
    try:
        if isinstance(source, bytes):
            check_length(len(source), limits, field)
            sha256 = hashlib.sha256(source).hexdigest()
            return AdmittedPicture(sha256, len(source), field, options, source)
        check_length(source.size_bytes, limits, field)
        return AdmittedPicture(source.sha256, source.size_bytes, field, options)
    except PairlensError as error:
        return error


def read(
    data: bytes,
    limits: ImageLimits,
    field: str,
    model: LoadedModel | None,
    options: RenderOptions | None,
) -> ReadPicture:
    """Decode a file and prepare it for a model and for drawing.

    Args:
        data: The file.
        limits: What it may cost.
        field: Path of the request field that held it.
        model: Whose input is made of it; None for nobody's.
        options: What will be drawn over it.

    Raises:
        ImageUndecodableError: Names `field`.
        ImageTooLargeError: Names `field` and the limit.
    """
    picture = decode(data, limits, field)
    return ReadPicture(
        picture.height,
        picture.width,
        None if model is None else input_pixels(picture, model.preprocessing),
        _shrunk(picture, options),
    )


def size_value(height: int, width: int, size_bytes: int) -> Tensor:
    """What is cached of a picture's size: int64 [3], of the upright picture and its file."""
    return torch.tensor([height, width, size_bytes], dtype=torch.int64)


def known_size(value: Tensor, picture: AdmittedPicture, limits: ImageLimits) -> tuple[int, int]:
    """Height and width of a cached size, under this server's limits.

    Raises:
        InvalidParameterError: The caller named another length of the file.
        ImageTooLargeError: It was read under other limits.
    """
    height, width, size_bytes = (int(number) for number in value)
    check_named_length(picture, size_bytes)
    check_size(height, width, limits, picture.field)
    return height, width


def check_named_length(picture: AdmittedPicture, size_bytes: int) -> None:
    """Refuse a digest that names another length than its file has.

    Raises:
        InvalidParameterError: Names the field.
    """
    if size_bytes != picture.size_bytes:
        raise InvalidParameterError(
            f"{picture.field}: the file of this hash has {size_bytes} bytes, not "
            f"{picture.size_bytes}",
            field=f"{picture.field}.digest.size_bytes",
        )


def _shrunk(picture: Picture, options: RenderOptions | None) -> Picture | None:
    if not draws(options):
        return None
    assert options is not None
    height, width = rendered_size(picture.height, picture.width, options.max_side)
    image = picture.image
    if (height, width) != (picture.height, picture.width):
        image = image.resize((width, height), Image.Resampling.BICUBIC, reducing_gap=2.0)
    return Picture(image, picture.sha256, height, width)


def draws(options: RenderOptions | None) -> bool:
    """Whether anything is to be drawn."""
    return options is not None and (options.overlay or options.upsampled)
