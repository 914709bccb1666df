"""Pictures of pairs for the real server with its small models."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from pairlens.evaluation.dataset import Dataset, read_dataset
from pairlens.evaluation.pair_mosaics import PairMosaics
from pairlens.evaluation.pairfaith import PairFaith

SIZE = (60, 40)
STRICT = "pooled_decomposition(profile=strict)"


def picture(seed: int, level: int) -> Image.Image:
    noise = np.random.default_rng(seed).integers(0, 256, (5, 8, 3))
    noise[..., level % 3] //= 2 + level
    return Image.fromarray(noise.astype(np.uint8)).resize(SIZE, Image.Resampling.NEAREST)


def pair_dataset(root: Path) -> Dataset:
    """Five classes of four pictures; one of them twice, and a file that is none."""
    for level, label in enumerate("abcde"):
        (root / label).mkdir()
        for number in range(4):
            picture(10 * level + number, level).save(root / label / f"{number}.png")
    (root / "a" / "copy.png").write_bytes((root / "a" / "0.png").read_bytes())
    (root / "a" / "broken.png").write_bytes(b"no picture")
    return read_dataset(root)


def strict(protocol: PairFaith | PairMosaics) -> str:
    """Name of the one method's row."""
    (name,) = (row.name for row in protocol.rows if not row.control)
    return name
