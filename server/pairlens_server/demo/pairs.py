"""The photographs that come with pairlens, and which of them are compared."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

PICTURES = Path(__file__).parent / "pictures"
MODELS_FILE = Path(__file__).parent / "models.yaml"


@dataclass(frozen=True)
class Pair:
    """Two photographs of the same kind of thing.

    Attributes:
        name: What both show; also the stem of the figure's file name.
        query, candidate: Files.
    """

    name: str
    query: Path
    candidate: Path


PAIRS = tuple(
    Pair(name, PICTURES / f"{name}-1.jpg", PICTURES / f"{name}-2.jpg")
    for name in ("lamp", "pigeon", "stegosaurus")
)
