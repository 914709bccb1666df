"""Pictures as the contract's fields: their files, or what they are known by."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import TypeAlias

from pairlens._images import EncodedImage, SentImage
from pairlens.v1 import common_pb2

ImageField: TypeAlias = Callable[[SentImage], common_pb2.Image]
"""Decides how a picture travels."""


def digest(image: SentImage) -> common_pb2.Digest:
    """What a picture is known by."""
    return common_pb2.Digest(sha256=bytes.fromhex(image.sha256), size_bytes=image.size_bytes)


def by_digest(image: SentImage) -> common_pb2.Image:
    """A picture that the server has."""
    return common_pb2.Image(digest=digest(image))


def inline(image: SentImage) -> common_pb2.Image:
    """A picture with its file; one whose file is not here as what it is known by."""
    if isinstance(image, EncodedImage):
        return common_pb2.Image(inline=image.data)
    return by_digest(image)


def choosing(hashes: Collection[str]) -> ImageField:
    """Files of these hashes travel as what they are known by, the others as they are."""
    # The hash of what travels inline is not needed: it costs a millisecond per megabyte.
    if not hashes:
        return inline
    return lambda image: by_digest(image) if image.sha256 in hashes else inline(image)
