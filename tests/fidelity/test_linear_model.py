"""On a linear model, whose true attribution is known, no map does better than the true one.

The logit is w·x, so a pixel that is filled takes w·(x − filling) of it away, whatever else is
filled. Erasing by that number, the largest first, is the steepest fall there is, and putting
back by it the steepest rise, at every point of the curve.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import Tensor

from pairlens_server.fidelity import placing
from pairlens_server.fidelity.copies import ClassProbe, MapOnInput, SimilarityProbe
from pairlens_server.fidelity.erasures import CurveMetric, Deletion, Insertion
from pairlens_server.fidelity.metrics import Score, Verdict
from pairlens_server.fidelity.parameters import Board
from pairlens_server.fidelity.placing import ErasureOrder
from pairlens_server.fidelity.substrates import Substrate
from pairlens_server.methods.parameters import Profile
from pairlens_server.recording.targets import ScoreTarget, Similarity

SIZE = (12, 16)
BLACK = (-2.1, -2.0, -1.8)
BOARD = Board(*SIZE, cells=0, black=BLACK)
SUBSTRATES = (Substrate.MEAN, Substrate.BLACK)
STEPS = 24


@dataclass(frozen=True, eq=False)
class LinearModel:
    """Two classes with the logits w·x and 0, and the embedding (w·x, 1)."""

    weights: Tensor  # [3, H, W]

    def logits(self, pixels: Tensor) -> Tensor:
        return (self.weights * pixels).sum(dim=(1, 2, 3))

    def log_probabilities(self, pixels: Tensor) -> Tensor:
        logits = self.logits(pixels)
        return torch.stack([logits, torch.zeros_like(logits)], dim=1).log_softmax(dim=1)

    def embeddings(self, pixels: Tensor) -> Tensor:
        logits = self.logits(pixels)
        return torch.stack([logits, torch.ones_like(logits)], dim=1)

    def scores(self, pixels: Tensor, target: ScoreTarget) -> Tensor:
        return self.logits(pixels)

    def input_gradients(self, pixels: Tensor, target: ScoreTarget) -> Tensor:
        return self.weights.expand_as(pixels)


def noise(*shape: int, seed: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


PICTURE = noise(3, *SIZE, seed=1)
# Weights that leave the probability away from 0 and 1, where all curves would be flat.
MODEL = LinearModel(noise(3, *SIZE, seed=2) / 12)


def true_attribution(substrate: Substrate) -> Tensor:
    filling = torch.tensor(BLACK)[:, None, None] if substrate is Substrate.BLACK else 0
    return (MODEL.weights * (PICTURE - filling)).sum(dim=0)


def other_maps(truth: Tensor) -> dict[str, Tensor]:
    """Maps that are wrong, some of them nearly right."""
    random = {f"random {seed}": noise(*SIZE, seed=100 + seed) for seed in range(20)}
    return random | {
        "inverted": -truth,
        "without signs": truth.abs(),
        "gradient": MODEL.weights.sum(dim=0),
        "blurred": torch.nn.functional.avg_pool2d(truth[None], 3, 1, 1)[0],
        "with some noise": truth + 0.1 * noise(*SIZE, seed=3),
        "constant": torch.zeros(SIZE),
    }


def on_input(saliency: Tensor, metric: CurveMetric) -> MapOnInput:
    ranking = metric.ranking()
    ranks = placing.ranks(saliency, flipped_ties=ranking.flipped_ties).to(torch.int32)
    return MapOnInput({ranking: ranks}, placing.unit_mask(saliency))


def judged(metric: CurveMetric, saliency: Tensor) -> Verdict:
    """What a metric says of a map by the probability of class 0."""
    metric = metric.resolve(BOARD, "metrics[0]")
    copies = metric.copies(BOARD)
    probe = ClassProbe(copies, on_input(saliency, metric), (0,))
    # In two chunks, as the engine may cut them.
    ends = (0, 5, probe.steps)
    parts = [probe.run(MODEL, PICTURE[None], a, b) for a, b in pairwise(ends)]
    logs = probe.combine(parts)[:, 0].tolist()
    scores = {c: Score(float(np.exp(log)), log) for c, log in zip(copies, logs, strict=True)}
    return metric.judge(scores, BOARD)


def value_and_scores(verdict: Verdict) -> tuple[float, np.ndarray]:
    assert verdict.value is not None
    assert verdict.curve is not None
    return verdict.value, verdict.curve.scores


@pytest.mark.parametrize("profile", [Profile.STRICT, Profile.REFERENCE])
@pytest.mark.parametrize("substrate", SUBSTRATES)
@pytest.mark.parametrize("metric", [Deletion, Insertion])
def test_the_true_map_wins(
    metric: type[CurveMetric], substrate: Substrate, profile: Profile
) -> None:
    asked = metric(profile=profile, substrate=substrate, steps=STEPS)
    sign = 1 if metric.higher_is_better else -1
    truth = true_attribution(substrate)
    best, curve = value_and_scores(judged(asked, truth))
    for name, saliency in other_maps(truth).items():
        value, other = value_and_scores(judged(asked, saliency))
        assert sign * best > sign * value, name
        assert (sign * (curve - other) >= -1e-6).all(), name


@pytest.mark.parametrize("metric", [Deletion, Insertion])
def test_least_relevant_first_it_loses(metric: type[CurveMetric]) -> None:
    """The order's other end gives the worst curve there is."""
    truth = true_attribution(Substrate.MEAN)
    asked = metric(substrate=Substrate.MEAN, steps=STEPS, order=ErasureOrder.LEAST_RELEVANT_FIRST)
    sign = 1 if metric.higher_is_better else -1
    worst, _ = value_and_scores(judged(asked, truth))
    for name, saliency in other_maps(truth).items():
        assert sign * worst < sign * value_and_scores(judged(asked, saliency))[0], name


@pytest.mark.parametrize("metric", [Deletion, Insertion])
def test_the_curve_is_the_running_sum_of_the_attribution(metric: type[CurveMetric]) -> None:
    truth = true_attribution(Substrate.MEAN)
    steps = truth.numel()
    _, scores = value_and_scores(judged(metric(substrate=Substrate.MEAN, steps=steps), truth))
    falls = truth.double().flatten().sort(descending=True).values.cumsum(0)
    falls = torch.cat([torch.zeros(1, dtype=torch.float64), falls])
    logits = falls if metric is Insertion else falls[-1] - falls
    np.testing.assert_allclose(scores, logits.sigmoid().numpy(), atol=1e-6)


def test_the_true_map_wins_by_similarity() -> None:
    """The cosine of (w·x, 1) to (1, 0) rises with w·x."""
    truth = true_attribution(Substrate.MEAN)
    metric = Deletion(substrate=Substrate.MEAN, steps=STEPS).resolve(BOARD, "metrics[0]")
    copies, target = metric.copies(BOARD), Similarity.to(torch.tensor([[2.0, 0.0]]))

    def value(saliency: Tensor) -> float:
        probe = SimilarityProbe(copies, (on_input(saliency, metric),), (target,))
        found = probe.combine([probe.run(MODEL, PICTURE[None], 0, probe.steps)])[:, 0].tolist()
        scores = {copy: Score(one) for copy, one in zip(copies, found, strict=True)}
        return value_and_scores(metric.judge(scores, BOARD))[0]

    best = value(truth)
    for name, saliency in other_maps(truth).items():
        assert best < value(saliency), name
