import pytest
import timm
import torch
from pytorch_grad_cam import GradCAM
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

from pairlens_server.methods.cam import grad_cam
from pairlens_server.recording.activations import (
    Embedding,
    FeatureGradient,
    FeatureMap,
    Logits,
    PooledParts,
)
from pairlens_server.recording.resnet import ResNetRecorder
from tests.support import pixels, resnet

KINDS = {
    "average": {},
    "max": {"pooling": "max"},
    "basic blocks": {"architecture": "resnet18"},
    "dilated": {"output_stride": 16},
    "pre-activation": {"architecture": "resnetv2_18"},
}


@pytest.mark.parametrize("projection", [None, 6])
@pytest.mark.parametrize("kind", KINDS)
def test_parts_and_constant_sum_to_the_embedding(kind, projection):
    model = resnet(**KINDS[kind], projection=projection)
    images = pixels(model)
    recorder = ResNetRecorder(model)
    found = recorder.record(images, {PooledParts(): [0, 1], Embedding(): [0, 1]})
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
    gradient = FeatureGradient(3)
    found = ResNetRecorder(model).record(
        images, {gradient: [0, 1], FeatureMap(): [0, 1], Logits(): [0, 1]}
    )
    with torch.no_grad():
        features = model.network.forward_features(images)
    features.requires_grad_(True)
    logits = model.network.forward_head(features)
    (slopes,) = torch.autograd.grad(logits[:, 3].sum(), features)
    torch.testing.assert_close(found[gradient], slopes, atol=1e-6, rtol=1e-4)
    torch.testing.assert_close(found[Logits()], logits.detach(), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("kind", ["average", "max"])
def test_every_picture_gets_the_gradient_of_its_own_class(kind):
    model = resnet(**KINDS[kind])
    images = pixels(model, 3)
    recorder = ResNetRecorder(model)
    predicted = recorder.record(images, {Logits(): [0, 1, 2]})[Logits()].argmax(1)
    mixed = recorder.record(images, {FeatureGradient(1): [0], FeatureGradient(None): [0, 2]})
    for class_index, pictures in ((1, [0]), (None, [0, 2])):
        for row, picture in enumerate(pictures):
            index = int(predicted[picture]) if class_index is None else class_index
            alone = recorder.record(images[picture : picture + 1], {FeatureGradient(index): [0]})[
                FeatureGradient(index)
            ]
            torch.testing.assert_close(
                mixed[FeatureGradient(class_index)][row], alone[0], atol=1e-6, rtol=1e-4
            )


def test_grad_cam_agrees_with_the_grad_cam_package_on_resnet18():
    model = resnet(architecture="resnet18", classes=4)
    images = pixels(model)
    wanted = {FeatureGradient(c): [0, 1] for c in range(4)} | {FeatureMap(): [0, 1]}
    found = ResNetRecorder(model).record(images, wanted)
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
            ours = grad_cam(found[FeatureMap()], found[FeatureGradient(class_index)])
            tolerance = 1e-4 * max(float(theirs.max()), 1e-6)
            torch.testing.assert_close(ours, theirs, atol=tolerance, rtol=1e-4)
            coloured += bool(theirs.max() > 0)
    assert coloured >= 2


def test_a_linear_head_needs_no_backward_pass(monkeypatch):
    def forbidden(*_arguments, **_options):
        raise AssertionError("a backward pass ran")

    monkeypatch.setattr(torch.autograd, "grad", forbidden)
    model = resnet()
    found = ResNetRecorder(model).record(pixels(model), {FeatureGradient(None): [0, 1]})
    assert found[FeatureGradient(None)].shape[0] == 2


def test_other_poolings_are_refused_for_pairs():
    model = resnet(pooling="avgmax")
    assert "avgmax" in ResNetRecorder(model).facts.parts_refusal


def test_a_headless_model_has_no_gradient_but_pairs():
    facts = ResNetRecorder(resnet(classes=0)).facts
    assert "no class head" in facts.gradient_refusal
    assert facts.parts_refusal == ""
    assert "no attention" in facts.attention_refusal


def test_feature_map_is_the_final_norm_of_a_pre_activation_resnet():
    # methods.md C: BiT uses the final norm and ReLU output, not the raw stage output.
    model = resnet(**KINDS["pre-activation"])
    images = pixels(model)
    seen = []
    handle = model.network.norm.register_forward_hook(lambda _m, _i, o: seen.append(o))
    found = ResNetRecorder(model).record(images, {FeatureMap(): [0, 1]})
    handle.remove()
    torch.testing.assert_close(found[FeatureMap()], seen[0])
    assert isinstance(model.network, timm.models.ResNetV2)
