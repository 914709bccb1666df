"""Residual networks, post- and pre-activation."""

import pytest
import torch
from pytorch_grad_cam import GradCAM
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

from pairlens_server.methods.cam_weights import grad_cam
from pairlens_server.models.loaded import Family
from pairlens_server.recording.primitives import (
    Embedding,
    FeatureGradient,
    FeatureMap,
    Logits,
    PooledParts,
)
from pairlens_server.recording.recorder import Recorder
from pairlens_server.recording.targets import ClassLogit
from tests.support import pixels, recorded, resnet

KINDS = {
    "average": {},
    "max": {"pooling": "max"},
    "basic blocks": {"architecture": "resnet18"},
    "dilated": {"output_stride": 16},
    "pre-activation": {"architecture": "resnetv2_18"},
}


def at(recorder, class_index):
    """The gradient of a class at the default layer."""
    return FeatureGradient(recorder.facts.cam_layer, ClassLogit(class_index))


@pytest.mark.parametrize("projection", [None, 6])
@pytest.mark.parametrize("kind", KINDS)
def test_parts_and_constant_sum_to_the_embedding(kind, projection):
    model = resnet(**KINDS[kind], projection=projection)
    images = pixels(model)
    recorder = Recorder(model)
    found = recorded(recorder, images, PooledParts(), Embedding())
    assert found[PooledParts()].shape == (2, model.layout.cells, model.embedding_size)
    total = found[PooledParts()].sum(1) + recorder.facts.embedding_constant
    torch.testing.assert_close(total, found[Embedding()], atol=1e-4, rtol=1e-4)
    with torch.no_grad():
        features = model.network.forward_features(images)
        pooled = model.network.forward_head(features, pre_logits=True)
        expected = pooled if projection is None else model.projection(pooled)
    torch.testing.assert_close(found[Embedding()], expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_gradient_agrees_with_autograd(kind):
    model = resnet(**KINDS[kind])
    images = pixels(model)
    recorder = Recorder(model)
    found = recorded(recorder, images, at(recorder, 3), Logits())
    with torch.no_grad():
        features = model.network.forward_features(images)
    features.requires_grad_(True)
    logits = model.network.forward_head(features)
    (slopes,) = torch.autograd.grad(logits[:, 3].sum(), features)
    torch.testing.assert_close(found[at(recorder, 3)], slopes, atol=1e-6, rtol=1e-4)
    torch.testing.assert_close(found[Logits()], logits.detach(), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("kind", ["average", "max"])
def test_every_picture_gets_the_gradient_of_its_own_class(kind):
    model = resnet(**KINDS[kind])
    images = pixels(model, 3)
    recorder = Recorder(model)
    predicted = recorded(recorder, images, Logits())[Logits()].argmax(1)
    mixed = recorder.record(images, {at(recorder, 1): [0], at(recorder, None): [0, 2]})
    for class_index, pictures in ((1, [0]), (None, [0, 2])):
        for row, picture in enumerate(pictures):
            index = int(predicted[picture]) if class_index is None else class_index
            one = at(recorder, index)
            alone = recorder.record(images[picture : picture + 1], {one: [0]})[one]
            torch.testing.assert_close(
                mixed[at(recorder, class_index)][row], alone[0], atol=1e-6, rtol=1e-4
            )


def test_grad_cam_agrees_with_the_grad_cam_package_on_resnet18():
    model = resnet(architecture="resnet18", classes=4)
    images = pixels(model)
    recorder = Recorder(model)
    features = FeatureMap(recorder.facts.cam_layer)
    found = recorded(recorder, images, features, *(at(recorder, c) for c in range(4)))
    for parameter in model.network.parameters():
        parameter.requires_grad_(True)
    coloured = 0
    with GradCAM(model.network, [model.network.layer4[-1]]) as package:
        for class_index in range(4):
            package(images, [ClassifierOutputTarget(class_index)] * 2)
            activations = package.activations_and_grads.activations[-1].numpy()
            gradients = package.activations_and_grads.gradients[-1].numpy()
            theirs = package.get_cam_image(
                images, package.target_layers[-1], None, activations, gradients
            )
            theirs = torch.from_numpy(theirs).relu()
            ours = grad_cam(found[features], found[at(recorder, class_index)])
            tolerance = 1e-4 * max(float(theirs.max()), 1e-6)
            torch.testing.assert_close(ours, theirs, atol=tolerance, rtol=1e-4)
            coloured += bool(theirs.max() > 0)
    assert coloured >= 2


def test_other_poolings_are_refused_for_pairs():
    assert "avgmax" in Recorder(resnet(pooling="avgmax")).facts.refusals.parts


def test_a_headless_model_has_no_logits_but_pairs():
    refusals = Recorder(resnet(classes=0)).facts.refusals
    assert "no class head" in refusals.classes
    assert refusals.parts == ""
    for reason in (refusals.readout, refusals.matrix, refusals.relevance, refusals.layer_scores):
        assert "no attention" in reason


@pytest.mark.parametrize(("kind", "layer"), [("average", "layer4.0"), ("basic blocks", "layer4.1")])
def test_the_default_layer_is_the_last_block_after_its_addition(kind, layer):
    # methods.md C: the code takes layer4[-1], where the thesis' text says its last convolution.
    assert Recorder(resnet(**KINDS[kind])).facts.cam_layer == layer


def test_feature_map_is_the_final_norm_of_a_pre_activation_resnet():
    # methods.md C: BiT uses the final norm and ReLU output, not the raw stage output.
    model = resnet(**KINDS["pre-activation"])
    assert model.family is Family.RESNETV2
    images = pixels(model)
    found = recorded(Recorder(model), images, FeatureMap("norm"))[FeatureMap("norm")]
    assert Recorder(model).facts.cam_layer == "norm"
    with torch.no_grad():
        torch.testing.assert_close(found, model.network.forward_features(images))
    assert float(found.min()) == 0
