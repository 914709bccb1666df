"""Average drop and average increase: the score under the map against the clean one.

Chattopadhay et al., WACV 2018; the REFERENCE profile is the code of Reppas' thesis
(`metrics_classification.py`).
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from pairlens_server.errors import InvalidParameterError
from pairlens_server.fidelity.copies import CLEAN, Copy, blended
from pairlens_server.fidelity.metrics import ErasureMetric, Score, Verdict
from pairlens_server.fidelity.parameters import Board, drop_parameters
from pairlens_server.fidelity.substrates import Substrate
from pairlens_server.methods.parameters import Parameter, Profile

if TYPE_CHECKING:
    from typing_extensions import Self


@dataclass(frozen=True)
class DropMetric(ErasureMetric):
    """A metric of the score under the map, O, against the clean one, Y."""

    @classmethod
    def parameters(cls, board: Board) -> tuple[Parameter, ...]:
        """See `Metric.parameters`."""
        return drop_parameters(board)

    def resolve(self, board: Board, field: str) -> Self:
        """See `Metric.resolve`."""
        resolved = super().resolve(board, field)
        if resolved.substrate is Substrate.NOISY_LINEAR:
            raise InvalidParameterError(
                f"{self.name} blends the whole picture and takes no noisy_linear",
                field=f"{field}.substrate",
            )
        return resolved

    def copies(self, board: Board) -> tuple[Copy, ...]:
        """See `ErasureMetric.copies`."""
        return CLEAN, blended(self.filling(board))

    def judge(self, scores: Mapping[Copy, Score], board: Board) -> Verdict:
        """See `ErasureMetric.judge`."""
        clean, masked = (scores[copy] for copy in self.copies(board))
        value, undefined = self.compare(clean, masked)
        return Verdict(value, undefined, clean_score=clean.value, masked_score=masked.value)

    @abstractmethod
    def compare(self, clean: Score, masked: Score) -> tuple[float | None, str]:
        """The value from Y and O, or None and why not."""


@dataclass(frozen=True)
class AverageDrop(DropMetric):
    """max(0, Y − O) / Y."""

    name: ClassVar[str] = "average_drop"
    summary: ClassVar[str] = "share of the score that is lost under the map, 0 where it rises"
    paper: ClassVar[str] = "Chattopadhay et al., WACV 2018"
    higher_is_better: ClassVar[bool] = False

    def compare(self, clean: Score, masked: Score) -> tuple[float | None, str]:
        """See `DropMetric.compare`."""
        reason = self._undefined(clean)
        if reason:
            return None, reason
        if clean.log is not None and masked.log is not None and self.profile is Profile.STRICT:
            return max(0.0, -math.expm1(masked.log - clean.log)), ""
        return max(0.0, clean.value - masked.value) / clean.value, ""

    def _undefined(self, clean: Score) -> str:
        """Why a score has no share to lose, or ""."""
        if clean.log is None:
            return "" if clean.value > 0 else "the clean similarity is not positive"
        if self.profile is Profile.REFERENCE and np.float32(clean.value) == 0:
            return "the class's probability is zero in float32"
        return ""


@dataclass(frozen=True)
class AverageIncrease(DropMetric):
    """1 where O > Y."""

    name: ClassVar[str] = "average_increase"
    summary: ClassVar[str] = "1 where the score rises under the map, else 0"
    paper: ClassVar[str] = "Chattopadhay et al., WACV 2018"
    higher_is_better: ClassVar[bool] = True

    def compare(self, clean: Score, masked: Score) -> tuple[float | None, str]:
        """See `DropMetric.compare`: defined for any two scores."""
        if clean.log is None or masked.log is None:
            return float(masked.value > clean.value), ""
        if self.profile is Profile.STRICT:
            return float(masked.log > clean.log), ""
        return float(np.float32(masked.value) > np.float32(clean.value)), ""
