"""Pictures grouped into requests."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TypeVar

from pairlens._images import EncodedImage, SentImage

_Image = TypeVar("_Image", bound=SentImage)

# What a picture's field, and a request, need beside files' bytes, generously.
_PICTURE_BYTES, _REQUEST_BYTES = 96, 512


def chunks(images: Iterable[_Image], most: int, max_bytes: int) -> Iterator[list[_Image]]:
    """Group pictures into requests, in their order.

    Args:
        images: Read one after the other.
        most: Pictures of a request, at least 1.
        max_bytes: Of a request that holds their files; a picture that is larger by itself has
            one of its own.
    """
    chunk: list[_Image] = []
    left = room = max_bytes - _REQUEST_BYTES
    for image in images:
        size = request_bytes(image)
        if chunk and (len(chunk) == most or size > left):
            yield chunk
            chunk, left = [], room
        chunk.append(image)
        left -= size
    if chunk:
        yield chunk


def request_bytes(*images: SentImage) -> int:
    """What pictures need in a request that holds their files, as far as they are here."""
    return sum(
        _PICTURE_BYTES + (image.size_bytes if isinstance(image, EncodedImage) else 0)
        for image in images
    )


def fit(images: Iterable[SentImage], max_bytes: int) -> bool:
    """Whether the files of all pictures go into one request."""
    return request_bytes(*images) <= max_bytes - _REQUEST_BYTES
