"""Read Tiny ImageNet and Caltech-101 once, into cached uint8 tensors.

Pictures are stretched to a square with Pillow's antialiased bilinear filter, as the service does.
The caches are scratch: Tiny ImageNet pictures must never be shipped.
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

HELD_OUT_STRIDE = 5  # every fifth training class of Caltech-101 is for model selection


@dataclass(frozen=True)
class ImageSet:
    """Pictures with class numbers."""

    images: Tensor
    """uint8 [n, 3, side, side]"""
    labels: Tensor
    """int64 [n]"""
    names: list[str]
    """File of each picture, relative to its data set."""
    classes: list[str]
    """Name of each class number."""

    def __len__(self) -> int:
        """Return the number of pictures."""
        return len(self.labels)

    def only(self, classes: Iterable[int]) -> ImageSet:
        """Return the pictures of `classes`, renumbered from 0 in the order given."""
        order = {int(c): i for i, c in enumerate(classes)}
        keep = [i for i, c in enumerate(self.labels.tolist()) if c in order]
        labels = torch.tensor([order[int(self.labels[i])] for i in keep])
        names = [self.names[i] for i in keep]
        return ImageSet(self.images[keep], labels, names, [self.classes[c] for c in order])


def read_labels(data: Path) -> list[tuple[str, str]]:
    """Return (wnid, words) of the 200 Tiny ImageNet classes, in the order of `labels.txt`."""
    lines = (data / "tiny-imagenet" / "labels.txt").read_text(encoding="utf-8").splitlines()
    return [(wnid, words) for wnid, words in (line.split("\t", 1) for line in lines if line)]


def load_tiny(data: Path, cache: Path, split: str, side: int = 64) -> ImageSet:
    """Return Tiny ImageNet's `split` ("train" or "val") at `side` pixels."""
    return _cached(cache / f"tiny-{split}-{side}.pt", lambda: _read_tiny(data, split, side))


def load_caltech(data: Path, cache: Path, split: str, side: int) -> ImageSet:
    """Return Caltech-101's `split` ("train": 50 classes, "test": 30 others) at `side` pixels."""
    return _cached(cache / f"caltech-{split}-{side}.pt", lambda: _read_caltech(data, split, side))


def load_boxes(data: Path, val: ImageSet) -> Tensor:
    """Return float [n, 4], the boxes x0, y0, x1, y1 of Tiny ImageNet val, in 0..1 of each side."""
    lines = (data / "tiny-imagenet" / "val_boxes.tsv").read_text(encoding="utf-8").splitlines()[1:]
    boxes = {name: [int(v) for v in rest] for name, _, *rest in (row.split("\t") for row in lines)}
    pixels = torch.tensor([boxes[Path(name).name] for name in val.names], dtype=torch.float32)
    return (pixels + torch.tensor([0.0, 0.0, 1.0, 1.0])) / 64  # the corners are inclusive


def held_out_classes(total: int) -> tuple[list[int], list[int]]:
    """Split class numbers 0..total-1 into those to train on and those to select models with."""
    held = list(range(HELD_OUT_STRIDE // 2, total, HELD_OUT_STRIDE))
    return [c for c in range(total) if c not in held], held


def _cached(path: Path, make) -> ImageSet:
    if path.exists():
        return ImageSet(**torch.load(path, weights_only=True))
    made: ImageSet = make()
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(vars(made), path)
    return made


def _decode(source: Path | io.BytesIO, side: int) -> np.ndarray:
    """Return uint8 [side, side, 3]."""
    image = Image.open(source).convert("RGB")
    if image.size != (side, side):
        image = image.resize((side, side), Image.Resampling.BILINEAR)
    return np.asarray(image)


def _image_set(rows: list[tuple[np.ndarray, int, str]], classes: list[str]) -> ImageSet:
    pixels = torch.from_numpy(np.stack([row[0] for row in rows])).permute(0, 3, 1, 2).contiguous()
    labels = torch.tensor([row[1] for row in rows])
    return ImageSet(pixels, labels, [row[2] for row in rows], classes)


def _read_tiny(data: Path, split: str, side: int) -> ImageSet:
    root = data / "tiny-imagenet"
    classes = [wnid for wnid, _ in read_labels(data)]
    number = {wnid: i for i, wnid in enumerate(classes)}
    boxes = (root / "val_boxes.tsv").read_text(encoding="utf-8").splitlines()[1:]
    val_class = {line.split("\t")[0]: line.split("\t")[1] for line in boxes}
    rows = []
    for archive in sorted(root.glob(f"{split}*.zip")):
        with zipfile.ZipFile(archive) as file:
            for name in sorted(n for n in file.namelist() if n.endswith(".JPEG")):
                wnid = val_class[Path(name).name] if split == "val" else name.split("/")[0]
                rows.append((_decode(io.BytesIO(file.read(name)), side), number[wnid], name))
    return _image_set(rows, classes)


def _read_caltech(data: Path, split: str, side: int) -> ImageSet:
    root = data / "caltech101" / split
    classes = sorted(folder.name for folder in root.iterdir() if folder.is_dir())
    rows = [
        (_decode(path, side), number, f"{name}/{path.name}")
        for number, name in enumerate(classes)
        for path in sorted((root / name).iterdir())
    ]
    return _image_set(rows, classes)
