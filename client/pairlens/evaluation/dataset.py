"""Labelled pictures in files: which there are, which can be used, and which are chosen."""

from __future__ import annotations

import hashlib
import itertools
import json
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
from PIL import Image

from pairlens._images import EncodedImage, encode
from pairlens.errors import ImageFileError, InvalidParameterError
from pairlens.evaluation._listing import Listed, list_files
from pairlens.evaluation.protocol import UnusableFileError
from pairlens.evaluation.records import SkippedFile
from pairlens.models import Limits, ModelInfo
from pairlens.pictures import to_rgb
from pairlens.rendering import Box

_READERS = 4
_IMAGENET_CLASSES = 1000


@dataclass(frozen=True)
class LabelledImage:
    """A picture's file and what it shows.

    Attributes:
        path: Relative to the data set's root, with "/" between folders; its key.
        label: Class, as the data set spells it; "" where there are none.
        imagenet_index: In [0, 1000), where the file's name says it.
        boxes: Where the object is, in pixels of the upright picture; may be empty.
        digest: SHA-256 of the file (hex).
    """

    path: str
    label: str
    imagenet_index: int | None
    boxes: tuple[Box, ...]
    digest: str


@dataclass(frozen=True)
class Dataset:
    """Pictures that can be read, chosen with a seed; read again whenever they are used.

    Attributes:
        root: Folder to which paths are relative.
        images: Class after class in turn, so that every prefix holds equally many of each,
            as far as there are so many.
        skipped: Files that cannot be used.
    """

    root: Path
    images: tuple[LabelledImage, ...]
    skipped: tuple[SkippedFile, ...] = ()

    def __len__(self) -> int:
        return len(self.images)

    @cached_property
    def by_path(self) -> Mapping[str, LabelledImage]:
        """Pictures by their paths."""
        return {image.path: image for image in self.images}

    @cached_property
    def by_label(self) -> Mapping[str, tuple[LabelledImage, ...]]:
        """Pictures by their classes, classes in alphabetical order."""
        found: defaultdict[str, list[LabelledImage]] = defaultdict(list)
        for image in self.images:
            found[image.label].append(image)
        return {label: tuple(found[label]) for label in sorted(found)}

    @cached_property
    def digest(self) -> str:
        """SHA-256 (hex) of paths, contents and labels; the order does not matter."""
        lines = sorted(
            (image.path, image.digest, image.label, image.imagenet_index, _edges(image.boxes))
            for image in self.images
        )
        return hashlib.sha256(json.dumps(lines).encode()).hexdigest()

    def file(self, image: LabelledImage | str) -> Path:
        """Where a picture lies, by itself or by its path."""
        return self.root / (image if isinstance(image, str) else image.path)

    def encoded(self, path: str) -> EncodedImage:
        """A picture's file as it travels.

        Raises:
            UnusableFileError: It cannot be read any more.
        """
        try:
            return encode(self.file(path))
        except ImageFileError as error:
            # Of the message without the path, which is this machine's.
            raise UnusableFileError(path, error.message.rpartition(": ")[2]) from error

    def picture(self, image: LabelledImage | str) -> Image.Image:
        """The picture, upright and in RGB; errors are Pillow's."""
        with Image.open(self.file(image)) as opened:
            return to_rgb(opened)


def read_dataset(
    path: Path | str,
    *,
    per_class: int | None = None,
    limit: int | None = None,
    seed: int = 0,
    limits: Limits | None = None,
) -> Dataset:
    """Find, check and choose the pictures of a data set.

    Every chosen file is decoded once and hashed. A file that cannot be used gives its
    place to another of its class, and a folder that an evaluation wrote holds none.

    Args:
        path: A folder with a folder for each class, whose name is the label; a folder of
            ImageNet sample pictures ("n01440764_tench.JPEG", or "0005_..." with the class
            index), or of any pictures, which have no label then; or a CSV file with the
            columns path (relative to the file's folder) and label, and where boxes are
            known left, top, right and bottom in pixels, one line a box.
        per_class: Most pictures of each class; None for all.
        limit: Most pictures of all classes together; None for all.
        seed: Of the choice.
        limits: Of the server: files that it would refuse are skipped.

    Raises:
        InvalidParameterError: No such folder or file, a CSV of another form, no picture
            that can be used, or a number below 1.
    """
    for name, number in (("per_class", per_class), ("limit", limit)):
        if number is not None and number < 1:
            raise InvalidParameterError(f"{name} is at least 1, not {number}", field=name)
    listing = list_files(Path(path))
    queues = _queues(listing.files, seed)
    chosen, unusable = _choose(listing.root, queues, per_class, limit, limits)
    skipped = sorted((*listing.skipped, *unusable), key=lambda file: file.path)
    if not chosen:
        reasons = "; ".join(f"{file.path}: {file.reason}" for file in skipped[:3])
        raise InvalidParameterError(
            f"no picture in {path} can be used" + (f" ({reasons})" if reasons else ""),
            field="dataset",
        )
    return Dataset(listing.root, tuple(chosen), tuple(skipped))


def class_finder(model: ModelInfo) -> Callable[[LabelledImage], int | None]:
    """What tells the model's class of a picture; None where the model does not know it.

    A label is one of the model's if it is the same text, or one of the names that the
    model's label lists between commas; case and underscores do not count. What two classes
    share is neither. ImageNet's own index counts for models of 1000 classes, and a label
    that is a number for those of which it is no name.
    """
    whole: defaultdict[str, set[int]] = defaultdict(set)
    names: defaultdict[str, set[int]] = defaultdict(set)
    for index, label in enumerate(model.labels):
        whole[_folded(label)].add(index)
        for name in label.split(","):
            names[_folded(name)].add(index)

    def find(image: LabelledImage) -> int | None:
        if image.imagenet_index is not None and model.classes == _IMAGENET_CLASSES:
            return image.imagenet_index
        label = _folded(image.label)
        for known in (whole, names):
            if len(known.get(label, ())) == 1:
                return next(iter(known[label]))
        if label.isdecimal() and int(label) < model.classes:
            return int(label)
        return None

    return find


def _folded(label: str) -> str:
    return " ".join(label.replace("_", " ").casefold().split())


def _edges(boxes: Sequence[Box]) -> list[tuple[float, float, float, float]]:
    return [(box.left, box.top, box.right, box.bottom) for box in boxes]


def _queues(files: Sequence[Listed], seed: int) -> list[list[Listed]]:
    """Files of each class in the order of their choice, classes in a seeded order."""

    def drawn(*parts: object) -> bytes:
        # Sorting by hashes is a draw that other files of the data set do not change.
        return hashlib.sha256("\0".join(map(str, (seed, *parts))).encode()).digest()

    classes: defaultdict[str, list[Listed]] = defaultdict(list)
    for file in sorted(files, key=lambda file: drawn("picture", file.path)):
        classes[file.label].append(file)
    return [classes[label] for label in sorted(classes, key=lambda label: drawn("class", label))]


def _choose(
    root: Path,
    queues: Sequence[Sequence[Listed]],
    per_class: int | None,
    limit: int | None,
    limits: Limits | None,
) -> tuple[list[LabelledImage], list[SkippedFile]]:
    """The first usable files of each class, in turn; no more files are read than needed."""
    usable: list[list[LabelledImage]] = [[] for _ in queues]
    read = [0] * len(queues)
    unusable: list[SkippedFile] = []
    longest = max(map(len, queues), default=0)
    share = longest if limit is None else -(-limit // max(len(queues), 1))
    quota = min(longest, share, per_class or longest)

    with ThreadPoolExecutor(_READERS) as executor:
        while True:
            wanted = [
                (index, file)
                for index, queue in enumerate(queues)
                for file in queue[read[index] : read[index] + quota - len(usable[index])]
            ]
            if not wanted:
                # Classes that ran out leave room for more of the others.
                missing = limit is not None and sum(map(len, usable)) < limit
                if not missing or quota >= min(longest, per_class or longest):
                    break
                quota += 1
                continue
            checks = executor.map(lambda item: _check(root, item[1], limits), wanted)
            for (index, file), checked in zip(wanted, checks, strict=True):
                read[index] += 1
                if isinstance(checked, LabelledImage):
                    usable[index].append(checked)
                else:
                    unusable.append(SkippedFile(file.path, checked))
    return list(itertools.islice(_in_turn(usable), limit)), unusable


def _in_turn(queues: Sequence[Sequence[LabelledImage]]) -> Iterator[LabelledImage]:
    for layer in itertools.zip_longest(*queues):
        yield from (image for image in layer if image is not None)


def _check(root: Path, file: Listed, limits: Limits | None) -> LabelledImage | str:
    """The picture, or why it cannot be used."""
    place = root / file.path
    try:
        size = place.stat().st_size
        # A limit of 0 is one that the server does not tell.
        if limits is not None and 0 < limits.max_image_bytes < size:
            return f"{size} bytes are over the server's limit of {limits.max_image_bytes}"
        with Image.open(place) as image:
            refusal = _refusal(image, limits)
            if refusal:
                return refusal
            width, height = to_rgb(image).size
        outside = _outside(file.boxes, width, height)
        if outside:
            return outside
        data = place.read_bytes()
    except OSError as error:  # Pillow's "cannot identify image file" has no strerror
        return error.strerror or "no picture, or a broken one"
    except Exception as error:  # Pillow's readers raise nearly anything on broken data
        return f"a broken picture: {error}"
    known = LabelledImage(file.path, file.label, file.imagenet_index, file.boxes, digest="")
    return replace(known, digest=hashlib.sha256(data).hexdigest())


def _refusal(image: Image.Image, limits: Limits | None) -> str:
    """Why the server would refuse the picture, of what its header says."""
    if getattr(image, "is_animated", False):
        return "an animated picture"
    if limits is None:
        return ""
    if limits.image_formats and image.format not in limits.image_formats:
        return f"{image.format} files are not among those the server takes"
    pixels = int(np.prod(image.size, dtype=np.int64))
    if 0 < limits.max_image_pixels < pixels:
        return f"{pixels} pixels are over the server's limit of {limits.max_image_pixels}"
    return ""


def _outside(boxes: Sequence[Box], width: int, height: int) -> str:
    for left, top, right, bottom in _edges(boxes):
        if not (0 <= left < right <= width and 0 <= top < bottom <= height):
            return f"box {left:g},{top:g},{right:g},{bottom:g} is outside of {width} x {height}"
    return ""
