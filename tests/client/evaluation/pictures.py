"""Small pictures in files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image


def write(path: Path, seed: int = 0, height: int = 20, width: int = 30) -> Path:
    """Write a picture of noise."""
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
    return path


def class_folders(root: Path, classes: dict[str, int]) -> Path:
    """Write so many different pictures of each class."""
    for place, (label, count) in enumerate(classes.items()):
        for index in range(count):
            write(root / label / f"{index:03}.png", seed=100 * place + index)
    return root
