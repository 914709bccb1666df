"""Layers that LibraGrad holds constant have a zero gradient, and no error."""

from __future__ import annotations

import pytest
import torch

from pairlens_server.recording.primitives import FeatureGradient, GradientRule
from pairlens_server.recording.targets import ClassLogit
from tests.support import pixels, recorded, zoo_model, zoo_recorder

ALL = ("eva02", "eva02-token", "twins-pcpvt", "convit", "xcit", "swin", "coat", "vit")


@pytest.mark.parametrize("name", ALL)
def test_every_layer_has_a_gradient_under_both_rules(name):
    recorder, images = zoo_recorder(name), pixels(zoo_model(name), 1)
    for layer, grid in recorder.facts.layers.items():
        for rule in GradientRule:
            gradient = FeatureGradient(layer, ClassLogit(1), rule)
            found = recorded(recorder, images, gradient)[gradient]
            assert found.shape == (1, grid.channels, grid.rows, grid.columns), (layer, rule)
            assert torch.isfinite(found).all(), (layer, rule)


@pytest.mark.parametrize(
    ("name", "layer"),
    [
        ("eva02", "blocks.0.attn.q_proj"),
        ("eva02", "blocks.1.mlp.act"),
        ("convit", "blocks.0.attn.qk"),
    ],
)
def test_what_only_sets_weights_is_constant_under_libra_alone(name, layer):
    recorder, images = zoo_recorder(name), pixels(zoo_model(name), 1)
    plain, libra = (FeatureGradient(layer, ClassLogit(1), rule) for rule in GradientRule)
    assert recorded(recorder, images, plain)[plain].any()
    assert not recorded(recorder, images, libra)[libra].any()
