"""Localisation: whether a map lies where the object is. No copy is scored."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from pairlens.rendering import GridGeometry
from pairlens_server.fidelity import localisation
from pairlens_server.fidelity.localisation import RegionOfInterest
from pairlens_server.fidelity.metrics import Metric, Verdict
from pairlens_server.fidelity.parameters import Board
from pairlens_server.methods.parameters import Parameter


@dataclass(frozen=True)
class LocalisationMetric(Metric):
    """A metric of where the map lies; no copy is scored."""

    needs_region: ClassVar[bool] = True
    higher_is_better: ClassVar[bool] = True

    @abstractmethod
    def judge(
        self, heatmap: NDArray[np.float32], geometry: GridGeometry, region: RegionOfInterest
    ) -> Verdict:
        """The metric of a map [rows, columns] on its grid."""


@dataclass(frozen=True)
class PointingGame(LocalisationMetric):
    """Whether the map is largest in the region."""

    name: ClassVar[str] = "pointing_game"
    summary: ClassVar[str] = "1 where the map's largest cell lies in the region, else 0"
    paper: ClassVar[str] = "Zhang et al., IJCV 2018"

    tolerance: float | None = None

    @classmethod
    def parameters(cls, board: Board) -> tuple[Parameter, ...]:
        """See `Metric.parameters`."""
        text = "how far outside still counts, in original pixels"
        return (Parameter("tolerance", "float", 0.0, text, minimum=0),)

    def judge(
        self, heatmap: NDArray[np.float32], geometry: GridGeometry, region: RegionOfInterest
    ) -> Verdict:
        """See `LocalisationMetric.judge`."""
        assert self.tolerance is not None
        return Verdict(localisation.pointing_game(heatmap, geometry, region, self.tolerance))


@dataclass(frozen=True)
class EnergyPointingGame(LocalisationMetric):
    """How much of the map's positive part lies in the region."""

    name: ClassVar[str] = "energy_pointing_game"
    summary: ClassVar[str] = "share of the map's positive values that lies in the region"
    paper: ClassVar[str] = "Wang et al., CVPR Workshops 2020"

    @classmethod
    def parameters(cls, board: Board) -> tuple[Parameter, ...]:
        """See `Metric.parameters`."""
        return ()

    def judge(
        self, heatmap: NDArray[np.float32], geometry: GridGeometry, region: RegionOfInterest
    ) -> Verdict:
        """See `LocalisationMetric.judge`."""
        value = localisation.energy_pointing_game(heatmap, geometry, region)
        return Verdict(value, "" if value is not None else "the map has no positive value")
