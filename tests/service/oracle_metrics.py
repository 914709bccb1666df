"""The metrics that are compared with the oracle: every parameter in some of them."""

from __future__ import annotations

from pairlens_server.fidelity.drops import AverageDrop, AverageIncrease
from pairlens_server.fidelity.erasures import CurveMetric, Deletion, Insertion
from pairlens_server.fidelity.metrics import Metric
from pairlens_server.fidelity.parameters import ScoredClass
from pairlens_server.fidelity.placing import ErasureOrder, ErasureUnit
from pairlens_server.fidelity.substrates import Substrate
from pairlens_server.methods.parameters import Profile

STRICT, REFERENCE = Profile.STRICT, Profile.REFERENCE
CELLS, LEAST = ErasureUnit.CELLS, ErasureOrder.LEAST_RELEVANT_FIRST


def _sized(metric: CurveMetric) -> bool:
    """Whether it has fewer steps than by default."""
    return bool(metric.steps or metric.step_size or metric.fractions)


DROPS: tuple[Metric, ...] = tuple(
    kind(profile=profile, **fields)
    for kind in (AverageDrop, AverageIncrease)
    for profile, fields in (
        (None, {}),
        (REFERENCE, {"scored_class": ScoredClass.PREDICTED}),
        (STRICT, {"substrate": Substrate.MEAN}),
        (STRICT, {"substrate": Substrate.BLUR, "blur_sigma": 2.5}),
        (REFERENCE, {"substrate": Substrate.BLUR}),
        (STRICT, {"substrate": Substrate.NOISE, "seed": 7}),
    )
)
CURVES: tuple[CurveMetric, ...] = tuple(
    kind(**fields)
    for kind in (Deletion, Insertion)
    for fields in (
        {},
        {"profile": REFERENCE},
        {"steps": 7},
        {"steps": 6, "order": LEAST, "substrate": Substrate.BLACK},
        {"step_size": 500, "substrate": Substrate.BLUR},
        {"fractions": (0.05, 0.3, 0.35, 0.9), "substrate": Substrate.NOISE, "seed": 3},
        {"steps": 3, "unit": CELLS, "substrate": Substrate.BLUR, "blur_sigma": 1.5},
        {"step_size": 4, "unit": CELLS, "order": LEAST, "profile": REFERENCE},
        {"profile": REFERENCE, "step_size": 400, "substrate": Substrate.BLUR},
        {"profile": REFERENCE, "scored_class": ScoredClass.TARGET, "steps": 5, "order": LEAST},
        {"scored_class": ScoredClass.PREDICTED, "steps": 4, "substrate": Substrate.MEAN},
    )
)
FEW: tuple[Metric, ...] = (
    AverageDrop(),
    AverageIncrease(substrate=Substrate.BLUR),
    Deletion(steps=5),
    Insertion(steps=4),
    Deletion(profile=REFERENCE, step_size=1500, order=LEAST),
    Insertion(steps=3, unit=CELLS, substrate=Substrate.BLACK),
)


OF_PAIRS = (*FEW, *(curve for curve in CURVES if curve.scored_class is None and _sized(curve)))
OF_DEMO: tuple[Metric, ...] = (
    AverageDrop(),
    AverageIncrease(substrate=Substrate.BLUR),
    Deletion(steps=3),
    Insertion(steps=3),
    Deletion(profile=REFERENCE, step_size=5000, substrate=Substrate.BLUR),
    Insertion(fractions=(0.1, 0.6), unit=CELLS, substrate=Substrate.NOISE, order=LEAST),
)
