"""Gradients of a pooled linear head in closed form, against autograd in float64."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from pairlens_server.recording.layers import as_maps
from pairlens_server.recording.primitives import FeatureGradient, FeatureMap, GradientRule
from pairlens_server.recording.recorder import Recorder
from pairlens_server.recording.targets import ClassLogit, Similarity
from tests.oracles import close, doubled, explicit_run, similarity, targets_of
from tests.support import pixels, recorded, resnet, zoo_model, zoo_recorder


@pytest.mark.parametrize(
    "name", ["resnet", "resnetv2", "swin", "swinv2", "twins-pcpvt", "twins-svt"]
)
def test_the_closed_form_of_a_linear_head_is_autograds(name):
    model = doubled(zoo_model(name))
    recorder, images = Recorder(model), pixels(model, 3)
    layer = recorder.facts.cam_layer
    run = explicit_run(model, images, [layer])
    for target in targets_of(model):
        gradient = FeatureGradient(layer, target)
        found = recorded(recorder, images, gradient)[gradient]
        (slopes,) = torch.autograd.grad(
            run.score(target).sum(), run.outputs[layer], retain_graph=True
        )
        expected = as_maps(slopes, recorder.facts.layers[layer])
        assert found.shape == expected.shape
        close(found, expected, 1e-6)


@pytest.mark.parametrize("projection", [None, 6])
@pytest.mark.parametrize("architecture", ["resnet10t", "resnetv2_18"])
def test_the_closed_form_with_and_without_a_projection(architecture, projection):
    model = doubled(resnet(architecture=architecture, projection=projection))
    recorder, images = Recorder(model), pixels(model)
    layer = recorder.facts.cam_layer
    run = explicit_run(model, images, [layer])
    target = similarity(model.embedding_size)
    found = recorded(recorder, images, FeatureGradient(layer, target))
    (slopes,) = torch.autograd.grad(run.score(target).sum(), run.outputs[layer])
    close(found[FeatureGradient(layer, target)], slopes, 1e-6)


@pytest.mark.parametrize("name", ["resnet", "resnetv2", "swin", "twins-svt"])
def test_a_linear_head_needs_no_backward_pass(name, monkeypatch):
    def forbidden(*_arguments, **_options):
        raise AssertionError("a backward pass ran")

    recorder, model = zoo_recorder(name), zoo_model(name)
    monkeypatch.setattr(torch.autograd, "grad", forbidden)
    gradient = FeatureGradient(recorder.facts.cam_layer, ClassLogit(None))
    found = recorded(recorder, pixels(model), gradient)[gradient]
    grid = recorder.facts.layers[recorder.facts.cam_layer]
    assert found.shape == (2, grid.channels, grid.rows, grid.columns)
    assert torch.equal(found, found[:, :, :1, :1].expand_as(found))


@pytest.mark.parametrize("name", ["resnet", "resnetv2", "swin", "twins-svt"])
def test_under_libra_the_length_of_the_embedding_is_a_constant_in_the_closed_form(name):
    # The head is linear, so that LibraGrad's gradients are those of f·u / ‖f‖ with ‖f‖ fixed.
    model = doubled(zoo_model(name))
    recorder, images = Recorder(model), pixels(model)
    layer = recorder.facts.cam_layer
    run = explicit_run(model, images, [layer])
    for target in targets_of(model):
        gradient = FeatureGradient(layer, target, GradientRule.LIBRA)
        found = recorded(recorder, images, gradient)[gradient]
        score = run.score(target)
        if isinstance(target, Similarity):
            along = target.vector.double()
            score = run.embedding @ along / run.embedding.detach().norm(dim=1)
        (slopes,) = torch.autograd.grad(score.sum(), run.outputs[layer], retain_graph=True)
        close(found, as_maps(slopes, recorder.facts.layers[layer]), 1e-6)


def test_the_gradient_of_a_cosine_leaves_its_length_alone():
    # A cosine does not change along its own embedding, so that features scaled as a whole
    # get a gradient at right angles to them under a head without bias.
    model = doubled(resnet(projection=None, classes=0))
    recorder, images = Recorder(model), pixels(model)
    layer, target = recorder.facts.cam_layer, similarity(model.embedding_size)
    found = recorded(recorder, images, FeatureMap(layer), FeatureGradient(layer, target))
    along = (found[FeatureMap(layer)] * found[FeatureGradient(layer, target)]).sum((1, 2, 3))
    torch.testing.assert_close(along, torch.zeros(2), atol=1e-6, rtol=0)


@pytest.mark.parametrize("name", ["resnet", "resnetv2", "swin", "twins-pcpvt"])
def test_the_closed_form_follows_the_libra_rule(name):
    recorder, images = zoo_recorder(name), pixels(zoo_model(name), 2)
    layer = recorder.facts.cam_layer
    for target in targets_of(zoo_model(name)):
        gradient = FeatureGradient(layer, target, GradientRule.LIBRA)
        closed = recorded(recorder, images, gradient)[gradient]
        body = recorder._body
        try:
            recorder._body = replace(body, linear_head=None)
            through_graph = recorded(recorder, images, gradient)[gradient]
        finally:
            recorder._body = body
        close(closed, through_graph, 1e-5)
        if isinstance(target, Similarity):
            plain = recorded(recorder, images, FeatureGradient(layer, target))
            assert not torch.allclose(plain[FeatureGradient(layer, target)], closed, rtol=1e-2)
