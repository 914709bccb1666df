"""The pictures of one call: admitted by their hashes, decoded where that is needed.

A call that names files by their hashes is short, however much memory the files take. So it holds
few at a time: those of the first bytes are fetched together, the others when they are decoded, and
each is let go once it was.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import TypeVar

from torch import Tensor

from pairlens_server.cache.keys import image_key, picture_key
from pairlens_server.cache.packing import Packed, pack
from pairlens_server.cache.redis_tier import WINDOW_BYTES
from pairlens_server.errors import (
    ImageMissingError,
    MissingImage,
    PairlensError,
)
from pairlens_server.images.admission import ImageLimits, Picture, measure
from pairlens_server.images.render import RenderOptions
from pairlens_server.images.sources import ImageSource
from pairlens_server.models.loaded import LoadedModel
from pairlens_server.recording.activations import Activation
from pairlens_server.service.call_cache import CallCache
from pairlens_server.service.gathering import IMAGE_JOBS
from pairlens_server.service.pictures import (
    SMALL_BYTES,
    AdmittedPicture,
    ReadPicture,
    check_named_length,
    draws,
    identify,
    known_size,
    read,
    size_value,
)
from pairlens_server.service.stopwatch import Stopwatch
from pairlens_server.telemetry.record import Stage

Result = TypeVar("Result")


@dataclass(frozen=True)
class Needs:
    """What is wanted of a picture.

    Attributes:
        activations: Those whose names are known.
        more: Whether there is more, under names that nobody knows yet, or that is kept nowhere:
            the picture has to be looked at.
    """

    activations: tuple[Activation, ...]
    more: bool = False


Wanted = Sequence[tuple[AdmittedPicture, Needs]]


class CallPictures:
    """Reads pictures as they are needed, each at most once, on a small pool."""

    def __init__(self, cache: CallCache, pool: Executor, limits: ImageLimits, watch: Stopwatch):
        self._cache = cache
        self._pool = pool
        self._limits = limits
        self._watch = watch
        self._jobs = asyncio.Semaphore(IMAGE_JOBS)
        self._fetched: set[AdmittedPicture] = set()  # whose files can be let go

    async def run(self, function: Callable[..., Result], *arguments: object) -> Result:
        """Run a function on the image pool; a call has few under way at a time."""
        async with self._jobs:
            return await self._on_pool(function, *arguments)

    async def take(
        self, sources: Sequence[tuple[ImageSource, str]], options: RenderOptions | None = None
    ) -> list[AdmittedPicture | PairlensError]:
        """Take on pictures: hash them and check their lengths.

        Args:
            sources: Pictures, each with its field; equal ones may occur.
            options: What will be drawn over each.

        Returns:
            For each the picture, or the error of that picture alone.
        """
        inline = sum(len(source) for source, _ in sources if isinstance(source, bytes))
        if inline > SMALL_BYTES:
            return await self.run(identify, sources, self._limits, options)
        return identify(sources, self._limits, options)

    async def look_up(self, wanted: Wanted, model: LoadedModel) -> None:
        """Fetch at once what is kept of pictures, their sizes included."""
        await self._cache.look_up(
            key for picture, needs in wanted for key in self._keys(picture, needs, model)
        )

    async def prepare(self, wanted: Wanted, model: LoadedModel) -> None:
        """Look up what is wanted, and make sure of the files that must be read for the rest.

        Nothing is decoded yet, and no more than `WINDOW_BYTES` of files is held. Whatever is
        missing is told here, before any model runs.

        Raises:
            ImageMissingError: Files that must be read are not there; lists all of them.
            InvalidParameterError: A digest names another length than its file has.
        """
        await self.look_up(wanted, model)
        unread: dict[int, AdmittedPicture] = {}
        for picture, needs in wanted:
            # Drawing needs the file itself.
            if draws(picture.options) or not self.kept([(picture, needs)], model):
                unread[id(picture)] = picture
        await self._make_sure(list(unread.values()))

    def kept(self, wanted: Wanted, model: LoadedModel) -> bool:
        """Whether all that is wanted was looked up and found."""
        return all(
            not needs.more and all(key in self._cache for key in self._keys(picture, needs, model))
            for picture, needs in wanted
        )

    async def measure(self, picture: AdmittedPicture) -> tuple[int, int]:
        """The two sides of a picture in pixels, without decoding it.

        Raises:
            ImageUndecodableError: Names the field.
            ImageTooLargeError: Names the field and the limit.
            InvalidParameterError: Its digest names another length than its file has.
            ImageMissingError: Its size is not known, nor is its file there.
        """
        known = self._known_size(picture)
        if known is not None:
            return known
        async with self._jobs:
            data = await self._file(picture)
            size = await self._on_pool(measure, data, self._limits, picture.field)
        if self._fetched_bytes > WINDOW_BYTES:
            self._let_go(picture)
        return size

    async def drawable(self, picture: AdmittedPicture, model: LoadedModel) -> Picture | None:
        """The picture at the size that will be drawn; None when nothing will.

        Raises:
            PairlensError: As `pixels`.
        """
        if not draws(picture.options):
            return None
        return (await self._read(picture, model, pixels=False)).drawable

    async def pixels(self, picture: AdmittedPicture, model: LoadedModel) -> Tensor:
        """The model's input: float32 [3, H, W], normalised, on the CPU.

        Raises:
            ImageUndecodableError: Names the field.
            ImageTooLargeError: Names the field and the limit.
            ImageMissingError: Its file must be read and is not there.
        """
        read = await self._read(picture, model, pixels=True)
        assert read.pixels is not None
        return read.pixels

    async def settle(self, picture: AdmittedPicture, model: LoadedModel) -> None:
        """Make sure that the picture's geometry is known.

        Raises:
            PairlensError: As `pixels`.
        """
        if picture.found is not None:
            return
        known = self._known_size(picture)
        if known is not None:
            picture.place(*known, model)
        else:
            # Whoever has yet to look at it will find the pixels there.
            await self._read(picture, model, pixels=True)

    def _known_size(self, picture: AdmittedPicture) -> tuple[int, int] | None:
        size = self._cache.at_hand(picture_key(picture.sha256))
        return (
            known_size(size.unpack(), picture, self._limits) if isinstance(size, Packed) else None
        )

    def _keys(self, picture: AdmittedPicture, needs: Needs, model: LoadedModel) -> list[str]:
        names = (self._cache.key(model, a, picture.sha256) for a in needs.activations)
        return [picture_key(picture.sha256), *names]

    async def _make_sure(self, pictures: Sequence[AdmittedPicture]) -> None:
        """Fetch files of pictures that came by digest, and see that the others are there."""
        room = WINDOW_BYTES - self._fetched_bytes
        near: list[AdmittedPicture] = []
        far: list[AdmittedPicture] = []
        for picture in pictures:
            if picture.data is None and (picture.read is None or picture.read.pixels is None):
                room -= picture.size_bytes
                (near if room >= 0 else far).append(picture)
        missing = await self._fetch(near)
        if far:
            absent = await self._cache.absent(image_key(p.sha256) for p in far)
            missing += [p for p in far if image_key(p.sha256) in absent]
        _check_none_missing(missing)

    async def _fetch(self, pictures: Sequence[AdmittedPicture]) -> list[AdmittedPicture]:
        """Fetch files of pictures; those whose files are not there."""
        if not pictures:
            return []
        found = await self._cache.files({image_key(p.sha256): p.size_bytes for p in pictures})
        missing = []
        for picture in pictures:
            data = found.get(image_key(picture.sha256))
            if isinstance(data, bytes):
                check_named_length(picture, len(data))
                picture.data = data
                self._fetched.add(picture)
            else:
                missing.append(picture)
        return missing

    async def _file(self, picture: AdmittedPicture) -> bytes:
        if picture.data is None:
            _check_none_missing(await self._fetch([picture]))
        assert picture.data is not None
        return picture.data

    @property
    def _fetched_bytes(self) -> int:
        return sum(picture.size_bytes for picture in self._fetched)

    def _let_go(self, picture: AdmittedPicture) -> None:
        """Drop a file that can be fetched again."""
        if picture in self._fetched:
            self._fetched.remove(picture)
            picture.data = None

    async def _read(
        self, picture: AdmittedPicture, model: LoadedModel, *, pixels: bool
    ) -> ReadPicture:
        async with picture.reading:
            found = picture.read
            if found is None or (pixels and found.pixels is None):
                found = await self._decode(picture, model if pixels else None)
                picture.read = found
                picture.place(found.height, found.width, model)
                self._remember_size(picture, found)
                self._let_go(picture)
            return found

    def _remember_size(self, picture: AdmittedPicture, found: ReadPicture) -> None:
        key = picture_key(picture.sha256)
        if self._cache.held(key) is None:
            size = size_value(found.height, found.width, picture.size_bytes)
            known = {key: pack(size, self._cache.precision, exact=True)}
            self._cache.hold(known)
            self._cache.store(known)

    async def _decode(self, picture: AdmittedPicture, model: LoadedModel | None) -> ReadPicture:
        # The file is fetched when its turn has come, and not before.
        async with self._jobs:
            data = await self._file(picture)
            with self._watch.stage(Stage.DECODE):
                return await self._on_pool(
                    read, data, self._limits, picture.field, model, picture.options
                )

    async def _on_pool(self, function: Callable[..., Result], *arguments: object) -> Result:
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._pool, function, *arguments)


def _check_none_missing(pictures: Sequence[AdmittedPicture]) -> None:
    if pictures:
        raise ImageMissingError([MissingImage(p.field, p.sha256, p.size_bytes) for p in pictures])
