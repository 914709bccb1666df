"""Which regions made two pictures similar."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, overload

import numpy as np
import numpy.typing as npt
from PIL import Image

from pairlens import _layout, _saving, masks, rendering
from pairlens._images import SentImage
from pairlens.errors import InvalidParameterError, PairlensError
from pairlens.models import Method
from pairlens.options import OverlayStyle, Rendering
from pairlens.placed import NOTEBOOK_SIDE, PlacedMap
from pairlens.rendering import Box, ColorScale, FloatArray
from pairlens.results import Provenance, Timing

if TYPE_CHECKING:
    from typing_extensions import Unpack

REGIONS = ("query_region", "candidate_region")
"""Parameters that name a part of one picture, whose map is all that is shown."""

ROW_SIDE = 512
"""Longest side of a picture where many pairs are drawn together, in pixels."""


def default_scale(parameters: Collection[str]) -> ColorScale:
    """The colour scale of pairs where none is asked for, from the parameters given."""
    return ColorScale.PAIR if not set(REGIONS) & set(parameters) else ColorScale.IMAGE


@dataclass(frozen=True, kw_only=True, eq=False)
class SideMap(PlacedMap):
    """How much each cell of one picture added to the similarity; the map as in `PlacedMap`.

    Values may be negative. Under the profile "strict", `sum`, `bias_share` and
    `prefix_share` add up to the similarity.

    Attributes:
        sum: Of the map's cells.
        bias_share: Part of the similarity that comes from the embedding's constant
            part and is in no cell.
        prefix_share: Part that lies on tokens that are no patch.
    """

    sum: float
    bias_share: float
    prefix_share: float


@dataclass(frozen=True, kw_only=True, eq=False)
class PairMatch:
    """Which regions of a query and one candidate made up their similarity.

    Attributes:
        similarity: Cosine of the two embeddings, in [-1, 1].
        query, candidate: The two pictures' maps.
        match_matrix: float32 [query cells, candidate cells], cells row by row,
            read-only: the part of the similarity owed to each pair of places, before
            redistribution. None unless asked for with `match_matrix=True`.
        query_region, candidate_region: The region that the maps are of, in original
            pixels of its picture; None where the method takes none.
    """

    similarity: float
    query: SideMap
    candidate: SideMap
    match_matrix: FloatArray | None = field(repr=False)
    query_region: Box | None = None
    candidate_region: Box | None = None

    @property
    def score(self) -> float:
        """The similarity."""
        return self.similarity

    def overlay(self, **style: Unpack[OverlayStyle]) -> Image.Image:
        """Draw both maps over their pictures, side by side at one height.

        The region that the maps are of, if there is one, is outlined.

        Args:
            **style: See `Rendering`; the default scale is "pair", but "image" for maps
                of a region, which is few cells on one side and all of them on the other.
                `max_side` bounds each of the two pictures.

        Returns:
            An RGB picture, the query on the left, with the similarity below.

        Raises:
            InvalidParameterError: A value out of range.
        """
        regions = {name for name in REGIONS if getattr(self, name) is not None}
        resolved = Rendering(**style).resolved(default_scale(regions))
        left, right = (
            self._drawn(side, region, resolved)
            for side, region in (
                (self.query, self.query_region),
                (self.candidate, self.candidate_region),
            )
        )
        caption = f"similarity {self.similarity:.4f}  {self.candidate.image.name}"
        return _layout.side_by_side(left, right, caption.strip())

    def _drawn(self, side: SideMap, region: Box | None, style: Rendering) -> Image.Image:
        drawn = side.draw(style, *self._color_range(side, style))
        if region is None:
            return drawn
        where = side.geometry
        return masks.region_outline(drawn, region, where.image_height, where.image_width)

    def _color_range(self, side: SideMap, style: Rendering) -> tuple[float, float]:
        scale = ColorScale(style.scale)
        both = [self.query.heatmap, self.candidate.heatmap]
        maps = both if scale is ColorScale.PAIR else [side.heatmap]
        return rendering.color_range(maps, scale, style.fixed)

    def save(self, path: str | os.PathLike[str], **style: Unpack[OverlayStyle]) -> None:
        """Write the overlay (.png, .jpg) or the numbers (.npz).

        An .npz holds `similarity`, `query`, `candidate` and, when asked for,
        `match_matrix`.

        Args:
            path: Overwritten when it exists.
            **style: As in `overlay`; refused for .npz.

        Raises:
            InvalidParameterError: Another suffix, or a bad style.
            OSError: The file cannot be written.
        """
        _saving.save(
            path, style, draw=lambda: self.overlay(**style), array=None, arrays=self._arrays
        )

    def _arrays(self) -> dict[str, npt.NDArray[Any]]:
        arrays: dict[str, npt.NDArray[Any]] = {
            "similarity": np.asarray(self.similarity, dtype=np.float32),
            "query": self.query.heatmap,
            "candidate": self.candidate.heatmap,
        }
        if self.match_matrix is not None:
            arrays["match_matrix"] = self.match_matrix
        return arrays

    def _repr_png_(self) -> bytes | None:
        return _saving.notebook_png(lambda: self.overlay(max_side=NOTEBOOK_SIDE))


@dataclass(frozen=True, kw_only=True, eq=False)
class PairFailure:
    """A candidate that could not be used, while others could.

    Attributes:
        image: The candidate.
        error: Why.
    """

    image: SentImage
    error: PairlensError


@dataclass(frozen=True, kw_only=True, eq=False)
class PairResults(Sequence["PairMatch | PairFailure"]):
    """One result for each candidate, in their order.

    Attributes:
        results: The same as a tuple.
        method: As it ran, every parameter resolved.
        provenance: Enough to repeat it.
        timing: The server's.
    """

    results: tuple[PairMatch | PairFailure, ...]
    method: Method
    provenance: Provenance
    timing: Timing

    def __len__(self) -> int:
        return len(self.results)

    def __iter__(self) -> Iterator[PairMatch | PairFailure]:
        return iter(self.results)

    @overload
    def __getitem__(self, index: int) -> PairMatch | PairFailure: ...

    @overload
    def __getitem__(self, index: slice) -> tuple[PairMatch | PairFailure, ...]: ...

    def __getitem__(
        self, index: int | slice
    ) -> PairMatch | PairFailure | tuple[PairMatch | PairFailure, ...]:
        return self.results[index]

    @property
    def matches(self) -> tuple[PairMatch, ...]:
        """The candidates that could be used."""
        return tuple(result for result in self.results if isinstance(result, PairMatch))

    @property
    def failures(self) -> tuple[PairFailure, ...]:
        """The candidates that could not."""
        return tuple(result for result in self.results if isinstance(result, PairFailure))

    def overlay(self, **style: Unpack[OverlayStyle]) -> Image.Image:
        """Draw one row for each match, as `PairMatch.overlay` does.

        Args:
            **style: As there; `max_side` is `ROW_SIDE` unless given.

        Raises:
            InvalidParameterError: A value out of range, or there is no match.
        """
        if not self.matches:
            raise InvalidParameterError("no candidate could be used: there is nothing to draw")
        style.setdefault("max_side", ROW_SIDE)
        return _layout.stack([match.overlay(**style) for match in self.matches])

    def save(self, path: str | os.PathLike[str], **style: Unpack[OverlayStyle]) -> None:
        """Write the overlay (.png, .jpg) or the numbers (.npz) of all matches.

        An .npz holds what `PairMatch.save` writes, with `_0`, `_1`, ... added to the
        names: the candidate's index.

        Args:
            path: Overwritten when it exists.
            **style: As in `overlay`; refused for .npz.

        Raises:
            InvalidParameterError: Another suffix, a bad style, or nothing to draw.
            OSError: The file cannot be written.
        """
        _saving.save(
            path, style, draw=lambda: self.overlay(**style), array=None, arrays=self._arrays
        )

    def _arrays(self) -> dict[str, npt.NDArray[Any]]:
        return {
            f"{name}_{index}": array
            for index, result in enumerate(self.results)
            if isinstance(result, PairMatch)
            for name, array in result._arrays().items()
        }

    def _repr_png_(self) -> bytes | None:
        # None makes a notebook fall back on the text.
        return _saving.notebook_png(self.overlay) if self.matches else None
