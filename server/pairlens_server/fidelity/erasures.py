"""Deletion and insertion: the score while the picture is erased or put back in the map's order.

Petsiuk et al., BMVC 2018; the REFERENCE profile is the code of Reppas' thesis
(`metrics_classification.py`).
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from pairlens_server.errors import InvalidParameterError
from pairlens_server.fidelity import curves
from pairlens_server.fidelity.copies import CLEAN, Copy, Ranking, erased, filled, kept
from pairlens_server.fidelity.metrics import CurveOutcome, ErasureMetric, Score, Verdict
from pairlens_server.fidelity.parameters import Board, ScoredClass, curve_parameters
from pairlens_server.fidelity.placing import ErasureOrder, ErasureUnit
from pairlens_server.fidelity.substrates import Substrate
from pairlens_server.methods.parameters import Parameter, Profile

if TYPE_CHECKING:
    from typing_extensions import Self

DEFAULT_STEPS = 64
REFERENCE_STEP = 224  # pixels, whatever the input's size


@dataclass(frozen=True)
class CurveMetric(ErasureMetric):
    """A metric of the scores along an erasure."""

    default_substrate: ClassVar[Substrate]

    steps: int | None = None
    step_size: int | None = None
    fractions: tuple[float, ...] = ()
    unit: ErasureUnit | None = None
    order: ErasureOrder | None = None

    @classmethod
    def parameters(cls, board: Board) -> tuple[Parameter, ...]:
        """See `Metric.parameters`."""
        return curve_parameters(board, cls.default_substrate)

    def resolve(self, board: Board, field: str) -> Self:
        """See `Metric.resolve`; also fills in how the erasure is cut into steps."""
        if self.unit is ErasureUnit.CELLS and not board.cells:
            raise InvalidParameterError(
                "a map of the picture's own pixels has no cells on the model's input",
                field=f"{field}.unit",
            )
        total = self.total(board)
        if len(self.fractions) > total:
            # Before any of them is looked at.
            raise InvalidParameterError(
                f"{len(self.fractions)} fractions; there are {total} {self._noun}",
                field=f"{field}.fractions",
            )
        resolved = super().resolve(board, field)
        reference = resolved.profile is Profile.REFERENCE
        if resolved.scored_class is None:
            chosen = ScoredClass.PREDICTED if reference else ScoredClass.TARGET
            resolved = replace(resolved, scored_class=chosen)
        return resolved._with_steps(board, field)

    def _with_steps(self, board: Board, field: str) -> Self:
        given = [
            n for n in ("steps", "step_size", "fractions") if getattr(self, n) not in (None, ())
        ]
        if len(given) > 1:
            raise InvalidParameterError(
                f"at most one of steps, step_size and fractions; not {' and '.join(given)}",
                field=f"{field}.{given[1]}",
            )
        total = self.total(board)
        for name in ("steps", "step_size"):
            value = getattr(self, name)
            if value is not None and value > total:
                raise InvalidParameterError(
                    f"{name} {value} is out of range; there are {total} {self._noun}",
                    field=f"{field}.{name}",
                )
        if list(self.fractions) != sorted(set(self.fractions)):
            raise InvalidParameterError("fractions ascend", field=f"{field}.fractions")
        if given:
            return self
        if self.profile is Profile.REFERENCE:
            return replace(self, step_size=min(REFERENCE_STEP, total))
        return replace(self, steps=min(DEFAULT_STEPS, total))

    def total(self, board: Board) -> int:
        """How many places there are to erase."""
        return board.cells if self.unit is ErasureUnit.CELLS else board.pixels

    @property
    def _noun(self) -> str:
        return "cells" if self.unit is ErasureUnit.CELLS else "pixels"

    def boundaries(self, board: Board) -> tuple[int, ...]:
        """Numbers of places erased (or put back) at the curve's points."""
        return curves.boundaries(
            self.total(board),
            steps=self.steps,
            step_size=self.step_size,
            fractions=self.fractions,
        )

    def ranking(self) -> Ranking:
        """The order of places that its copies follow."""
        assert self.unit is not None
        return Ranking(self.unit, flipped_ties=self.profile is Profile.REFERENCE)

    def copies(self, board: Board) -> tuple[Copy, ...]:
        """See `ErasureMetric.copies`: along the curve, in its order."""
        total = self.total(board)
        return tuple(self.copy(count, total, board) for count in self.boundaries(board))

    @abstractmethod
    def copy(self, count: int, total: int, board: Board) -> Copy:
        """The copy with `count` of all places erased (or put back)."""

    def judge(self, scores: Mapping[Copy, Score], board: Board) -> Verdict:
        """See `ErasureMetric.judge`."""
        along = self.copies(board)
        values = np.array([scores[copy].value for copy in along])
        shares = np.array(self.boundaries(board)) / self.total(board)
        clean, empty = scores[CLEAN].value, scores[filled(self.filling(board))].value
        reference = self.profile is Profile.REFERENCE
        area = curves.reference_area(values) if reference else curves.area(shares, values)
        return Verdict(
            area,
            normalized_value=curves.normalized_area(area, clean, empty),
            curve=CurveOutcome(shares.astype(np.float32), values.astype(np.float32), along),
            clean_score=clean,
            masked_score=empty,
        )


@dataclass(frozen=True)
class Deletion(CurveMetric):
    """Area under the score while the picture is erased."""

    name: ClassVar[str] = "deletion"
    summary: ClassVar[str] = "mean score while what the map marks is erased first"
    paper: ClassVar[str] = "Petsiuk et al., BMVC 2018"
    higher_is_better: ClassVar[bool] = False
    default_substrate: ClassVar[Substrate] = Substrate.MEAN

    def copy(self, count: int, total: int, board: Board) -> Copy:
        """See `CurveMetric.copy`: without `count` places."""
        if self.order is ErasureOrder.LEAST_RELEVANT_FIRST:
            return kept(self.filling(board), self.ranking(), total - count, total)
        return erased(self.filling(board), self.ranking(), count, total)


@dataclass(frozen=True)
class Insertion(CurveMetric):
    """Area under the score while the picture is put back."""

    name: ClassVar[str] = "insertion"
    summary: ClassVar[str] = "mean score while what the map marks is put back first"
    paper: ClassVar[str] = "Petsiuk et al., BMVC 2018"
    higher_is_better: ClassVar[bool] = True
    default_substrate: ClassVar[Substrate] = Substrate.BLUR

    def copy(self, count: int, total: int, board: Board) -> Copy:
        """See `CurveMetric.copy`: with `count` places put back."""
        if self.order is ErasureOrder.LEAST_RELEVANT_FIRST:
            return erased(self.filling(board), self.ranking(), total - count, total)
        return kept(self.filling(board), self.ranking(), count, total)
