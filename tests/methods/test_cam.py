"""Class activation maps as methods: layers, rules, targets; formulas in `test_cam_weights`."""

import pytest
import torch

from pairlens_server.errors import InvalidParameterError, MethodUnsupportedError
from pairlens_server.methods.cam import (
    GradCam,
    GradCamPlusPlus,
    LayerCam,
    ScoreCam,
    XGradCam,
)
from pairlens_server.recording.facts import LayerGrid, Refusals
from pairlens_server.recording.layers import as_maps
from pairlens_server.recording.primitives import (
    Embedding,
    FeatureGradient,
    FeatureMap,
    GradientRule,
)
from pairlens_server.recording.targets import ClassLogit, Similarity
from tests.oracles import explicit_run
from tests.support import explained, facts, pixels, recorded, zoo_model, zoo_recorder

CLASS, SIMILAR = ClassLogit(2), Similarity.to(torch.ones(1, 2))
GRID = LayerGrid(2, 2, 0, 2, channels_last=False)
MODEL = facts(
    2, 2, cam_layer="last", layers=dict.fromkeys(("last", "stage1", "stage2", "pooled"), GRID)
)
KINDS = (GradCam, GradCamPlusPlus, XGradCam, LayerCam)
# methods.md C
FEATURES = torch.tensor([[[1.0, 2], [3, 4]], [[2, 0], [0, 2]]])
GRADIENTS = torch.tensor([[[0.1, 0.1], [0.1, 0.1]], [[-0.2, 0.4], [0.0, 0.2]]])


@pytest.mark.parametrize("target", [CLASS, SIMILAR, ClassLogit(None)])
@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        (GradCam, [[0.3, 0.2], [0.3, 0.6]]),
        (GradCamPlusPlus, [[0.49841, 0.26667], [0.4, 0.89841]]),
        (XGradCam, [[0.1, 0.2], [0.3, 0.4]]),
        (LayerCam, [[0.1, 0.2], [0.3, 0.8]]),
    ],
)
def test_hand_checked_example_for_every_target(kind, expected, target):
    method = kind().resolve(MODEL)
    recorded = {
        FeatureMap("last"): FEATURES,
        FeatureGradient("last", target): GRADIENTS,
        # Of another target and another layer: not to be read.
        FeatureGradient("last", ClassLogit(0)): -GRADIENTS,
        FeatureMap("pooled"): -FEATURES,
    }
    heatmap = method.explain(recorded, MODEL, target).heatmap
    torch.testing.assert_close(heatmap, torch.tensor(expected), atol=5e-5, rtol=0)


def test_evidence_against_the_target_is_zero():
    recorded = {FeatureMap("last"): FEATURES, FeatureGradient("last", CLASS): -FEATURES}
    heatmap = GradCam().resolve(MODEL).explain(recorded, MODEL, CLASS).heatmap
    assert heatmap.tolist() == [[0, 0], [0, 0]]


@pytest.mark.parametrize("kind", [*KINDS, ScoreCam])
def test_the_default_layer_is_the_models_and_any_other_can_be_named(kind):
    assert kind().resolve(MODEL).layer == "last"
    assert kind(layer="stage1").resolve(MODEL).layer == "stage1"
    assert FeatureMap("stage1") in kind(layer="stage1").resolve(MODEL).needs(MODEL, CLASS)


@pytest.mark.parametrize("kind", [*KINDS, ScoreCam])
def test_an_unknown_layer_is_refused_with_near_names(kind):
    with pytest.raises(InvalidParameterError) as caught:
        kind(layer="stage3").resolve(MODEL)
    assert caught.value.field == f"method.{kind.name}.layer"
    assert "'stage3'" in caught.value.message
    assert "near: stage" in caught.value.message
    assert "stage1" in caught.value.message
    assert "stage2" in caught.value.message
    assert "pooled" not in caught.value.message


def test_a_layer_like_no_other_has_no_near_names():
    with pytest.raises(InvalidParameterError) as caught:
        GradCam(layer="qqqq").resolve(MODEL)
    assert "near" not in caught.value.message


@pytest.mark.parametrize("layer", ["layer5", "fc", "global_pool", "layer4.0.conv9", ""])
def test_layers_of_a_real_model_without_a_grid_are_refused(layer):
    with pytest.raises(InvalidParameterError, match="grid"):
        GradCam(layer=layer).resolve(zoo_recorder("resnet").facts)


def test_the_rule_decides_which_gradient_is_taken():
    for kind in (GradCam, XGradCam, LayerCam):
        plain = kind().resolve(MODEL)
        libra = kind(rule=GradientRule.LIBRA).resolve(MODEL)
        assert FeatureGradient("last", CLASS) in plain.needs(MODEL, CLASS)
        needed = FeatureGradient("last", CLASS, GradientRule.LIBRA)
        assert libra.needs(MODEL, CLASS) == (FeatureMap("last"), needed)


def test_a_model_without_libra_refuses_the_rule_and_nothing_else():
    model = facts(
        2, 2, cam_layer="last", layers={"last": GRID}, refusals=Refusals(libra="odd norms")
    )
    assert GradCam().resolve(model).rule is GradientRule.PLAIN
    with pytest.raises(MethodUnsupportedError, match="odd norms; use rule plain") as caught:
        XGradCam(rule=GradientRule.LIBRA).resolve(model)
    assert caught.value.field == "method.x_grad_cam.rule"


def test_a_model_without_a_grid_refuses_the_method():
    assert "grid" in GradCam.refusal(facts(2, 2))
    assert "grid" in ScoreCam.refusal(facts(2, 2))
    assert GradCam.refusal(MODEL) == ""


@pytest.mark.parametrize(
    ("name", "layer"),
    [
        ("vit", "blocks.2.norm1"),
        ("vit", "blocks.0.norm1"),
        ("swin", "layers.0.blocks.1.norm1"),
        ("resnet", "layer3"),
        ("coat-lite", "serial_blocks2.0"),
    ],
)
def test_maps_of_real_models_are_the_definition_on_autograds_gradients(name, layer):
    model, recorder = zoo_model(name), zoo_recorder(name)
    images, grid = pixels(model), recorder.facts.layers[layer]
    gallery = recorded(recorder, pixels(model, 2, seed=6), Embedding())[Embedding()]
    run = explicit_run(model, images, [layer])
    for target in (ClassLogit(1), Similarity.to(gallery)):
        output = run.outputs[layer]
        (slopes,) = torch.autograd.grad(run.score(target).sum(), output, retain_graph=True)
        features, gradients = as_maps(output.detach(), grid), as_maps(slopes, grid)
        weights = gradients.mean((2, 3))
        expected = torch.einsum("bk,bkuv->buv", weights, features).relu()
        found = explained(recorder, images, GradCam(layer=layer), target)
        maps = torch.stack([f.heatmap for f in found])
        assert maps.shape[1:] == (grid.rows, grid.columns)
        scale = float(expected.max())
        assert scale > 0
        torch.testing.assert_close(maps, expected, atol=1e-4 * scale, rtol=0)


def test_cams_of_a_pooled_linear_head_coincide():
    # methods.md C: with layer4[-1] → pooling → fc the gradient is the same in every cell, so
    # that GradCAM and XGradCAM are one map.
    recorder, images = zoo_recorder("resnet"), pixels(zoo_model("resnet"))
    for target in (ClassLogit(3), ClassLogit(4)):
        grad = explained(recorder, images, GradCam(), target)
        x_grad = explained(recorder, images, XGradCam(), target)
        for one, other in zip(grad, x_grad, strict=True):
            torch.testing.assert_close(one.heatmap, other.heatmap, atol=1e-5, rtol=1e-5)


def test_score_cam_weighs_channels_by_the_softmax_of_their_scores():
    # methods.md C: scores (3, 1) give weights (.881, .119).
    model = facts(2, 2, cam_layer="last", layers={"last": GRID})
    method = ScoreCam().resolve(model)
    recorded = {FeatureMap("last"): FEATURES}
    probe = method.probe(recorded, model, CLASS)
    assert probe.steps == 2
    first = int((probe.masks[0] - (FEATURES[0] - 1)).abs().sum() > 0)  # which mask is channel 0's
    by_mask = torch.tensor([3.0, 1.0] if first == 0 else [1.0, 3.0])
    recorded[method.probed(CLASS)] = probe.combine([by_mask])
    heatmap = method.explain(recorded, model, CLASS).heatmap
    expected = 0.880797 * FEATURES[0] + 0.119203 * FEATURES[1]
    torch.testing.assert_close(heatmap, expected, atol=1e-5, rtol=0)


def test_score_cam_asks_dead_channels_once():
    model = facts(2, 2, cam_layer="last", layers={"last": GRID})
    features = torch.cat([FEATURES, torch.zeros(3, 2, 2), FEATURES[:1] + 7])
    probe = ScoreCam().resolve(model).probe({FeatureMap("last"): features}, model, CLASS)
    assert probe.steps == 3  # two, and one for all that are constant; the last is the first's


def test_scores_of_score_cam_outlive_the_features_that_their_masks_were_made_of():
    """Computed again in another batch, features differ in their last bits, and masks in order."""
    model = facts(2, 2, cam_layer="last", layers={"last": GRID})
    method = ScoreCam().resolve(model)
    alike = torch.tensor([[[1.0, 0], [2, 3]], [[1.0, 3], [2, 0]], [[1.0, 0], [2, 3]]])
    first = alike * torch.tensor([1 + 1e-6, 1, 1 + 1e-6])[:, None, None]
    again = alike * torch.tensor([1, 1 + 1e-6, 1 + 2e-6])[:, None, None]
    probe = method.probe({FeatureMap("last"): first}, model, CLASS)
    assert (probe.steps, method.probe({FeatureMap("last"): again}, model, CLASS).steps) == (2, 3)
    scores = probe.combine([torch.tensor([5.0, 1.0])])
    maps = [
        method.explain({FeatureMap("last"): f, method.probed(CLASS): scores}, model, CLASS).heatmap
        for f in (first, again)
    ]
    torch.testing.assert_close(*maps, atol=1e-4, rtol=1e-4)
