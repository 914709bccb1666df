"""Gradients against autograd's own, in float64 through attention in the open."""

from __future__ import annotations

from copy import deepcopy

import pytest
import torch

from pairlens_server.methods.relevance import AttentionRelevance, LeGrad
from pairlens_server.recording.layers import as_maps
from pairlens_server.recording.primitives import (
    Embedding,
    FeatureGradient,
    FeatureMap,
    GradientWeightedAttention,
    LayerScoreGradient,
    Logits,
)
from pairlens_server.recording.recorder import Recorder
from pairlens_server.recording.targets import ClassLogit, Similarity
from tests.oracles import (
    close,
    doubled,
    explicit_run,
    le_grad,
    padded,
    relevance,
    score_of,
    targets_of,
)
from tests.support import explained, pixels, recorded, vit, zoo_model, zoo_recorder
from tests.zoo import zoo

RELEVANT = [
    *("vit", "vit-avg", "vit-avg-fcnorm", "vit-registers", "deit-distilled", "deit3"),
    *("clip", "clip-quickgelu", "dinov2-registers", "eva", "eva02", "eva02-token"),
    *("dinov3", "dinov3-token", "pit", "pit-distilled", "convit"),
]
LE_GRAD = [name for name in RELEVANT if name not in ("pit", "pit-distilled", "convit")]


@pytest.mark.parametrize("name", RELEVANT)
def test_gradient_weighted_attention_is_autograds(name):
    # Chefer et al., ICCV 2021, eq. 5.
    model, recorder = zoo_model(name), zoo_recorder(name)
    images, blocks = pixels(model), range(recorder.facts.blocks)
    run = explicit_run(model, images)
    for target in targets_of(model):
        wanted = [GradientWeightedAttention(b, target) for b in blocks]
        found = recorded(recorder, images, *wanted)
        slopes = torch.autograd.grad(run.score(target).sum(), run.attentions, retain_graph=True)
        for activation, attention, slope in zip(wanted, run.attentions, slopes, strict=True):
            expected = (attention.detach() * slope).clamp(min=0).mean(1)
            close(found[activation], padded(expected, model.layout.tokens), 2e-5)


@pytest.mark.parametrize("start", [0, 1])
@pytest.mark.parametrize("name", RELEVANT)
def test_attention_relevance_is_the_slow_definitions(name, start):
    model, recorder = zoo_model(name), zoo_recorder(name)
    images, layout = pixels(model), model.layout
    run = explicit_run(model, images)
    for target in targets_of(model):
        found = explained(recorder, images, AttentionRelevance(start_block=start), target)
        rows = relevance(run, target, layout.readout, start)
        for findings, row in zip(found, rows, strict=True):
            expected = row[layout.prefix :].reshape(layout.rows, layout.columns)
            close(findings.heatmap, expected, 2e-5)


@pytest.mark.parametrize("name", LE_GRAD)
def test_le_grad_is_the_slow_definitions(name):
    model, recorder = zoo_model(name), zoo_recorder(name)
    images, layout = pixels(model), model.layout
    run = explicit_run(model, images)
    for target in targets_of(model):
        found = explained(recorder, images, LeGrad(), target)
        rows = le_grad(run, target)
        for findings, row in zip(found, rows, strict=True):
            expected = row[layout.prefix :].reshape(layout.rows, layout.columns)
            close(findings.heatmap, expected, 2e-5)


def test_le_grad_of_some_blocks_is_the_mean_of_those_alone():
    model, recorder = zoo_model("vit-avg"), zoo_recorder("vit-avg")
    images, target = pixels(model), ClassLogit(2)
    rows = recorded(recorder, images, *(LayerScoreGradient(b, target) for b in (1, 2)))
    found = explained(recorder, images, LeGrad(start_block=1), target)
    mean = torch.stack(list(rows.values())).mean(0)[:, 1:].reshape(2, 4, 6)
    torch.testing.assert_close(torch.stack([f.heatmap for f in found]), mean)


LAYERS = {
    "vit": ["blocks.2.norm1", "blocks.0.norm1", "blocks.1.mlp.fc1", "patch_embed"],
    "vit-registers": ["blocks.2.norm1", "blocks.1"],
    "vit-avg-fcnorm": ["blocks.2.norm1", "blocks.2", "blocks.0.attn.qkv"],
    "vit-max": ["blocks.2.norm1", "blocks.1.mlp.act"],
    "deit-distilled": ["blocks.2.norm1", "blocks.1.norm2"],
    "siglip": ["blocks.2.norm1", "norm"],
    "eva02": ["blocks.2.norm1", "blocks.0"],
    "dinov3-token": ["blocks.2.norm1", "blocks.1.mlp"],
    "pit": ["transformers.1.blocks.1.norm1", "transformers.0.blocks.1.mlp.fc1"],
    "convit": ["blocks.2.norm1", "blocks.0.attn.qk"],
    "xcit": ["cls_attn_blocks.1.norm1", "blocks.1", "patch_embed.proj.2"],
    "swin": ["norm", "layers.1", "layers.0.blocks.1.mlp.fc2", "patch_embed.proj"],
    "swinv2": ["norm", "layers.0.blocks.0.norm1"],
    # In-place activations follow the layers of the second line.
    "twins-svt": ["norm", "blocks.0.1.mlp.fc1", "pos_block.0.proj.0"],
    "coat": ["parallel_blocks.0.norm14", "serial_blocks2.0", "crpe1.conv_list.0"],
    "coat-lite": ["serial_blocks4.0.norm1", "patch_embed2"],
    "convnext": ["stages.3", "stages.1.blocks.0.mlp.act", "stages.2.blocks.0.shortcut"],
    "resnet": ["layer4.0", "layer3", "layer1.0.bn1", "layer4.0.bn2", "layer1.0.downsample.0"],
    "resnetv2": ["norm", "stages.2", "stages.3.blocks.2.norm1.drop", "stem.conv"],
}


@pytest.mark.parametrize("name", LAYERS)
def test_feature_maps_and_gradients_at_any_layer_are_autograds(name):
    model = doubled(zoo_model(name))
    recorder, images = Recorder(model), pixels(model)
    grids = recorder.facts.layers
    run = explicit_run(model, images, LAYERS[name])
    for target in targets_of(model):
        for layer in LAYERS[name]:
            gradient = FeatureGradient(layer, target)
            found = recorded(recorder, images, FeatureMap(layer), gradient)
            output = run.outputs[layer]
            (slopes,) = torch.autograd.grad(run.score(target).sum(), output, retain_graph=True)
            close(found[gradient], as_maps(slopes, grids[layer]))
            close(found[FeatureMap(layer)], as_maps(output.detach(), grids[layer]))
            alone = recorded(recorder, images, FeatureMap(layer))[FeatureMap(layer)]
            assert torch.equal(alone, found[FeatureMap(layer)])


def test_the_patches_gradient_past_the_last_attention_is_zero_under_a_class_token():
    # methods.md C: the last block's output has zero patch gradient with a class-token readout.
    gradient = FeatureGradient("blocks.2", ClassLogit(0))
    found = recorded(zoo_recorder("vit"), pixels(zoo_model("vit")), gradient)[gradient]
    assert not found.any()


def test_under_max_pooling_the_gradient_lies_on_the_winners():
    model = doubled(zoo_model("resnet-max"))
    recorder, images = Recorder(model), pixels(model)
    run = explicit_run(model, images, ["layer4.0"])
    features = run.outputs["layer4.0"]
    for target in targets_of(model):
        found = recorded(recorder, images, FeatureGradient("layer4.0", target))
        (slopes,) = torch.autograd.grad(run.score(target).sum(), features, retain_graph=True)
        # Cells of a dead channel tie at 0: torch gives the first all of it, we equal shares.
        alive = (features > 0).any(-1).any(-1)
        gradient = found[FeatureGradient("layer4.0", target)]
        close(gradient[alive], slopes[alive])
        close(gradient.sum((2, 3)), slopes.sum((2, 3)))


@pytest.mark.parametrize("name", sorted(zoo()))
def test_scores_and_pixel_gradients_are_autograds(name):
    model = zoo_model(name)
    if name in ("resnet", "resnet-max", "resnetv2"):
        model = doubled(model)
    recorder, images = Recorder(model), pixels(model)
    inputs = images.double().requires_grad_(True)
    network = deepcopy(model.network).double()
    features = network.forward_features(inputs)
    logits = network.forward_head(features)
    pooled = network.forward_head(features, pre_logits=True).flatten(1)
    projection = None if model.projection is None else deepcopy(model.projection).double()
    embedding = pooled if projection is None else projection(pooled)
    for target in targets_of(model):
        score = score_of(target, logits, embedding)
        close(recorder.scores(images, target), score.detach())
        (slopes,) = torch.autograd.grad(score.sum(), inputs, retain_graph=True)
        if name == "resnet-max" and isinstance(target, Similarity):
            continue  # ties of dead channels; see above
        found = recorder.input_gradients(images, target)
        assert found.dtype == torch.float32
        close(found, slopes, 1e-4)


def test_the_gradient_of_a_gallery_is_the_sum_of_its_pictures_gradients():
    model, recorder = zoo_model("vit-avg"), zoo_recorder("vit-avg")
    images = pixels(model)
    gallery = recorded(recorder, pixels(model, 3, seed=8), Embedding())[Embedding()]
    layer = recorder.facts.cam_layer
    whole = FeatureGradient(layer, Similarity.to(gallery))
    single = [FeatureGradient(layer, Similarity.to(gallery[i : i + 1])) for i in range(3)]
    found = recorded(recorder, images, whole, *single)
    close(found[whole], sum(found[s] for s in single), 1e-5)


@pytest.mark.parametrize("name", ["vit", "dinov3-token", "convnext", "resnet", "coat-lite"])
def test_the_predicted_class_is_the_largest_logit(name):
    model, recorder = zoo_model(name), zoo_recorder(name)
    if not model.classes:
        return
    images, layer = pixels(model, 3), recorder.facts.cam_layer
    predicted = FeatureGradient(layer, ClassLogit(None))
    by_class = [FeatureGradient(layer, ClassLogit(c)) for c in range(model.classes)]
    found = recorded(recorder, images, Logits(), predicted, *by_class)
    for row, index in enumerate(found[Logits()].argmax(1).tolist()):
        torch.testing.assert_close(found[predicted][row], found[by_class[index]][row])


def test_residual_post_norm_and_query_key_norm_have_gradients_too():
    from timm.models.vision_transformer import ResPostBlock

    for options in ({"qk_norm": True}, {"block_fn": ResPostBlock}):
        model = vit(**options)
        recorder, images = Recorder(model), pixels(model)
        target, layer = ClassLogit(3), recorder.facts.cam_layer
        run = explicit_run(model, images, [layer])
        wanted = [FeatureGradient(layer, target), GradientWeightedAttention(1, target)]
        found = recorded(recorder, images, *wanted)
        slopes = torch.autograd.grad(
            run.score(target).sum(), [run.outputs[layer], run.attentions[1]]
        )
        close(found[wanted[0]], as_maps(slopes[0], recorder.facts.layers[layer]), 2e-5)
        expected = (run.attentions[1] * slopes[1]).clamp(min=0).mean(1)
        close(found[wanted[1]], expected.detach(), 2e-5)
