"""Maps and masks that commands read from files."""

from __future__ import annotations

import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from pairlens.cli_arguments import UsageError

# Of `explain --out`, `pair --out` and `score --out`, in this order.
_OF_IMAGE = ("heatmap", "query")
_OF_PARTNER = ("partner_heatmap", "candidate", "heatmap")
_GREY_MODES = ("1", "L", "I", "I;16", "I;16B")


def heatmap(path: Path | None, *, partner: bool = False) -> npt.NDArray[Any] | None:
    """A map from an .npy, from an .npz that a command wrote, or from a grey .png.

    Args:
        path: None for none.
        partner: Whether to take the second picture's map of an .npz that holds two.

    Raises:
        UsageError: The file holds no map.
    """
    if path is None or path.suffix.lower() != ".png":
        return None if path is None else _array(path, _OF_PARTNER if partner else _OF_IMAGE)
    with _picture(path) as picture:
        if picture.mode not in _GREY_MODES:
            raise UsageError(
                f"{path} has colours; a map is a grey picture, an .npy or an .npz with numbers"
            )
        values = np.asarray(picture)
    return values if values.dtype in (np.bool_, np.uint8) else values.astype(np.int64)


def mask(path: Path | None) -> npt.NDArray[np.bool_] | None:
    """Where a mask from an .npy, or from a picture, is not zero (not black).

    Raises:
        UsageError: The file holds no mask.
    """
    if path is None:
        return None
    if path.suffix.lower() in (".npy", ".npz"):
        return np.asarray(_array(path, ("mask",)) != 0)
    with _picture(path) as picture:
        # Not "L", whose weights make nearly black colours black.
        return np.asarray(np.asarray(picture.convert("RGB")).max(axis=2) > 0)


def _array(path: Path, names: Sequence[str]) -> npt.NDArray[Any]:
    """The array of an .npy, or the first of these that an .npz holds."""
    if path.suffix.lower() not in (".npy", ".npz"):
        raise UsageError(f"{path} is no .npy, .npz or .png")
    try:
        loaded = np.load(path, allow_pickle=False)
        if isinstance(loaded, np.ndarray):
            return loaded
        with loaded:
            for name in names:
                if name in loaded.files:
                    array: npt.NDArray[Any] = loaded[name]
                    return array
            held = ", ".join(loaded.files) or "nothing"
    # numpy raises these for files of another kind, cut off, or with Python objects.
    except (ValueError, EOFError, OSError, zipfile.BadZipFile) as error:
        raise UsageError(f"cannot read {path}: {error}") from error
    raise UsageError(f"{path} holds {held}, and none of {', '.join(names)}")


def _picture(path: Path) -> Image.Image:
    try:
        picture = Image.open(path)
        picture.load()
    except Exception as error:  # Pillow's readers raise nearly anything on broken data
        raise UsageError(f"cannot read {path}: {error}") from error
    return picture
