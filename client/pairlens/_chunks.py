"""Pictures grouped into requests."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Generic, TypeVar

from pairlens._images import EncodedImage, SentImage

_Image = TypeVar("_Image", bound=SentImage)

# What a picture's field, and a request, need beside files' bytes, generously.
_PICTURE_BYTES, _REQUEST_BYTES = 96, 512


class Chunker(Generic[_Image]):
    """Groups pictures into requests, in their order.

    Args:
        most: Pictures of a request, at least 1.
        max_bytes: Of a request that holds their files; a picture that is larger by itself has
            one of its own.
    """

    def __init__(self, most: int, max_bytes: int) -> None:
        self._most = most
        self._left = self._room = max_bytes - _REQUEST_BYTES
        self._chunk: list[_Image] = []

    def add(self, image: _Image) -> list[_Image]:
        """Take a picture; those of a request that is full now, else none."""
        size, full = request_bytes(image), []
        if self._chunk and (len(self._chunk) == self._most or size > self._left):
            full = self.rest()
        self._chunk.append(image)
        self._left -= size
        return full

    def rest(self) -> list[_Image]:
        """The pictures of the last request."""
        chunk, self._chunk, self._left = self._chunk, [], self._room
        return chunk


def chunks(images: Iterable[_Image], most: int, max_bytes: int) -> Iterator[list[_Image]]:
    """All requests of some pictures; arguments as of `Chunker`."""
    chunker: Chunker[_Image] = Chunker(most, max_bytes)
    for image in images:
        if full := chunker.add(image):
            yield full
    if rest := chunker.rest():
        yield rest


def request_bytes(*images: SentImage) -> int:
    """What pictures need in a request that holds their files, as far as they are here."""
    return sum(
        _PICTURE_BYTES + (image.size_bytes if isinstance(image, EncodedImage) else 0)
        for image in images
    )


def fit(images: Iterable[SentImage], max_bytes: int) -> bool:
    """Whether the files of all pictures go into one request."""
    return request_bytes(*images) <= max_bytes - _REQUEST_BYTES
