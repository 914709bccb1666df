"""The model's input of a picture, and which original pixels it covers."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

from pairlens.rendering import Box, GridGeometry
from pairlens_server.images.admission import Picture
from pairlens_server.models.loaded import TokenLayout
from pairlens_server.models.preprocessing import Interpolation, Preprocessing, ResizeMode

_FILTERS = {
    Interpolation.NEAREST: Image.Resampling.NEAREST,
    Interpolation.BILINEAR: Image.Resampling.BILINEAR,
    Interpolation.BICUBIC: Image.Resampling.BICUBIC,
}

# Above this size only the input's part of the resized picture is computed: a strip
# of 1 x 65535 pixels would otherwise grow to gigabytes before its centre is cut out.
_MAX_RESIZED_PIXELS = 16_000_000


@dataclass(frozen=True)
class _Layout:
    """The model's input as a window onto the resized picture.

    Attributes:
        height, width: Size of the resized picture in pixels.
        top, left: The window's corner in it; negative where the window is larger.
    """

    height: int
    width: int
    top: int
    left: int


def grid_geometry(
    height: int, width: int, preprocessing: Preprocessing, tokens: TokenLayout
) -> GridGeometry:
    """Where the cells of a model's grid lie on a picture.

    Args:
        height: Of the upright picture, in pixels.
        width: Likewise.
        preprocessing: What the model expects.
        tokens: The model's grid, which divides the part of the input that it covers.

    Returns:
        The geometry, exact to the rounding of the resized size.
    """
    layout = _layout(height, width, preprocessing)
    down = height / layout.height
    across = width / layout.width
    region = Box(
        left=layout.left * across,
        top=layout.top * down,
        right=(layout.left + preprocessing.width - tokens.unseen_right) * across,
        bottom=(layout.top + preprocessing.height - tokens.unseen_bottom) * down,
    )
    return GridGeometry(tokens.rows, tokens.columns, height, width, region)


def input_pixels(picture: Picture, preprocessing: Preprocessing) -> torch.Tensor:
    """The model's input: float32 [3, height, width], normalised, on the CPU.

    CROP gives the same tensor as timm's evaluation transform (`crop_mode="center"`).
    """
    layout = _layout(picture.height, picture.width, preprocessing)
    return _pixels(picture.image, layout, preprocessing)


def _layout(height: int, width: int, preprocessing: Preprocessing) -> _Layout:
    """How a picture of this size meets the input."""
    goal_height, goal_width = preprocessing.height, preprocessing.width
    if preprocessing.resize_mode is ResizeMode.STRETCH:
        return _Layout(goal_height, goal_width, top=0, left=0)
    if preprocessing.resize_mode is ResizeMode.PAD:
        scale = min(goal_height / height, goal_width / width)
        resized_height = max(1, round(height * scale))
        resized_width = max(1, round(width * scale))
    else:
        resized_height, resized_width = _size_before_crop(height, width, preprocessing)
    return _Layout(
        resized_height,
        resized_width,
        # Halves go to the even number, as in torchvision's CenterCrop.
        top=round((resized_height - goal_height) / 2),
        left=round((resized_width - goal_width) / 2),
    )


def _size_before_crop(height: int, width: int, preprocessing: Preprocessing) -> tuple[int, int]:
    """Height and width that timm resizes to before it crops the centre."""
    goal_height = math.floor(preprocessing.height / preprocessing.crop_fraction)
    goal_width = math.floor(preprocessing.width / preprocessing.crop_fraction)
    if goal_height == goal_width:
        # Square inputs take torchvision's Resize, which rounds the longer side down.
        shorter = min(height, width)
        return int(goal_height * height / shorter), int(goal_height * width / shorter)
    ratio = min(height / goal_height, width / goal_width)
    return round(height / ratio), round(width / ratio)


def _pixels(image: Image.Image, layout: _Layout, preprocessing: Preprocessing) -> torch.Tensor:
    """Normalised input [3, H, W]; 0, which is the mean colour, beyond the picture."""
    top, left = max(layout.top, 0), max(layout.left, 0)
    bottom = min(layout.top + preprocessing.height, layout.height)
    right = min(layout.left + preprocessing.width, layout.width)
    part = _resized_part(image, layout, (left, top, right, bottom), preprocessing.interpolation)
    levels = np.asarray(part)
    normalised = _normalised_levels(preprocessing.mean, preprocessing.std)
    pixels = np.zeros((3, preprocessing.height, preprocessing.width), np.float32)
    rows = slice(top - layout.top, bottom - layout.top)
    columns = slice(left - layout.left, right - layout.left)
    for channel in range(3):
        pixels[channel, rows, columns] = normalised[channel][levels[..., channel]]
    return torch.from_numpy(pixels)


@cache
def _normalised_levels(mean: tuple[float, ...], std: tuple[float, ...]) -> npt.NDArray[np.float32]:
    """What each of 256 levels becomes, by channel: float32 [3, 256].

    Looked up in numpy, since torch's arithmetic would have a team of threads for every picture,
    which gets in the way of the model's.
    """
    levels = torch.arange(256, dtype=torch.float32).div(255)
    values = (levels - torch.tensor(mean).view(3, 1)) / torch.tensor(std).view(3, 1)
    return values.numpy()


def _resized_part(
    image: Image.Image,
    layout: _Layout,
    part: tuple[int, int, int, int],
    interpolation: Interpolation,
) -> Image.Image:
    """Part (left, top, right, bottom) of the picture resized as the layout says."""
    resample = _FILTERS[interpolation]
    if layout.height * layout.width <= _MAX_RESIZED_PIXELS:
        return image.resize((layout.width, layout.height), resample).crop(part)
    across, down = image.width / layout.width, image.height / layout.height
    left, top, right, bottom = part
    box = (
        left * across,
        top * down,
        min(right * across, image.width),
        min(bottom * down, image.height),
    )
    return image.resize((right - left, bottom - top), resample, box=box)
