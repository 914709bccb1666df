"""A map and its place on a picture, which draws and saves itself."""

from __future__ import annotations

import io
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from pairlens import _saving, rendering
from pairlens._images import SentImage
from pairlens.errors import InvalidParameterError, MalformedResponseError
from pairlens.masks import BoolArray, mask_overlay
from pairlens.options import OverlayStyle, Rendering
from pairlens.rendering import ColorMap, ColorScale, FloatArray, GridGeometry, Interpolation

if TYPE_CHECKING:
    from typing_extensions import Unpack

NOTEBOOK_SIDE = 1024
"""Longest side of the pictures that notebooks show, in pixels."""


@dataclass(frozen=True)
class Rendered:
    """What the server drew.

    Attributes:
        request: What it was asked for, resolved.
        upsampled: float32 [height, width], NaN where the model saw nothing; or None.
        overlay_png: A PNG file, or b"".
    """

    request: Rendering
    upsampled: FloatArray | None
    overlay_png: bytes


@dataclass(frozen=True, kw_only=True, eq=False)
class PlacedMap:
    """A heatmap and where it lies on its picture.

    Attributes:
        heatmap: float32 [rows, columns], row 0 at the top, in the method's own unit;
            read-only.
        min, max: Smallest and largest of `heatmap`.
        constant: Whether all values are equal: nothing to tell regions apart.
        geometry: Where the cells lie on the original picture.
        image: The picture, as it was sent.
        rendered: What the server drew, or None.
    """

    heatmap: FloatArray = field(repr=False)
    min: float
    max: float
    constant: bool
    geometry: GridGeometry
    image: SentImage
    rendered: Rendered | None = field(repr=False)

    def upsampled(
        self,
        height: int | None = None,
        width: int | None = None,
        *,
        interpolation: Interpolation | str = Interpolation.BILINEAR,
    ) -> FloatArray:
        """Enlarge the map to the whole picture.

        Args:
            height: In pixels. None: it follows from the width and the picture's shape,
                and is the picture's own when both are None.
            width: The same.
            interpolation: See `Interpolation`.

        Returns:
            float32 [height, width], NaN where the model saw nothing. The server's own
            when it was asked for one of this size and interpolation.

        Raises:
            InvalidParameterError: A side is less than 1, or an unknown interpolation.
        """
        shape = self.geometry.image_height / self.geometry.image_width
        if height is None and width is None:
            height, width = self.geometry.image_height, self.geometry.image_width
        elif height is None:
            height = max(1, round((width or 0) * shape))
        elif width is None:
            width = max(1, round(height / shape))
        if height < 1 or width is None or width < 1:
            raise InvalidParameterError(f"height and width are at least 1, not {height}, {width}")
        how = Interpolation(Rendering(interpolation=interpolation).interpolation)
        sent = self.rendered
        if (
            sent is not None
            and sent.upsampled is not None
            and sent.upsampled.shape == (height, width)
            and sent.request.interpolation is how
        ):
            return sent.upsampled
        return rendering.enlarge(self.heatmap, self.geometry, height, width, how)

    def draw(self, style: Rendering, low: float, high: float) -> Image.Image:
        """Draw the map over its picture, or decode the server's drawing of the same.

        Args:
            style: Resolved.
            low: Lower end of the colour map, as `style.scale` gives it.
            high: Upper end.

        Returns:
            An RGB picture.
        """
        sent = self.rendered
        if sent is not None and sent.overlay_png and sent.request.draws_like(style):
            try:
                return Image.open(io.BytesIO(sent.overlay_png)).convert("RGB")
            except Exception as error:  # as in EncodedImage.picture
                raise MalformedResponseError(f"the server's overlay is no PNG: {error}") from error
        return self._drawn_here(style, low, high)

    def _drawn_here(self, style: Rendering, low: float, high: float) -> Image.Image:
        return rendering.overlay(
            self.image.picture(),
            self.heatmap,
            self.geometry,
            low=low,
            high=high,
            color_map=ColorMap(style.color_map),
            opacity=style.opacity,
            interpolation=Interpolation(style.interpolation),
            max_side=style.max_side,
        )

    def overlay(self, **style: Unpack[OverlayStyle]) -> Image.Image:
        """Draw the map over its picture.

        Args:
            **style: See `Rendering`; the default scale is "image".

        Returns:
            An RGB picture: the server's when it was asked for the same, else drawn here.

        Raises:
            InvalidParameterError: A value out of range, or the scale "pair", which
                needs two maps (see `PairMatch.overlay`).
        """
        resolved = Rendering(**style).resolved(ColorScale.IMAGE)
        if resolved.scale is ColorScale.PAIR:
            raise InvalidParameterError("scale 'pair' needs a pair of maps", field="scale")
        low, high = rendering.color_range(
            [self.heatmap], ColorScale(resolved.scale), resolved.fixed
        )
        return self.draw(resolved, low, high)

    def save(self, path: str | os.PathLike[str], **style: Unpack[OverlayStyle]) -> None:
        """Write the overlay (.png, .jpg) or the map itself (.npy, .npz).

        An .npz holds `heatmap`, `region` (left, top, right, bottom in original pixels)
        and `image_size` (height, width).

        Args:
            path: Overwritten when it exists.
            **style: As in `overlay`; refused for .npy and .npz.

        Raises:
            InvalidParameterError: Another suffix, or a bad style.
            OSError: The file cannot be written.
        """
        _saving.save(
            path,
            style,
            draw=lambda: self.overlay(**style),
            array=self.heatmap,
            arrays=self._arrays,
        )

    def _arrays(self) -> dict[str, npt.NDArray[Any]]:
        box = self.geometry.region
        return {
            "heatmap": self.heatmap,
            "region": np.array([box.left, box.top, box.right, box.bottom]),
            "image_size": np.array([self.geometry.image_height, self.geometry.image_width]),
        }

    def _repr_png_(self) -> bytes | None:
        return _saving.notebook_png(lambda: self.overlay(max_side=NOTEBOOK_SIDE))


@dataclass(frozen=True, kw_only=True, eq=False)
class MaskedMap(PlacedMap):
    """A map that a mask may have been made of; its overlay then shows the mask.

    Attributes:
        mask: bool [rows, columns], true where a patch is hidden; read-only. None for
            methods that make no mask.
    """

    mask: BoolArray | None = field(repr=False, default=None)

    def save_mask(self, path: str | os.PathLike[str]) -> None:
        """Write the mask: bool (.npy), or a picture of a pixel for each patch (.png).

        Args:
            path: Overwritten when it exists. In a .png hidden patches are white.

        Raises:
            InvalidParameterError: There is no mask, or another suffix.
            OSError: The file cannot be written.
        """
        if self.mask is None:
            raise InvalidParameterError("the method makes no mask: there is none to save")
        _saving.save_masks(Path(path), [self.mask])

    def _drawn_here(self, style: Rendering, low: float, high: float) -> Image.Image:
        if self.mask is None:
            return super()._drawn_here(style, low, high)
        return mask_overlay(
            self.image.picture(),
            self.mask,
            self.geometry,
            opacity=style.opacity,
            max_side=style.max_side,
        )

    def _arrays(self) -> dict[str, npt.NDArray[Any]]:
        arrays = super()._arrays()
        return arrays if self.mask is None else arrays | {"mask": self.mask}
