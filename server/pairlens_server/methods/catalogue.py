"""All methods, in the order in which they are shown, and the defaults."""

from __future__ import annotations

from pairlens_server.methods.affinity import Affinity
from pairlens_server.methods.attention import (
    KeyNorm,
    RawAttention,
    RawLog,
    RawPower,
    RawScores,
    ScoresTimesKeyNorm,
)
from pairlens_server.methods.attention_mask import AttentionMask
from pairlens_server.methods.base import ExplanationMethod
from pairlens_server.methods.cam import GradCam, GradCamPlusPlus, LayerCam, ScoreCam, XGradCam
from pairlens_server.methods.correspondence import Correspondence
from pairlens_server.methods.full_grad import FullGrad
from pairlens_server.methods.hidden_unit import HiddenUnit
from pairlens_server.methods.perturbation import IntegratedGradients, Occlusion
from pairlens_server.methods.relevance import AttentionRelevance, LeGrad, TransformerAttribution
from pairlens_server.methods.rollout import Rollout
from pairlens_server.methods.semantic_attention import SemanticAttention
from pairlens_server.methods.similarity import PooledDecomposition
from pairlens_server.recording.facts import ModelFacts

EXPLANATION_METHODS: tuple[type[ExplanationMethod], ...] = (
    RawAttention,
    RawScores,
    RawLog,
    RawPower,
    KeyNorm,
    ScoresTimesKeyNorm,
    Rollout,
    AttentionRelevance,
    TransformerAttribution,
    LeGrad,
    GradCam,
    GradCamPlusPlus,
    XGradCam,
    LayerCam,
    ScoreCam,
    FullGrad,
    IntegratedGradients,
    Occlusion,
    HiddenUnit,
    SemanticAttention,
    AttentionMask,
    PooledDecomposition,
    Affinity,
)
"""Methods of Explain."""

PairMethod = PooledDecomposition | Correspondence | ExplanationMethod
"""The first two split the similarity; any other method explains either picture with the
similarity to the other one as its target."""

PAIR_METHODS: tuple[type[PairMethod], ...] = (
    PooledDecomposition,
    Correspondence,
    Affinity,
    AttentionRelevance,
    TransformerAttribution,
    LeGrad,
    GradCam,
    XGradCam,
    LayerCam,
    FullGrad,
    IntegratedGradients,
    Occlusion,
)
"""Methods of PairSimilarity."""

# Chosen by docs/faithfulness.md. What takes no target comes last, for models without classes.
# TIBAV is never among them.
_DEFAULTS_FOR_A_CLASS_ON_A_VIT: tuple[type[ExplanationMethod], ...] = (
    FullGrad,
    AttentionRelevance,
)
_DEFAULTS_FOR_A_CLASS: tuple[type[ExplanationMethod], ...] = (GradCam,)
_DEFAULTS_WITHOUT_CLASSES: tuple[type[ExplanationMethod], ...] = (Rollout, RawAttention)
_DEFAULTS_FOR_A_SIMILARITY: tuple[type[ExplanationMethod], ...] = (
    AttentionRelevance,
    PooledDecomposition,
    GradCam,
    Occlusion,
)
# Of pairs: a query meets many candidates within a latency budget, and the decomposition is a
# matrix-vector product for each where attention relevance is two passes with gradients.
_DEFAULTS_FOR_A_PAIR: tuple[type[ExplanationMethod], ...] = (
    PooledDecomposition,
    AttentionRelevance,
    GradCam,
    Occlusion,
)


def _first(
    methods: tuple[type[ExplanationMethod], ...], facts: ModelFacts
) -> ExplanationMethod | None:
    chosen = next((method for method in methods if not method.refusal(facts)), None)
    return None if chosen is None else chosen().resolve(facts)


def default_explanation_method(facts: ModelFacts) -> ExplanationMethod | None:
    """What Explain runs for a class when a request names no method, resolved; None for none."""
    if facts.classes:
        vit = not facts.refusals.relevance
        by_family = _DEFAULTS_FOR_A_CLASS_ON_A_VIT if vit else _DEFAULTS_FOR_A_CLASS
        return _first(by_family, facts) or _first(_DEFAULTS_WITHOUT_CLASSES, facts)
    return _first(_DEFAULTS_WITHOUT_CLASSES, facts)


def default_similarity_method(facts: ModelFacts) -> ExplanationMethod | None:
    """What Explain runs for a similarity when a request names no method."""
    return _first(_DEFAULTS_FOR_A_SIMILARITY, facts)


def default_pair_method(facts: ModelFacts) -> ExplanationMethod | None:
    """What PairSimilarity runs when a request names no method, resolved."""
    return _first(_DEFAULTS_FOR_A_PAIR, facts)
