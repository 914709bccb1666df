"""What to draw, and how."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from enum import Enum
from typing import Literal, TypeAlias, TypedDict, TypeVar

from pairlens.errors import InvalidParameterError
from pairlens.rendering import ColorMap, ColorScale, Interpolation

_Choice = TypeVar("_Choice", bound=Enum)

CachePolicy: TypeAlias = Literal["default", "bypass", "refresh"]
"""How a call uses the server's cache; answers are the same under all of them.

"default" takes what is there, computes the rest and keeps it; "bypass" computes everything and
keeps nothing; "refresh" computes everything and writes it over what is kept.
"""


class OverlayStyle(TypedDict, total=False):
    """Keyword arguments of `overlay()` and `save()`; meanings and defaults as in `Rendering`."""

    color_map: ColorMap | str
    scale: ColorScale | str | None
    fixed: tuple[float, float] | None
    opacity: float
    interpolation: Interpolation | str
    max_side: int | None


@dataclass(frozen=True, kw_only=True)
class Rendering:
    """What the server is to draw besides the map on its grid.

    Results draw overlays locally too; let the server draw when its picture is to be
    passed on as it is, or for clients that hold no decoder.

    Attributes:
        overlay: Return a PNG of the picture under the coloured map.
        upsampled: Return the map enlarged to the rendered size.
        color_map: "viridis" and "inferno" (perceptually uniform), or "jet".
        scale: Which values become the ends of the colour map: "image" (this map's),
            "pair" (both maps' of a pair together) or "fixed". None: "fixed" when
            `fixed` is given, else "pair" for pairs (without a region) and "image".
        fixed: The ends (low, high) under "fixed", low < high.
        opacity: Of the colours, in [0, 1].
        interpolation: "nearest" (shows the cells), "bilinear" or "bicubic".
        max_side: Longest side of what is drawn in pixels, from 16 to 8192; pictures
            are made smaller to fit, never larger. None: the original size.

    Raises:
        InvalidParameterError: A value is out of range, `fixed` and `scale` contradict
            each other, or neither `overlay` nor `upsampled` is asked for.
    """

    overlay: bool = True
    upsampled: bool = False
    color_map: ColorMap | str = ColorMap.VIRIDIS
    scale: ColorScale | str | None = None
    fixed: tuple[float, float] | None = None
    opacity: float = 0.6
    interpolation: Interpolation | str = Interpolation.BILINEAR
    max_side: int | None = None

    def __post_init__(self) -> None:
        def settle(name: str, value: object) -> None:
            object.__setattr__(self, name, value)

        settle("color_map", _choice(ColorMap, self.color_map, "color_map"))
        settle("interpolation", _choice(Interpolation, self.interpolation, "interpolation"))
        if self.scale is not None:
            settle("scale", _choice(ColorScale, self.scale, "scale"))
        elif self.fixed is not None:
            settle("scale", ColorScale.FIXED)
        if not (self.overlay or self.upsampled):
            raise InvalidParameterError("ask for overlay, upsampled or both")
        if not 0 <= self.opacity <= 1:
            raise InvalidParameterError(
                f"opacity is from 0 to 1, not {self.opacity}", field="opacity"
            )
        if self.max_side is not None and not 16 <= self.max_side <= 8192:
            raise InvalidParameterError(
                f"max_side is from 16 to 8192 pixels, not {self.max_side}", field="max_side"
            )
        self._check_fixed()

    def _check_fixed(self) -> None:
        if (self.fixed is not None) != (self.scale is ColorScale.FIXED):
            raise InvalidParameterError(
                "scale 'fixed' needs fixed=(low, high), and no other scale takes it", field="fixed"
            )
        if self.fixed is None:
            return
        low, high = self.fixed
        if not (math.isfinite(low) and math.isfinite(high) and low < high):
            raise InvalidParameterError(
                f"fixed is (low, high) with low < high, not {self.fixed}", field="fixed"
            )

    def resolved(self, scale: ColorScale) -> Rendering:
        """The same with `scale` filled in where it is None."""
        return self if self.scale is not None else replace(self, scale=scale)

    def draws_like(self, other: Rendering) -> bool:
        """Whether both make the same overlay."""
        return replace(self, overlay=True, upsampled=False) == replace(
            other, overlay=True, upsampled=False
        )


def _choice(kind: type[_Choice], value: object, name: str) -> _Choice:
    try:
        return kind(value)
    except ValueError as error:
        known = ", ".join(str(member.value) for member in kind)
        raise InvalidParameterError(
            f"{name} is one of {known}; not {value!r}", field=name
        ) from error
