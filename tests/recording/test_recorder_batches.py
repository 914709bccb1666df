"""A picture's activations are its own, whoever is in the batch and whatever they want."""

from __future__ import annotations

import pytest
import torch

from pairlens_server.recording.activations import Activation
from pairlens_server.recording.attention import HeadFusion
from pairlens_server.recording.facts import ModelFacts
from pairlens_server.recording.primitives import (
    AttentionMatrix,
    Embedding,
    FeatureGradient,
    FeatureMap,
    FusedAttention,
    GradientContributions,
    GradientRule,
    GradientWeightedAttention,
    HiddenActivations,
    KeyNorms,
    LayerScoreGradient,
    Logits,
    PooledParts,
    ProjectedTokens,
    ReadoutAttention,
    ReadoutLogAttention,
    ReadoutScores,
    TransformerAttributionRow,
)
from pairlens_server.recording.targets import ClassLogit, ScoreTarget, Similarity
from tests.support import pixels, recorded, zoo_model, zoo_recorder

# Those of one anatomy stand for each other; the deep ResNetV2 is left to the gradients' tests,
# where it runs in float64: its ReLUs flip on float32's rounding.
MODELS = [
    *("vit", "vit-avg", "vit-max", "vit-registers", "deit-distilled", "siglip", "eva02"),
    *("dinov3-token", "swin", "swinv2", "pit-distilled", "twins-svt", "coat", "coat-lite"),
    *("convit", "xcit", "convnextv2", "resnet", "resnet-max"),
]


def still(facts: ModelFacts) -> list[Activation]:
    """All activations without a graph that a model can give."""
    layers = list(facts.layers)
    found: list[Activation] = [Embedding(), FeatureMap(facts.cam_layer)]
    found += [FeatureMap(layers[0]), FeatureMap(layers[len(layers) // 2])]
    refusals = facts.refusals
    if not refusals.classes:
        found.append(Logits())
    if not refusals.parts:
        found.append(PooledParts())
    if not refusals.places:
        found.append(ProjectedTokens())
    if not refusals.hidden:
        found += [HiddenActivations(0), HiddenActivations(len(facts.hidden_layers) - 1)]
    if facts.blocks and not refusals.readout:
        block = facts.blocks - 1
        found += [kind(block) for kind in (ReadoutAttention, ReadoutScores, KeyNorms)]
        found.append(ReadoutLogAttention(facts.first_readout_block))
    if facts.blocks and not refusals.matrix:
        found += [FusedAttention(0, fusion) for fusion in HeadFusion]
        found.append(AttentionMatrix(1))
    return found


def steep(facts: ModelFacts, target: ScoreTarget) -> list[Activation]:
    """All activations with a graph that a model can give."""
    middle = list(facts.layers)[len(facts.layers) // 2]
    found: list[Activation] = [FeatureGradient(facts.cam_layer, target)]
    found.append(FeatureGradient(middle, target))
    refusals = facts.refusals
    if not refusals.libra:
        found.append(FeatureGradient(facts.cam_layer, target, GradientRule.LIBRA))
        found.append(GradientContributions(target, GradientRule.LIBRA, absolute=False))
    if not refusals.contributions:
        found.append(GradientContributions(target, GradientRule.PLAIN, absolute=True))
    if facts.blocks and not refusals.relevance:
        found += [GradientWeightedAttention(b, target) for b in range(facts.blocks)]
    if not refusals.layer_scores:
        found += [LayerScoreGradient(b, target) for b in (0, facts.blocks - 1)]
    if not refusals.attribution:
        found.append(TransformerAttributionRow(0, target, single_precision=False))
    return found


def some_targets(facts: ModelFacts) -> list[ScoreTarget]:
    generator = torch.Generator().manual_seed(5)
    size = facts.embedding_size
    similarities = [Similarity.to(torch.randn(n, size, generator=generator)) for n in (1, 3)]
    classes = [] if facts.refusals.classes else [ClassLogit(0), ClassLogit(3), ClassLogit(None)]
    return [*similarities, *classes]


def agree(found: torch.Tensor, expected: torch.Tensor, what: Activation) -> None:
    scale = max(1e-6, float(expected.abs().max()))
    torch.testing.assert_close(
        found / scale, expected / scale, atol=1e-5, rtol=0, msg=lambda text: f"{what}\n{text}"
    )


@pytest.mark.parametrize("name", MODELS)
def test_a_picture_alone_and_in_a_mixed_batch(name):
    recorder, images = zoo_recorder(name), pixels(zoo_model(name), 5)
    facts = recorder.facts
    targets = some_targets(facts)
    wanted: dict[Activation, list[int]] = {a: [0, 2, 4] for a in still(facts)}
    for number, target in enumerate(targets):
        for activation in steep(facts, target):
            # Every target has its own pictures, some of them two targets, and 4 has none.
            wanted[activation] = sorted({number % 4, (number + 1) % 4})
    found = recorder.record(images, wanted)
    for activation, pictures in wanted.items():
        assert found[activation].dtype == torch.float32
        assert len(found[activation]) == len(pictures)
        assert not found[activation].requires_grad
    for picture in range(5):
        mine = [a for a, pictures in wanted.items() if picture in pictures]
        alone = recorder.record(images[picture : picture + 1], {a: [0] for a in mine})
        for activation in mine:
            row = wanted[activation].index(picture)
            agree(found[activation][row], alone[activation][0], activation)


@pytest.mark.parametrize("name", ["vit", "swin", "convit", "pit", "resnet", "convnext"])
def test_an_activation_alone_and_together_with_all_others(name):
    recorder, images = zoo_recorder(name), pixels(zoo_model(name))
    target = some_targets(recorder.facts)[-1]
    wanted = [*still(recorder.facts), *steep(recorder.facts, target)]
    together = recorded(recorder, images, *wanted)
    for activation in wanted:
        alone = recorded(recorder, images, activation)[activation]
        agree(together[activation], alone, activation)


def test_several_targets_of_one_picture_in_one_call():
    recorder, images = zoo_recorder("vit"), pixels(zoo_model("vit"), 1)
    layer = recorder.facts.cam_layer
    targets = some_targets(recorder.facts)
    wanted = {FeatureGradient(layer, t): [0] for t in targets}
    wanted |= {GradientWeightedAttention(1, t): [0] for t in targets[:3]}
    found = recorder.record(images, wanted)
    rows = [found[FeatureGradient(layer, t)].flatten() for t in targets[:4]]
    for number, row in enumerate(rows):
        for other in rows[:number]:
            assert float((row - other).abs().max()) > 1e-3 * float(row.abs().max())
    for activation in wanted:
        agree(found[activation], recorder.record(images, {activation: [0]})[activation], activation)


def test_both_rules_of_one_picture_in_one_call():
    recorder, images = zoo_recorder("vit-avg"), pixels(zoo_model("vit-avg"), 2)
    layer, target = recorder.facts.cam_layer, ClassLogit(1)
    plain = FeatureGradient(layer, target)
    libra = FeatureGradient(layer, target, GradientRule.LIBRA)
    found = recorder.record(images, {plain: [0, 1], libra: [1], ReadoutAttention(2): [0, 1]})
    agree(found[plain], recorded(recorder, images, plain)[plain], plain)
    agree(found[libra], recorded(recorder, images, libra)[libra][[1]], libra)
    assert float((found[libra][0] - found[plain][1]).abs().max()) > 1e-3
    attention = recorded(recorder, images, ReadoutAttention(2))[ReadoutAttention(2)]
    agree(found[ReadoutAttention(2)], attention, ReadoutAttention(2))


def test_only_the_pictures_that_want_an_activation_get_it():
    recorder, images = zoo_recorder("vit-avg"), pixels(zoo_model("vit-avg"), 3)
    whole = recorded(recorder, images, FusedAttention(1), PooledParts())
    some = recorder.record(images, {FusedAttention(1): [2], PooledParts(): [0, 2]})
    torch.testing.assert_close(some[FusedAttention(1)], whole[FusedAttention(1)][[2]])
    torch.testing.assert_close(some[PooledParts()], whole[PooledParts()][[0, 2]])


@pytest.mark.parametrize("name", ["vit", "resnetv2", "swin", "xcit"])
def test_two_recordings_of_the_same_are_the_same(name):
    recorder, images = zoo_recorder(name), pixels(zoo_model(name))
    wanted = [*still(recorder.facts), *steep(recorder.facts, some_targets(recorder.facts)[0])]
    first, second = (recorded(recorder, images, *wanted) for _ in range(2))
    for activation in wanted:
        assert torch.equal(first[activation], second[activation])


def test_pictures_without_a_gradient_build_no_graph():
    # Picture 1 wants attention alone: it must not ride along in picture 0's pass.
    model, recorder = zoo_model("vit"), zoo_recorder("vit")
    images, passes = pixels(model, 2), []
    watch = model.network.patch_embed.register_forward_pre_hook(
        lambda _module, inputs: passes.append((len(inputs[0]), torch.is_grad_enabled()))
    )
    gradient = FeatureGradient(recorder.facts.cam_layer, ClassLogit(0))
    recorder.record(images, {gradient: [0], ReadoutAttention(0): [0, 1]})
    assert sorted(passes) == [(1, False), (1, True)]
    passes.clear()
    recorder.record(images, {ReadoutAttention(0): [0, 1], Embedding(): [1]})
    assert passes == [(2, False)]
    passes.clear()
    recorder.record(images, {gradient: [0, 1], ReadoutAttention(0): [0, 1], Embedding(): [1]})
    assert passes == [(2, True)]
    watch.remove()
