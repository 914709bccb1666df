"""The pictures of a folder, found without opening them."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image


@dataclass(frozen=True)
class GalleryFile:
    """A file, and what tells that it was changed.

    Attributes:
        path: Relative to the folder, with "/" between folders.
        size: In bytes.
        mtime_ns: When it was last changed.
    """

    path: str
    size: int
    mtime_ns: int


@dataclass(frozen=True)
class Gallery:
    """Pictures of a folder, and how many other files lie there."""

    files: tuple[GalleryFile, ...]
    others: int


@dataclass(frozen=True)
class Shard:
    """One of several parts of a folder, each file of which is in exactly one.

    Attributes:
        index: From 1 to `count`.
        count: Of parts.
    """

    index: int
    count: int

    @classmethod
    def parse(cls, text: str) -> Shard:
        """Reads "2/8", the second of eight.

        Raises:
            ValueError: It is none.
        """
        match = re.fullmatch(r"([0-9]{1,9})/([0-9]{1,9})", text)
        if match is None or not 1 <= int(match[1]) <= int(match[2]):
            raise ValueError(f"{text!r} is not I/N with I from 1 to N")
        return cls(int(match[1]), int(match[2]))

    def holds(self, path: str) -> bool:
        """Whether a file is in this part; files that come and go change nothing for others."""
        digest = hashlib.sha256(path.encode("utf-8", "surrogateescape")).digest()
        return int.from_bytes(digest[:8], "big") % self.count == self.index - 1


def find_pictures(
    folder: Path, formats: Collection[str], *, recursive: bool, shard: Shard
) -> Gallery:
    """Find the files that by their names are pictures, in alphabetical order.

    Hidden files and folders are left out; links are followed.

    Args:
        folder: Where to look.
        formats: As Pillow names them ("JPEG"); empty for all.
        recursive: Whether to look in folders below.
        shard: What part of them.

    Raises:
        OSError: The folder cannot be read.
    """
    suffixes = {
        suffix
        for suffix, format_name in Image.registered_extensions().items()
        if not formats or format_name in formats
    }
    files: list[GalleryFile] = []
    others = 0
    for path in _walk(folder, recursive=recursive):
        if Path(path).suffix.lower() not in suffixes:
            others += 1
        elif shard.holds(path):
            try:
                about = (folder / path).stat()
            except OSError:  # gone, or a link to nothing: why is said when it is read
                files.append(GalleryFile(path, 0, 0))
            else:
                files.append(GalleryFile(path, about.st_size, about.st_mtime_ns))
    return Gallery(tuple(sorted(files, key=lambda file: file.path)), others)


def grouped(files: Sequence[GalleryFile], most: int, max_bytes: int) -> Iterator[list[GalleryFile]]:
    """Files in groups of at most so many, and of so many bytes unless one alone has more."""
    group: list[GalleryFile] = []
    size = 0
    for file in files:
        if group and (len(group) == most or size + file.size > max_bytes):
            yield group
            group, size = [], 0
        group.append(file)
        size += file.size
    if group:
        yield group


def _walk(root: Path, *, recursive: bool) -> Iterator[str]:
    def fail(error: OSError) -> None:
        if Path(error.filename) == root:
            raise error

    seen: set[str] = set()
    for folder, folders, names in os.walk(root, followlinks=True, onerror=fail):
        real = os.path.realpath(folder)
        known = real in seen  # a link to a folder above, or a second one to the same
        seen.add(real)
        folders[:] = sorted(name for name in folders if name[0] != ".") if recursive else []
        if known:
            folders.clear()
            continue
        for name in names:
            if name[0] != ".":
                yield Path(folder, name).relative_to(root).as_posix()
