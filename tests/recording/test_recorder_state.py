"""A recording leaves its model as it was, also when it fails."""

from __future__ import annotations

import pytest
import torch
from torch.overrides import _get_current_function_mode_stack

from pairlens_server.models.loaded import LoadedModel
from pairlens_server.recording.activations import Activation
from pairlens_server.recording.primitives import (
    FeatureGradient,
    FeatureMap,
    FusedAttention,
    GradientContributions,
    GradientRule,
    GradientWeightedAttention,
    HiddenActivations,
    LayerScoreGradient,
    TransformerAttributionRow,
)
from pairlens_server.recording.recorder import Recorder
from pairlens_server.recording.targets import ClassLogit, Similarity
from tests.support import pixels, recorded, vit, zoo_model, zoo_recorder
from tests.zoo import zoo

HOOKS = (
    *("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks"),
    *("_forward_hooks_always_called", "_forward_hooks_with_kwargs"),
)


def assert_untouched(model: LoadedModel) -> None:
    assert _get_current_function_mode_stack() == []
    assert torch.is_grad_enabled()
    for name, module in model.network.named_modules():
        assert not module.training, name
        for hooks in HOOKS:
            assert not getattr(module, hooks), f"{hooks} of {name}"
        patched = {key for key in vars(module) if callable(vars(module)[key])}
        assert "forward" not in patched, name
    parameters = list(model.network.parameters())
    if model.projection is not None:
        parameters += model.projection.parameters()
    assert not any(p.requires_grad or p.grad is not None for p in parameters)


def everything(recorder: Recorder) -> list[Activation]:
    """One activation of each kind of pass that a model can give."""
    facts = recorder.facts
    target = Similarity.to(torch.ones(1, facts.embedding_size))
    found: list[Activation] = [
        FeatureMap(facts.cam_layer),
        FeatureGradient(next(iter(facts.layers)), target),
    ]
    if not facts.refusals.libra:
        found.append(FeatureGradient(facts.cam_layer, target, GradientRule.LIBRA))
        found.append(GradientContributions(target, GradientRule.LIBRA, absolute=False))
    if not facts.refusals.hidden:
        found.append(HiddenActivations(0))
    if facts.blocks and not facts.refusals.matrix:
        found += [FusedAttention(0), GradientWeightedAttention(1, target)]
    if not facts.refusals.layer_scores:
        found.append(LayerScoreGradient(1, target))
    if not facts.refusals.attribution:
        found.append(TransformerAttributionRow(0, target, single_precision=True))
    return found


@pytest.mark.parametrize("name", sorted(zoo()))
def test_a_recording_leaves_the_model_as_it_was(name):
    model, recorder = zoo_model(name), zoo_recorder(name)
    images = pixels(model)
    state = {key: value.clone() for key, value in model.network.state_dict().items()}
    with torch.no_grad():
        before = model.network(images)
    recorded(recorder, images, *everything(recorder))
    recorder.scores(images, Similarity.to(torch.ones(1, model.embedding_size)))
    recorder.input_gradients(images, Similarity.to(torch.ones(1, model.embedding_size)))
    assert_untouched(model)
    with torch.no_grad():
        torch.testing.assert_close(model.network(images), before, atol=1e-6, rtol=0)
    for key, value in model.network.state_dict().items():
        assert torch.equal(value, state[key]), key


@pytest.mark.parametrize("name", sorted(zoo()))
def test_looking_a_model_over_leaves_it_as_it_was(name):
    zoo_recorder(name)
    assert_untouched(zoo_model(name))


def test_inputs_stay_as_they_were():
    model, recorder = zoo_model("resnet"), zoo_recorder("resnet")
    images = pixels(model)
    before = images.clone()
    recorded(recorder, images, *everything(recorder))
    assert torch.equal(images, before)
    assert not images.requires_grad


NO_CLASS = ClassLogit(99)
FAILING: dict[str, Activation] = {
    "gradient": FeatureGradient("blocks.2.norm1", NO_CLASS),
    "gradient, libra": FeatureGradient("blocks.2.norm1", NO_CLASS, GradientRule.LIBRA),
    "relevance": GradientWeightedAttention(1, NO_CLASS),
    "layer scores": LayerScoreGradient(1, NO_CLASS),
    "attribution": TransformerAttributionRow(0, NO_CLASS, single_precision=True),
    "contributions": GradientContributions(NO_CLASS, GradientRule.LIBRA, absolute=False),
}


@pytest.mark.parametrize("what", FAILING)
def test_a_pass_that_fails_at_its_target_leaves_nothing_behind(what):
    model, recorder = zoo_model("vit"), zoo_recorder("vit")
    with pytest.raises((IndexError, RuntimeError)):
        recorder.record(pixels(model), {FAILING[what]: [0, 1], FusedAttention(0): [0, 1]})
    assert_untouched(model)


@pytest.mark.parametrize("name", ["vit", "eva02", "pit", "convit", "xcit", "swin", "coat"])
def test_a_pass_that_fails_at_its_input_leaves_nothing_behind(name):
    model, recorder = zoo_model(name), zoo_recorder(name)
    for activation in everything(recorder):
        with pytest.raises((RuntimeError, AssertionError, ValueError)):
            recorder.record(torch.zeros(1, 4, 32, 48), {activation: [0]})
        assert_untouched(model)


def test_a_pass_that_fails_within_attention_leaves_nothing_behind():
    model = vit(pooling="token")
    recorder, images = Recorder(model), pixels(model)
    good = recorded(recorder, images, FusedAttention(2))

    def fail(*_: object) -> None:
        raise MemoryError("no room")

    broken = model.network.blocks[1].attn.qkv.register_forward_hook(fail)
    for activation in everything(recorder):
        if isinstance(activation, TransformerAttributionRow):
            continue  # computes the layer by itself
        with pytest.raises(MemoryError):
            recorder.record(images, {activation: [0]})
    broken.remove()
    assert_untouched(model)
    again = recorded(recorder, images, FusedAttention(2))
    assert torch.equal(again[FusedAttention(2)], good[FusedAttention(2)])


def test_a_recording_within_no_grad_still_has_gradients():
    # The worker's thread may or may not build graphs; a pass decides for itself.
    model, recorder = zoo_model("vit"), zoo_recorder("vit")
    images, gradient = pixels(model), FeatureGradient("blocks.2.norm1", ClassLogit(0))
    expected = recorded(recorder, images, gradient)[gradient]
    with torch.no_grad():
        found = recorded(recorder, images, gradient)[gradient]
        assert not torch.is_grad_enabled()
    assert torch.equal(found, expected)
