"""Every method of Explain and of PairSimilarity with every model that gives it, and a target."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
import torch

from pairlens.rendering import Box
from pairlens_server.methods.attention import RawAttention
from pairlens_server.methods.attention_mask import AttentionMask, MaskSource
from pairlens_server.methods.base import ExplanationMethod
from pairlens_server.methods.cam import ScoreCam
from pairlens_server.methods.catalogue import EXPLANATION_METHODS, PAIR_METHODS, PairMethod
from pairlens_server.methods.correspondence import Correspondence
from pairlens_server.methods.hidden_unit import HiddenUnit
from pairlens_server.methods.parameters import Profile
from pairlens_server.methods.perturbation import IntegratedGradients
from pairlens_server.methods.rollout import Rollout
from pairlens_server.methods.similarity import PooledDecomposition
from pairlens_server.recording.facts import ModelFacts
from pairlens_server.recording.recorder import Recorder
from pairlens_server.service.commands import ClassTarget, SimilarityTarget, Target
from tests.service.conftest import CLS, CNN, MEAN, bench_models, png

PICTURE, PARTNERS = png(0), (png(1), png(2))
REGION = Box(left=3, top=3, right=30, bottom=25)
MODELS = (MEAN, CLS, CNN)

# Faster than, or besides, the defaults.
CHANGED: dict[type, tuple[Any, ...]] = {
    IntegratedGradients: (IntegratedGradients(steps=4),),
    Rollout: (Rollout(), Rollout(discard_ratio=0.5)),
    RawAttention: (RawAttention(), RawAttention(head=1)),
    HiddenUnit: (HiddenUnit(), HiddenUnit(block=0, strongest=3)),
    PooledDecomposition: tuple(PooledDecomposition(profile) for profile in Profile),
    AttentionMask: (AttentionMask(), AttentionMask(source=MaskSource.RAW, ratio=0.6)),
    Correspondence: (
        Correspondence(query_region=REGION),
        Correspondence(candidate_region=REGION),
    ),
}
OF_CNN: dict[type, tuple[Any, ...]] = {
    ScoreCam: (ScoreCam("layer1.0"),),
    IntegratedGradients: (IntegratedGradients(steps=2),),
}


@dataclass(frozen=True)
class Case:
    """One method on one model, as a call asks for it; without a target where it takes none."""

    model: str
    method: Any
    target: Target | None = None

    def __str__(self) -> str:
        kinds = {ClassTarget: "class", SimilarityTarget: "similarity", type(None): "untargeted"}
        predicted = self.target == ClassTarget()
        kind = "predicted" if predicted else kinds[type(self.target)]
        name = {MEAN: "mean", CLS: "cls", CNN: "cnn"}[self.model]
        return f"{name}-{self.method.name}-{kind}"


def facts_of(name: str) -> ModelFacts:
    """Facts of a model of the bench."""
    return _FACTS[name]


_FACTS = {model.name: Recorder(model).facts for model in bench_models()}


def _methods(kinds: tuple[type[Any], ...], model: str) -> list[Any]:
    found: list[Any] = []
    for kind in kinds:
        if not kind.refusal(_FACTS[model]):
            of_model = OF_CNN if model == CNN else {}
            found += of_model.get(kind) or CHANGED.get(kind) or (kind(),)
    return found


def _targets(method: ExplanationMethod, *, predicted: bool) -> list[Target | None]:
    targets: list[Target | None] = []
    if method.takes_class:
        targets.append(ClassTarget() if predicted else ClassTarget(1))
    if method.takes_similarity:
        targets.append(SimilarityTarget(PARTNERS))
    return targets or [None]


def explanations(*, predicted: bool) -> list[Any]:
    """Calls of Explain, for the predicted class or for one by its index."""
    return [
        pytest.param(case, id=f"{case}{index}")
        for model in MODELS
        for index, case in enumerate(
            Case(model, method, target)
            for method in _methods(EXPLANATION_METHODS, model)
            for target in _targets(method, predicted=predicted)
        )
    ]


def pairs() -> list[Any]:
    """Calls of PairSimilarity."""
    cases = [Case(model, method) for model in MODELS for method in _methods(PAIR_METHODS, model)]
    cases.append(Case(MEAN, PooledDecomposition(match_matrix=True)))
    cases.append(Case(CNN, PooledDecomposition(match_matrix=True)))
    return [pytest.param(case, id=f"{case}{index}") for index, case in enumerate(cases)]


def split_pairs() -> list[Any]:
    """Those whose method splits the similarity."""
    kinds = (PooledDecomposition, Correspondence)
    return [case for case in pairs() if isinstance(case.values[0].method, kinds)]


def resolved(case: Case) -> PairMethod:
    """The method of a case with its parameters filled in."""
    method: PairMethod = case.method.resolve(_FACTS[case.model])
    return method


def largest(*values: torch.Tensor) -> float:
    """Largest absolute value."""
    return max(float(value.abs().max()) for value in values)
