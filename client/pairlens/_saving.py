"""Results written to files, by the file's suffix."""

from __future__ import annotations

import io
import os
import zipfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from pairlens.errors import ImageFileError, InvalidParameterError

PICTURE_SUFFIXES = (".png", ".jpg", ".jpeg")
ARRAY_SUFFIXES = (".npy", ".npz")


def save(
    path: str | os.PathLike[str],
    style: Mapping[str, object],
    *,
    draw: Callable[[], Image.Image],
    array: npt.NDArray[np.generic] | None,
    arrays: Callable[[], dict[str, npt.NDArray[Any]]],
) -> None:
    """Write a picture, one array (.npy) or named arrays (.npz).

    Args:
        path: Overwritten when it exists.
        style: What the caller asked of the picture; refused where none is written.
        draw: Makes the picture.
        array: What an .npy holds; None when one array cannot hold the result.
        arrays: Makes what an .npz holds.

    Raises:
        InvalidParameterError: Another suffix, or a style without a picture.
        OSError: The file cannot be written.
    """
    path = Path(path)
    suffix = check_suffix(path, npy=array is not None)
    if suffix in ARRAY_SUFFIXES and style:
        raise InvalidParameterError(
            f"{', '.join(style)}: a {suffix} file holds values and no colours", field="path"
        )
    if suffix == ".npz":
        write_arrays(path, arrays())
    elif suffix == ".npy":
        write_array(path, np.asarray(array))
    else:
        write_picture(path, draw())


def write_picture(path: Path, picture: Image.Image) -> None:
    """Write a .png, or a JPEG under any other suffix."""
    if path.suffix.lower() == ".png":
        picture.save(path, "PNG")
    else:
        picture.save(path, "JPEG", quality=95)


def write_array(path: Path, array: npt.NDArray[Any]) -> None:
    """Write an .npy without pickle."""
    with path.open("wb") as file:  # numpy would add ".npy" to a path that ends in ".NPY"
        np.save(file, array, allow_pickle=False)


def write_arrays(path: Path, arrays: Mapping[str, npt.NDArray[Any]]) -> None:
    """Write an .npz; numpy's own `savez` cannot be told everywhere to leave pickle alone."""
    with zipfile.ZipFile(path, "w") as archive:
        for name, array in arrays.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as file:
                np.save(file, array, allow_pickle=False)


def save_masks(path: Path, masks: Sequence[npt.NDArray[np.bool_]]) -> None:
    """Write masks of one grid, each bool [rows, columns].

    Args:
        path: An .npy holds one mask as it is and several as [count, rows, columns]; a .png
            one, a pixel for each patch and white where it is hidden.
        masks: At least one.

    Raises:
        InvalidParameterError: Another suffix, or several masks for a .png.
    """
    suffix = check_mask_suffix(path)
    if suffix == ".npy":
        write_array(path, masks[0] if len(masks) == 1 else np.stack(masks))
    elif len(masks) > 1:
        raise InvalidParameterError(f"{len(masks)} masks go into an .npy, not {path.name}")
    else:
        write_picture(path, Image.fromarray(masks[0]))


def check_mask_suffix(path: Path) -> str:
    """The path's suffix in lower case.

    Raises:
        InvalidParameterError: No mask is written to such files.
    """
    suffix = path.suffix.lower()
    if suffix not in (".npy", ".png"):
        raise InvalidParameterError(
            f"cannot write {path.name}: a mask is an .npy or a .png", field="path"
        )
    return suffix


def check_suffix(path: Path, *, npy: bool) -> str:
    """The path's suffix in lower case.

    Args:
        path: Where a result is to go.
        npy: Whether one array can hold the result.

    Raises:
        InvalidParameterError: No result is written to such files.
    """
    suffix = path.suffix.lower()
    accepted = [*PICTURE_SUFFIXES, *ARRAY_SUFFIXES]
    if not npy:
        accepted.remove(".npy")
    if suffix not in accepted:
        raise InvalidParameterError(
            f"cannot write {path.name}: the suffix is one of {', '.join(accepted)}", field="path"
        )
    return suffix


def notebook_png(draw: Callable[[], Image.Image]) -> bytes | None:
    """What notebooks show; None, their sign to show the text, without a picture to draw on."""
    try:
        return png(draw())
    except ImageFileError:  # of a `StoredImage`
        return None


def png(picture: Image.Image) -> bytes:
    """A picture as a PNG file."""
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    return buffer.getvalue()
