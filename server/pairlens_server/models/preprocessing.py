"""How a picture becomes a model's input, as values; `images` carries it out."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from enum import Enum
from functools import cached_property


class ResizeMode(str, Enum):
    """How a picture of any shape is brought to the input size."""

    STRETCH = "stretch"  # the whole picture, its aspect ratio not kept
    CROP = "crop"  # shorter side to input size / crop_fraction, then the centre
    PAD = "pad"  # the whole picture inside the input, borders filled with the mean colour


class Interpolation(str, Enum):
    """Resampling filter of the resize, always with antialiasing."""

    NEAREST = "nearest"
    BILINEAR = "bilinear"
    BICUBIC = "bicubic"


@dataclass(frozen=True)
class Preprocessing:
    """Settings that turn an RGB picture into a normalised input tensor.

    Attributes:
        height, width: Input size in pixels.
        resize_mode: How the picture is brought to that size.
        crop_fraction: In (0, 1]; only used by CROP (timm's `crop_pct`).
        interpolation: Resampling filter.
        mean, std: Per channel (red, green, blue), of values in [0, 1].
    """

    height: int
    width: int
    resize_mode: ResizeMode
    crop_fraction: float
    interpolation: Interpolation
    mean: tuple[float, float, float]
    std: tuple[float, float, float]

    @cached_property
    def digest(self) -> str:
        """Hex hash of all settings; part of every cache key."""
        text = json.dumps(asdict(self), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:32]
