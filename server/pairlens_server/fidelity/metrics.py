"""What every metric of a map's faithfulness offers, and what it comes to on a picture.

A metric is a frozen value, its fields named as in the contract (`metrics.proto`), where the
definitions stand.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

import numpy as np
from numpy.typing import NDArray

from pairlens_server.errors import InvalidParameterError
from pairlens_server.fidelity.copies import Copy
from pairlens_server.fidelity.parameters import Board, ScoredClass
from pairlens_server.fidelity.substrates import Filling, Substrate, default_blur_sigma
from pairlens_server.methods.parameters import Parameter, Profile

if TYPE_CHECKING:
    from typing_extensions import Self


@dataclass(frozen=True)
class Score:
    """Score of a copy.

    Attributes:
        value: Probability in [0, 1], or (summed) cosine similarity.
        log: Logarithm of a probability; None for a similarity.
    """

    value: float
    log: float | None = None


@dataclass(frozen=True, eq=False)
class CurveOutcome:
    """Scores along an erasure: float32 [points] each, and the copies that have them."""

    fractions: NDArray[np.float32]
    scores: NDArray[np.float32]
    copies: tuple[Copy, ...]


@dataclass(frozen=True, eq=False)
class Verdict:
    """What a metric came to on one picture.

    Attributes:
        value: None where it is undefined.
        undefined: Why, or "".
        normalized_value: See `MetricResult` of the contract.
        curve: Of deletion and insertion.
        clean_score, masked_score: See `MetricResult`.
    """

    value: float | None
    undefined: str = ""
    normalized_value: float | None = None
    curve: CurveOutcome | None = None
    clean_score: float | None = None
    masked_score: float | None = None


@dataclass(frozen=True)
class Metric(ABC):
    """A metric with its parameters.

    Attributes:
        name: Name in the contract.
        summary: One line on what the value is.
        paper: Authors, venue and year.
        higher_is_better: Whether a larger value speaks for the map, with the defaults.
        needs_region: Whether it asks where the object is.
    """

    name: ClassVar[str]
    summary: ClassVar[str]
    paper: ClassVar[str]
    higher_is_better: ClassVar[bool]
    needs_region: ClassVar[bool] = False

    @classmethod
    @abstractmethod
    def parameters(cls, board: Board) -> tuple[Parameter, ...]:
        """One for each field, with range and default."""

    def resolve(self, board: Board, field: str) -> Self:
        """Fill in the defaults and check every parameter.

        Args:
            board: What the map lies on.
            field: Path of the metric in the request, for errors.

        Raises:
            InvalidParameterError: A parameter is out of range; names the field.
        """
        return replace(
            self,
            **{
                p.name: p.resolved(getattr(self, p.name), f"{field}.{p.name}")
                for p in self.parameters(board)
            },
        )


@dataclass(frozen=True)
class ErasureMetric(Metric):
    """A metric of scores of changed copies; call the methods when resolved."""

    profile: Profile | None = None
    substrate: Substrate | None = None
    blur_sigma: float | None = None
    seed: int | None = None
    scored_class: ScoredClass | None = None

    def filling(self, board: Board) -> Filling:
        """What stands in for erased content."""
        assert self.substrate is not None
        return Filling(
            substrate=self.substrate,
            black=board.black,
            sigma=self.blur_sigma,
            seed=self.seed or 0,
            reference_blur=self.profile is Profile.REFERENCE,
        )

    def resolve(self, board: Board, field: str) -> Self:
        """See `Metric.resolve`; the blur's deviation becomes a number, where there is one."""
        self._check_profile(field)
        resolved = super().resolve(board, field)
        blurs = resolved.substrate is Substrate.BLUR and resolved.profile is Profile.STRICT
        if resolved.blur_sigma is None and blurs:
            sigma = default_blur_sigma(board.height, board.width)
            return replace(resolved, blur_sigma=sigma)
        if resolved.blur_sigma is not None and not blurs:
            raise InvalidParameterError(
                "blur_sigma is of substrate blur under profile strict", field=f"{field}.blur_sigma"
            )
        return resolved

    def _check_profile(self, field: str) -> None:
        if self.profile is Profile.PAPER:
            raise InvalidParameterError(
                f"{self.name} has profiles strict and reference", field=f"{field}.profile"
            )

    @abstractmethod
    def copies(self, board: Board) -> tuple[Copy, ...]:
        """The copies whose scores `judge` looks at."""

    @abstractmethod
    def judge(self, scores: Mapping[Copy, Score], board: Board) -> Verdict:
        """The metric, from the scores of its copies."""
