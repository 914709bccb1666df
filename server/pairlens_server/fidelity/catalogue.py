"""All metrics, in the contract's order."""

from __future__ import annotations

from pairlens_server.fidelity.drops import AverageDrop, AverageIncrease
from pairlens_server.fidelity.erasures import Deletion, Insertion
from pairlens_server.fidelity.metrics import Metric
from pairlens_server.fidelity.pointing import EnergyPointingGame, PointingGame

METRICS: tuple[type[Metric], ...] = (
    AverageDrop,
    AverageIncrease,
    Deletion,
    Insertion,
    PointingGame,
    EnergyPointingGame,
)
"""All metrics, in the contract's order."""
