"""Pictures kept by content: which are missing, and taking those that are."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Sequence
from concurrent.futures import Executor

from pairlens_server.cache.keys import image_key
from pairlens_server.cache.tiers import Cache
from pairlens_server.errors import (
    ImagesNotKeptError,
    ImageTooLargeError,
    InvalidParameterError,
    PairlensError,
)
from pairlens_server.images.admission import ImageLimits, measure
from pairlens_server.images.sources import ImageDigest
from pairlens_server.service.limits import ServiceLimits, check_count
from pairlens_server.telemetry.record import Stage, staged

Upload = tuple[bytes, ImageDigest | None]
"""A file, and what the client takes its digest to be."""


class ImageStore:
    """Keeps uploaded files in the cache's tiers."""

    def __init__(self, cache: Cache, pool: Executor, limits: ServiceLimits):
        self._cache = cache
        self._pool = pool
        self._limits = limits

    async def find_missing(self, digests: Sequence[ImageDigest]) -> list[ImageDigest]:
        """Which files are not there, in order, each once; the others are kept on.

        Raises:
            ImagesNotKeptError: No files are kept.
            InvalidParameterError: No digest, or too many.
        """
        self._check()
        check_count(digests, self._limits.max_digests, "digests")
        by_key: dict[str, ImageDigest] = {}
        for digest in digests:
            by_key.setdefault(image_key(digest.sha256), digest)
        with staged(Stage.CACHE_GET):
            missing = await self._cache.missing(list(by_key))
        return [digest for key, digest in by_key.items() if key in missing]

    async def upload(self, files: Sequence[Upload]) -> list[ImageDigest | PairlensError]:
        """Hash files, read their headers, and keep them; one that is refused fails alone.

        When it returns, every server that shares the Redis finds them.

        Raises:
            ImagesNotKeptError: No files are kept.
            InvalidParameterError: No file, or too many.
        """
        self._check()
        check_count(files, self._limits.max_candidates + 1, "images")
        with staged(Stage.DECODE):
            found = await asyncio.get_running_loop().run_in_executor(
                self._pool, _checked, files, self._limits.images, self._cache.largest_image_bytes
            )
        sound = {
            image_key(digest.sha256): data
            for digest, (data, _) in zip(found, files, strict=True)
            if isinstance(digest, ImageDigest)
        }
        with staged(Stage.CACHE_PUT):
            await self._cache.keep(sound)
        return found

    def _check(self) -> None:
        if not self._cache.keeps_images:
            raise ImagesNotKeptError("this server keeps no images; send them inline")


def _checked(
    files: Sequence[Upload], limits: ImageLimits, largest: int
) -> list[ImageDigest | PairlensError]:
    return [_one(*file, f"images[{i}].data", limits, largest) for i, file in enumerate(files)]


def _one(
    data: bytes, named: ImageDigest | None, field: str, limits: ImageLimits, largest: int
) -> ImageDigest | PairlensError:
    try:
        measure(data, limits, field)
    except PairlensError as error:
        return error
    if len(data) > largest:
        return ImageTooLargeError(
            f"{field}: the file has {len(data)} bytes; this server keeps files up to {largest}",
            field=field,
        )
    found = ImageDigest(hashlib.sha256(data).hexdigest(), len(data))
    if named is not None and named != found:
        return InvalidParameterError(
            f"{field}: the file's hash is {found.sha256} of {found.size_bytes} bytes, not what the "
            "digest says",
            field=field.replace(".data", ".digest"),
        )
    return found
