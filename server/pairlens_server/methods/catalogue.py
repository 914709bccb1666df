"""All methods, in the order in which they are shown, and the defaults."""

from __future__ import annotations

from pairlens_server.methods.attention import RawAttention
from pairlens_server.methods.base import ExplanationMethod
from pairlens_server.methods.cam import GradCam
from pairlens_server.methods.rollout import Rollout
from pairlens_server.methods.similarity import PooledDecomposition
from pairlens_server.recording.facts import ModelFacts

EXPLANATION_METHODS: tuple[type[ExplanationMethod], ...] = (Rollout, RawAttention, GradCam)
"""Methods of Explain; the first that a model can give is its default."""

PAIR_METHODS: tuple[type[PooledDecomposition], ...] = (PooledDecomposition,)
"""Methods of PairSimilarity; the first that a model can give is its default."""


def default_explanation_method(facts: ModelFacts) -> ExplanationMethod | None:
    """What Explain runs when a request names no method, resolved; None if nothing fits."""
    for method in EXPLANATION_METHODS:
        if not method.refusal(facts):
            return method().resolve(facts)
    return None


def default_pair_method(facts: ModelFacts) -> PooledDecomposition | None:
    """What PairSimilarity runs when a request names no method, resolved; None if nothing fits."""
    for method in PAIR_METHODS:
        if not method.refusal(facts):
            return method().resolve(facts)
    return None
