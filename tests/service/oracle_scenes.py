"""A picture or a pair with random maps, scored by the service and by the oracle."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import pytest
from numpy.typing import NDArray
from torch import Tensor

from pairlens_server.demo.pairs import PAIRS
from pairlens_server.fidelity.copies import Side
from pairlens_server.fidelity.drops import AverageDrop
from pairlens_server.fidelity.erasures import CurveMetric, Deletion, Insertion
from pairlens_server.fidelity.metrics import ErasureMetric, Metric
from pairlens_server.fidelity.parameters import ScoredClass
from pairlens_server.fidelity.placing import Enlargement
from pairlens_server.models.loaded import LoadedModel
from pairlens_server.service.commands import Target
from pairlens_server.service.score_commands import (
    GivenHeatmap,
    MetricOutcome,
    ScoreCommand,
    ScoreOutcome,
)
from tests.fidelity import oracle

from .conftest import Bench, png
from .oracle_metrics import CELLS, LEAST, REFERENCE

TOLERANCE = 1e-5


@dataclass(frozen=True, eq=False)
class Scene:
    """A picture, or a pair, with random maps on the model's grid."""

    bench: Bench
    model: LoadedModel
    files: tuple[bytes, ...]
    maps: tuple[oracle.Array, ...]
    enlargement: Enlargement = Enlargement.BILINEAR

    @cached_property
    def pictures(self) -> tuple[Tensor, ...]:
        return tuple(self.bench.pixels(self.model.name, file) for file in self.files)

    @property
    def size(self) -> tuple[int, int]:
        return self.model.preprocessing.height, self.model.preprocessing.width

    async def score(
        self, metrics: tuple[Metric, ...], target: Target | None, *sides: Side, **fields: object
    ) -> ScoreOutcome:
        both = any(side is not Side.IMAGE for side in sides)
        command = ScoreCommand(
            self.model.name,
            self.files[0],
            metrics,
            heatmap=GivenHeatmap(self.maps[0]),
            partner_heatmap=GivenHeatmap(self.maps[1]) if both else None,
            target=target,
            sides=sides,
            enlargement=self.enlargement,
        )
        return await self.bench.use_cases.score(replace(command, **fields))

    def changed(self, metric: ErasureMetric, which: int) -> oracle.Changed:
        """One picture as the oracle erases it, with the contract's defaults."""
        assert isinstance(metric, CurveMetric)
        grid, reference = self.maps[which], metric.profile is REFERENCE
        order = {"reference": reference, "least_first": metric.order is LEAST}
        if metric.unit is CELLS:
            groups = oracle.cell_groups(grid, self.size, **order)
        else:
            groups = oracle.pixel_groups(self.on_input(which), **order)
        if metric.fractions:
            shares = [float(np.float32(share)) for share in metric.fractions]
            inner = [int(share * len(groups) + 0.5) for share in shares]
            counts = (0, *inner, len(groups))
        elif metric.steps is None and (metric.step_size or reference):
            counts = oracle.counts_of_step(len(groups), metric.step_size or 224)
        else:
            counts = oracle.even_counts(len(groups), metric.steps or 64)
        default = "mean" if isinstance(metric, Deletion) else "blur"
        return oracle.Changed(
            self.pictures[which], self.filling(metric, which, default), groups, counts
        )

    def on_input(self, which: int) -> oracle.Array:
        if self.maps[which].shape == self.size:
            return self.maps[which]
        return oracle.enlarge(self.maps[which], self.size, self.enlargement.value)

    def filling(self, metric: ErasureMetric, which: int, default: str) -> Tensor:
        return oracle.filling(
            self.model,
            self.pictures[which],
            metric.substrate.value if metric.substrate else default,
            reference=metric.profile is REFERENCE,
            sigma=metric.blur_sigma,
            seed=metric.seed or 0,
        )


@dataclass(frozen=True, eq=False)
class Expected:
    value: float
    clean: float
    masked: float
    normalized: float | None = None
    fractions: NDArray[np.float64] | None = None
    scores: list[float] | None = None
    copies: list[list[Tensor]] | None = None


def expected(
    scene: Scene, metric: Metric, score: oracle.Score, which: tuple[int, ...] = (0,)
) -> Expected:
    """What the oracle makes of a metric, by a score of the pictures that are changed."""
    assert isinstance(metric, ErasureMetric)
    clean = score(*(scene.pictures[one] for one in which))
    if not isinstance(metric, CurveMetric):
        masked = score(
            *(
                oracle.under_map(
                    scene.pictures[one], scene.on_input(one), scene.filling(metric, one, "black")
                )
                for one in which
            )
        )
        judge = oracle.drop if isinstance(metric, AverageDrop) else oracle.increase
        return Expected(judge(clean, masked), clean, masked)
    insert = isinstance(metric, Insertion)
    changed = [scene.changed(metric, one) for one in which]
    scores, copies = oracle.curve(changed, score, insert=insert)
    empty = score(*(one.fill for one in changed))
    shares = np.array(changed[0].counts) / len(changed[0].groups)
    spaced = metric.profile is REFERENCE
    return Expected(
        oracle.reference_area(scores) if spaced else oracle.area(shares, scores),
        clean,
        empty,
        oracle.normalised_area(None if spaced else shares, scores, clean, empty),
        shares,
        scores,
        copies,
    )


def check(found: MetricOutcome, wanted: Expected) -> None:
    what = str(found.metric)
    assert found.undefined == "", what
    assert found.value == pytest.approx(wanted.value, abs=TOLERANCE), what
    assert found.clean_score == pytest.approx(wanted.clean, abs=TOLERANCE), what
    assert found.masked_score == pytest.approx(wanted.masked, abs=TOLERANCE), what
    if wanted.scores is None:
        assert found.curve is None
        return
    assert found.curve is not None
    assert wanted.fractions is not None
    np.testing.assert_allclose(found.curve.fractions, wanted.fractions, atol=1e-7, err_msg=what)
    np.testing.assert_allclose(found.curve.scores, wanted.scores, atol=TOLERANCE, err_msg=what)
    if found.metric.profile is not REFERENCE:
        check_normalized(found, wanted)


def check_normalized(found: MetricOutcome, wanted: Expected) -> None:
    """Compare the scaled area, which `test_normalized_by_the_profiles_rule` does for REFERENCE."""
    what = str(found.metric)
    assert found.curve is not None
    if wanted.normalized is None:
        assert found.normalized_value is None, what
        return
    # A scaled area is the area, scaled: whichever rule the profile has for it.
    span = wanted.clean - wanted.masked
    assert wanted.normalized == pytest.approx((wanted.value - wanted.masked) / span)
    # Dividing by the ends' distance makes what is left of rounding larger.
    allowed = TOLERANCE * max(1, 1 / abs(span))
    assert found.normalized_value == pytest.approx(wanted.normalized, abs=allowed), what


def reads_predicted(metric: Metric) -> bool:
    """Whether a metric reads the predicted class, with the contract's defaults."""
    assert isinstance(metric, ErasureMetric)
    if metric.scored_class is not None:
        return metric.scored_class is ScoredClass.PREDICTED
    return metric.profile is REFERENCE and isinstance(metric, CurveMetric)


def random_map(seed: int, size: tuple[int, int]) -> oracle.Array:
    """With negative values and ties, as the maps of CAMs have them."""
    values = np.random.default_rng(seed).normal(size=size).astype(np.float32)
    return np.where(values > 0.8, np.float32(0.8), values)


def scene_of(
    bench: Bench, model: LoadedModel, enlargement: Enlargement = Enlargement.BILINEAR
) -> Scene:
    grid = model.layout.rows, model.layout.columns
    files = (png(1), png(2))
    if model.name.startswith("demo"):
        files = (PAIRS[0].query.read_bytes(), PAIRS[0].candidate.read_bytes())
    return Scene(bench, model, files, (random_map(3, grid), random_map(4, grid)), enlargement)
