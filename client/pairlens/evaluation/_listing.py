"""Files of a data set with their labels, not yet opened."""

from __future__ import annotations

import csv
import math
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from PIL import Image

from pairlens.errors import InvalidParameterError
from pairlens.evaluation import journal
from pairlens.evaluation.records import SkippedFile
from pairlens.rendering import Box

_WORDNET = re.compile(r"(n\d{8})_(.+)")
_INDEXED = re.compile(r"(\d{3,4})_(?:n\d{8}_)?(.+)")
_IMAGENET_CLASSES = 1000
_BOX = ("left", "top", "right", "bottom")


@dataclass(frozen=True)
class Listed:
    """A file, as `LabelledImage` without its contents."""

    path: str
    label: str = ""
    imagenet_index: int | None = None
    boxes: tuple[Box, ...] = ()


@dataclass(frozen=True)
class Listing:
    """Files of a data set below its root, and those that have no class."""

    root: Path
    files: tuple[Listed, ...]
    skipped: tuple[SkippedFile, ...] = ()


def list_files(path: Path) -> Listing:
    """Files and labels of a folder or a CSV file; see `read_dataset`.

    Raises:
        InvalidParameterError: No such folder or file, or a CSV of another form.
    """
    if path.is_dir():
        return _folder(path)
    if path.is_file():
        return _table(path)
    raise InvalidParameterError(f"no such folder or file: {path}", field="dataset")


def check_apart(data: Path, directory: Path) -> None:
    """Refuse a run's directory whose files would be taken for pictures of the data set.

    A folder in a data set that holds a journal is no part of it, so that a run may write
    there, but not among the pictures.

    Args:
        data: As in `list_files`.
        directory: Of the run.

    Raises:
        InvalidParameterError: It is the data set's folder, or one in it that holds
            something else than a run.
    """
    root, own = data.resolve(), directory.resolve()
    if not data.is_dir() or root not in (own, *own.parents):
        return
    if own == root or (_holds_any(own) and not (own / journal.NAME).exists()):
        raise InvalidParameterError(
            f"{directory} is a folder of the data set; write to another", field="directory"
        )


def _holds_any(folder: Path) -> bool:
    return folder.is_dir() and any(folder.iterdir())


def _folder(root: Path) -> Listing:
    paths = sorted(_walk(root))
    nested = [path for path in paths if "/" in path]
    if not nested:
        return Listing(root, tuple(_flat(paths)))
    reason = "lies in no class folder"
    return Listing(
        root,
        tuple(Listed(path, path.split("/", 1)[0]) for path in nested),
        tuple(SkippedFile(path, reason) for path in paths if "/" not in path),
    )


def _walk(root: Path) -> Iterator[str]:
    """Paths of files below a folder, but hidden ones and those of runs; links are followed."""
    seen: set[str] = set()
    for folder, folders, names in os.walk(root, followlinks=True):
        real = os.path.realpath(folder)
        folders[:] = [] if real in seen else [name for name in folders if name[0] != "."]
        if real in seen:  # a link to a folder above, or a second one to the same
            continue
        seen.add(real)
        if journal.NAME in names and Path(folder) != root:
            folders.clear()
            continue
        for name in names:
            if name[0] != ".":
                yield Path(folder, name).relative_to(root).as_posix()


def _flat(paths: Sequence[str]) -> list[Listed]:
    """Labels from ImageNet's file names, if all pictures have such names."""
    extensions = Image.registered_extensions()
    stems = {path: Path(path).stem for path in paths if Path(path).suffix.lower() in extensions}
    wordnet = {path: _WORDNET.fullmatch(stem) for path, stem in stems.items()}
    if stems and all(wordnet.values()):
        matches = {path: match for path, match in wordnet.items() if match}
        ids = sorted({match.group(1) for match in matches.values()})
        index = {id_: place for place, id_ in enumerate(ids)}
        return [
            Listed(
                path,
                _words(matches[path].group(2)),
                index[matches[path].group(1)] if len(ids) == _IMAGENET_CLASSES else None,
            )
            if path in matches
            else Listed(path)
            for path in paths
        ]
    indexed = {path: _INDEXED.fullmatch(stem) for path, stem in stems.items()}
    found = {path: match for path, match in indexed.items() if match}
    if stems and len(found) == len(stems):
        numbers = {path: int(match.group(1)) for path, match in found.items()}
        if max(numbers.values()) < _IMAGENET_CLASSES:
            return [
                Listed(path, _words(found[path].group(2)), numbers[path])
                if path in found
                else Listed(path)
                for path in paths
            ]
    return [Listed(path) for path in paths]


def _words(text: str) -> str:
    return " ".join(text.replace("_", " ").split())


def _table(path: Path) -> Listing:
    with path.open(newline="", encoding="utf-8-sig") as file:
        try:
            return Listing(path.parent, tuple(_rows(csv.DictReader(file), path.name)))
        except (csv.Error, UnicodeDecodeError) as error:
            raise _bad(path.name, f"is no CSV: {error}") from error


def _rows(reader: csv.DictReader[str], name: str) -> list[Listed]:
    columns = [column.strip() for column in reader.fieldnames or ()]
    if not {"path", "label"} <= set(columns):
        raise _bad(name, "needs the columns path and label in its first line")
    if set(_BOX) & set(columns) and not set(_BOX) <= set(columns):
        raise _bad(name, f"has boxes, which need the columns {', '.join(_BOX)}")
    reader.fieldnames = columns
    found: dict[str, Listed] = {}
    for row in reader:
        line = f"{name}, line {reader.line_num}"
        path, label = (row["path"] or "").strip(), (row["label"] or "").strip()
        if not path:
            raise _bad(line, "has no path")
        known = found.setdefault(path, Listed(path, label))
        if known.label != label:
            raise _bad(line, f"gives {path} the label {label!r} after {known.label!r}")
        found[path] = replace(known, boxes=(*known.boxes, *_box(row, line)))
    return list(found.values())


def _box(row: dict[str, str], line: str) -> list[Box]:
    texts = [(row.get(edge) or "").strip() for edge in _BOX]
    if not any(texts):
        return []
    try:
        edges = [float(text) for text in texts]
    except ValueError:
        raise _bad(line, f"has a box that is no four numbers: {', '.join(texts)}") from None
    if not all(map(math.isfinite, edges)):
        raise _bad(line, f"has a box that is not finite: {', '.join(texts)}")
    return [Box(*edges)]


def _bad(where: str, what: str) -> InvalidParameterError:
    return InvalidParameterError(f"{where} {what}", field="dataset")
