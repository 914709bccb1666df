"""Any picture that Pillow reads, as upright 8-bit RGB.

The server shows these pixels to the model and the SDK draws heatmaps over them,
so both turn a file into pixels here and nowhere else.
"""

from __future__ import annotations

from contextlib import suppress

import numpy as np
import numpy.typing as npt
from PIL import ExifTags, Image

_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_MAY_NAME_A_TRANSPARENT_COLOR = ("1", "L", "P", "RGB")


def to_rgb(image: Image.Image) -> Image.Image:
    """Turns a picture upright and into 8-bit RGB.

    Transparent parts are laid over white. Grey levels of 16 and 32 bits and of
    floats are scaled, not clipped: 16-bit ones by 255 / 65535, 32-bit ones the
    same unless one of them is above 65535, then by 255 / (2³¹ - 1). Floats carry
    no range of their own: 1, 255 or 65535 becomes white, whichever is the first
    that no value exceeds, and the largest value itself when all three are
    exceeded. Colour profiles are not applied.

    Args:
        image: Any mode and size; not changed, except that Pillow loads its pixels.

    Returns:
        A new picture in mode "RGB" without metadata, so that a second call does
        not turn it again. Height and width are swapped under EXIF orientations 5
        to 8; an EXIF block that cannot be read counts as upright.

    Raises:
        Exception: Whatever Pillow raises on broken or truncated data.
    """
    image.load()
    # Only after load(): Pillow's TIFF reader turns the picture itself while loading.
    orientation = _orientation(image)
    rgb = _without_alpha(image) if _has_alpha(image) else _opaque(image)
    if orientation in _UPRIGHT:
        rgb = rgb.transpose(_UPRIGHT[orientation])
    rgb.info.clear()
    return rgb


def _orientation(image: Image.Image) -> int:
    """EXIF orientation, 1 where there is none or it cannot be read."""
    # Damaged EXIF raises at least SyntaxError, struct.error, KeyError and ValueError.
    with suppress(Exception):
        return int(image.getexif().get(ExifTags.Base.Orientation, 1))
    return 1


def _has_alpha(image: Image.Image) -> bool:
    if image.mode in ("LA", "La", "PA", "RGBA", "RGBa"):
        return True
    if image.mode == "P" and image.palette is not None and image.palette.mode.endswith("A"):
        return True
    return image.mode in _MAY_NAME_A_TRANSPARENT_COLOR and "transparency" in image.info


def _without_alpha(image: Image.Image) -> Image.Image:
    """RGB of a picture with transparency, laid over white."""
    if image.mode == "La":  # Pillow has no direct way from premultiplied grey
        image = image.convert("LA")
    rgba = image.convert("RGBA")
    rgb = Image.new("RGB", rgba.size, "white")
    rgb.paste(rgba, mask=rgba.getchannel("A"))
    return rgb


def _opaque(image: Image.Image) -> Image.Image:
    """RGB of a picture without an alpha channel."""
    if image.mode == "F":
        levels = np.asarray(image, np.float32)
        return _from_levels(levels, _float_white(levels))
    if image.mode == "I" or image.mode.startswith("I;16"):
        # Pillow's own conversion of these modes clips at 255.
        levels = np.asarray(image)
        white = 65535.0 if levels.max() <= 65535 else 2.0**31 - 1
        rgb = _from_levels(levels, white)
        transparent = image.info.get("transparency")
        if isinstance(transparent, int):
            rgb.paste("white", mask=Image.fromarray(levels == transparent))
        return rgb
    return image.convert("RGB")


def _float_white(levels: npt.NDArray[np.float32]) -> float:
    """Value that becomes white in a float picture of unstated range."""
    finite = levels[np.isfinite(levels)]
    largest = float(finite.max()) if finite.size else 1.0
    return next((white for white in (1.0, 255.0, 65535.0) if largest <= white), largest)


def _from_levels(levels: npt.NDArray[np.generic], white: float) -> Image.Image:
    """RGB of grey levels [height, width], 0 black and `white` white."""
    with np.errstate(over="ignore"):
        scaled = levels.astype(np.float32) * np.float32(255.0 / white)
    grey = np.rint(np.clip(np.nan_to_num(scaled, nan=0.0, posinf=255.0), 0.0, 255.0))
    return Image.fromarray(grey.astype(np.uint8)).convert("RGB")
