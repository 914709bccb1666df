"""Which regions made two pictures similar."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, overload

import numpy as np
import numpy.typing as npt
from PIL import Image

from pairlens import _layout, _saving, rendering
from pairlens._images import EncodedImage
from pairlens.errors import InvalidParameterError, PairlensError
from pairlens.models import Method
from pairlens.options import OverlayStyle, Rendering
from pairlens.rendering import ColorScale, FloatArray
from pairlens.results import NOTEBOOK_SIDE, PlacedMap, Provenance, Timing

if TYPE_CHECKING:
    from typing_extensions import Unpack

ROW_SIDE = 512
"""Longest side of a picture where many pairs are drawn together, in pixels."""


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
    """

    similarity: float
    query: SideMap
    candidate: SideMap
    match_matrix: FloatArray | None = field(repr=False)

    @property
    def score(self) -> float:
        """The similarity."""
        return self.similarity

    def overlay(self, **style: Unpack[OverlayStyle]) -> Image.Image:
        """Draw both maps over their pictures, side by side at one height.

        Args:
            **style: See `Rendering`; the default scale is "pair". `max_side` bounds
                each of the two pictures.

        Returns:
            An RGB picture, the query on the left, with the similarity below.

        Raises:
            InvalidParameterError: A value out of range.
        """
        resolved = Rendering(**style).resolved(ColorScale.PAIR)
        left, right = (
            side.draw(resolved, *self._color_range(side, resolved))
            for side in (self.query, self.candidate)
        )
        caption = f"similarity {self.similarity:.4f}  {self.candidate.image.name}"
        return _layout.side_by_side(left, right, caption.strip())

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

    def _repr_png_(self) -> bytes:
        return _saving.png(self.overlay(max_side=NOTEBOOK_SIDE))


@dataclass(frozen=True, kw_only=True, eq=False)
class PairFailure:
    """A candidate that could not be used, while others could.

    Attributes:
        image: The candidate.
        error: Why.
    """

    image: EncodedImage
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
        return _saving.png(self.overlay()) if self.matches else None
