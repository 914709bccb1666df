"""What recording costs, in plain forward passes; the engine fills its batches by it."""

import pytest
import torch

from pairlens_server.methods.catalogue import EXPLANATION_METHODS
from pairlens_server.methods.similarity import PooledDecomposition
from pairlens_server.recording.primitives import (
    Embedding,
    FeatureGradient,
    FeatureMap,
    GradientRule,
    GradientWeightedAttention,
    KeypointCounts,
    LayerScoreGradient,
    Logits,
    ReadoutAttention,
    TransformerAttributionRow,
)
from pairlens_server.recording.targets import ClassLogit, Similarity
from tests.support import zoo_recorder

TARGET = ClassLogit(1)


def last_layer(recorder):
    return recorder.facts.cam_layer


@pytest.mark.parametrize(
    ("activations", "cost"),
    [
        ([], 1.0),
        ([Embedding()], 1.0),
        ([Embedding(), Logits(), ReadoutAttention(0), ReadoutAttention(1)], 1.0),
        ([KeypointCounts(True)], 1.0),
        ([KeypointCounts(True), ReadoutAttention(0)], 1.0),
        ([GradientWeightedAttention(0, TARGET)], 2.5),
        # Of one pass, and what needs no graph rides along.
        ([GradientWeightedAttention(b, TARGET) for b in (0, 1)] + [Embedding()], 2.5),
        ([LayerScoreGradient(0, TARGET), LayerScoreGradient(1, TARGET), Logits()], 2.5),
        ([TransformerAttributionRow(0, TARGET, False)], 10.0),
        # Passes that cannot be one add up.
        ([TransformerAttributionRow(0, TARGET, False), GradientWeightedAttention(0, TARGET)], 12.5),
        ([TransformerAttributionRow(0, TARGET, False), Embedding()], 11.0),
    ],
)
def test_the_passes_of_a_vit_are_counted(activations, cost):
    assert zoo_recorder("vit").cost(activations) == cost


def test_a_gradient_at_the_last_layer_costs_little_and_one_below_a_backward_pass():
    recorder = zoo_recorder("vit")
    layer = last_layer(recorder)
    deep = next(name for name in recorder.facts.layers if name != layer)
    gradient = FeatureGradient(layer, TARGET, GradientRule.PLAIN)
    assert recorder.cost([gradient, FeatureMap(layer)]) == 1.5
    assert recorder.cost([FeatureGradient(deep, TARGET)]) == 2.5
    assert recorder.cost([gradient, FeatureGradient(deep, TARGET)]) == 2.5
    assert recorder.cost([FeatureGradient(deep, TARGET, GradientRule.LIBRA)]) == 3.0


def test_a_gradient_that_is_a_row_of_the_head_costs_no_pass():
    recorder = zoo_recorder("resnet")
    assert recorder.cost([FeatureGradient(last_layer(recorder), TARGET)]) == 1.0


@pytest.mark.parametrize("name", ["vit", "vit-avg", "deit-distilled", "swin", "convnext", "resnet"])
def test_costs_are_those_that_callers_are_told(name):
    recorder = zoo_recorder(name)
    facts = recorder.facts
    similarity = Similarity.to(torch.ones(1, facts.embedding_size))
    for method in EXPLANATION_METHODS:
        if method.refusal(facts) or method.name in (
            "score_cam",
            "integrated_gradients",
            "occlusion",
        ):
            continue  # probes, whose chunks have costs of their own
        target = ClassLogit(0) if method.takes_class and facts.classes else similarity
        cost = recorder.cost(method().resolve(facts).needs(facts, target))
        assert cost == pytest.approx(method.forward_passes(facts), abs=0.51), method.name
        assert (2 * cost).is_integer()


def test_the_folded_parts_of_a_pair_cost_one_pass():
    recorder = zoo_recorder("vit-avg")
    assert recorder.cost(PooledDecomposition().resolve(recorder.facts).pair_needs()) == 1.0
