"""What a model of each family can give, and what it says where it cannot."""

from __future__ import annotations

from dataclasses import fields

import pytest
import torch

from pairlens_server.recording.facts import Refusals
from pairlens_server.recording.recorder import Recorder
from tests.support import IMAGENET_MEAN, IMAGENET_STD, resnet, vit, zoo_model, zoo_recorder
from tests.zoo import zoo

NO_ATTENTION = ("readout", "matrix", "relevance", "attribution", "layer_scores")

# Field of Refusals -> a word of the reason; what is not listed is given.
REFUSED = {
    "vit": {"parts": "class token"},
    "vit-avg": {},
    "vit-avg-fcnorm": {},
    "vit-max": dict.fromkeys(("readout", "relevance", "attribution"), "max pooling"),
    "vit-registers": {"parts": "class token"},
    "deit": {"parts": "class token"},
    "deit-distilled": {"parts": "class token"},
    "deit3": {"parts": "class token"},
    "clip": {"parts": "class token"},
    "clip-quickgelu": {"parts": "class token", "classes": "no class head"},
    "siglip": {
        **dict.fromkeys(("readout", "relevance", "attribution"), "map pooling"),
        **dict.fromkeys(("parts", "places"), "map pooling"),
    },
    "dino": {"parts": "class token", "classes": "no class head"},
    "dinov2": {"parts": "class token", "classes": "no class head"},
    "dinov2-registers": {"parts": "class token", "classes": "no class head"},
    "eva": {"attribution": "Eva"},
    "eva02": {"attribution": "Eva"},
    "eva02-token": {"attribution": "Eva", "parts": "class token"},
    "dinov3": {"attribution": "Eva", "classes": "no class head"},
    "dinov3-token": {"attribution": "Eva", "parts": "class token"},
    "swin": dict.fromkeys(NO_ATTENTION, "windows"),
    "swinv2": dict.fromkeys(NO_ATTENTION, "windows"),
    "pit": {"parts": "class token", "attribution": "Pooling", "layer_scores": "stages"},
    "pit-distilled": {"parts": "class token", "attribution": "Pooling", "layer_scores": "stages"},
    "twins-pcpvt": dict.fromkeys(NO_ATTENTION, "subsampled keys"),
    "twins-svt": dict.fromkeys(NO_ATTENTION, "subsampled keys"),
    "coat": {
        **dict.fromkeys(NO_ATTENTION, "factorised"),
        **dict.fromkeys(("parts", "places"), "several grids"),
    },
    "coat-lite": {**dict.fromkeys(NO_ATTENTION, "factorised"), "parts": "class token"},
    "convit": {"parts": "class token", "attribution": "ConVit", "layer_scores": "joins late"},
    "xcit": {
        **dict.fromkeys(("matrix", "relevance", "attribution", "layer_scores"), "channels"),
        "parts": "class token",
    },
    "convnext": dict.fromkeys(NO_ATTENTION, "no attention"),
    "convnextv2": dict.fromkeys(NO_ATTENTION, "no attention"),
    "resnet": {**dict.fromkeys(NO_ATTENTION, "no attention"), "hidden": "no MLP"},
    "resnet-max": {**dict.fromkeys(NO_ATTENTION, "no attention"), "hidden": "no MLP"},
    "resnetv2": {**dict.fromkeys(NO_ATTENTION, "no attention"), "hidden": "no MLP"},
}


def test_the_table_has_the_whole_zoo():
    assert list(REFUSED) == list(zoo())


@pytest.mark.parametrize("name", REFUSED)
def test_every_reason_names_its_cause(name):
    refusals = zoo_recorder(name).facts.refusals
    for field in fields(Refusals):
        reason, word = getattr(refusals, field.name), REFUSED[name].get(field.name, "")
        assert bool(reason) == bool(word), f"{field.name}: {reason}"
        assert word in reason


@pytest.mark.parametrize(
    ("name", "blocks", "heads", "first"),
    [
        ("vit", 3, 2, 0),
        ("dinov3", 3, 2, 0),
        ("pit", 2, 4, 0),  # of the last stage
        ("convit", 3, 4, 1),
        ("xcit", 2, 2, 0),  # of the class attention
        ("swin", 0, 0, 0),
        ("coat", 0, 0, 0),
        ("resnet", 0, 0, 0),
    ],
)
def test_blocks_and_heads_whose_attention_can_be_read(name, blocks, heads, first):
    facts = zoo_recorder(name).facts
    assert (facts.blocks, facts.heads, facts.first_readout_block) == (blocks, heads, first)


@pytest.mark.parametrize(
    ("name", "layer"),
    [
        ("vit", "blocks.2.norm1"),
        ("eva02", "blocks.2.norm1"),
        ("convit", "blocks.2.norm1"),
        ("pit", "transformers.1.blocks.1.norm1"),
        ("xcit", "cls_attn_blocks.1.norm1"),
        ("swin", "norm"),
        ("swinv2", "norm"),
        ("twins-pcpvt", "norm"),
        ("coat", "parallel_blocks.0.norm14"),
        ("coat-lite", "serial_blocks4.0.norm1"),
        ("convnext", "stages.3"),
        ("resnet", "layer4.0"),
        ("resnetv2", "norm"),
    ],
)
def test_the_default_layer_is_the_papers(name, layer):
    assert zoo_recorder(name).facts.cam_layer == layer


@pytest.mark.parametrize("name", list(REFUSED))
def test_counts_are_the_loaded_models_own(name):
    model, facts = zoo_model(name), zoo_recorder(name).facts
    assert facts.layout == model.layout
    assert (facts.classes, facts.embedding_size) == (model.classes, model.embedding_size)
    assert facts.embedding_constant.shape == (model.embedding_size,)
    assert facts.embedding_constant.dtype == torch.float32
    assert bool(facts.pooled) is not bool(facts.refusals.parts)
    if facts.pooled:
        assert facts.pooled == model.layout.readout


def test_black_is_black_as_the_input_has_it():
    expected = [-m / s for m, s in zip(IMAGENET_MEAN, IMAGENET_STD, strict=True)]
    assert Recorder(resnet()).facts.black == pytest.approx(expected)


def test_a_hidden_layer_before_the_class_head_is_refused_for_pairs():
    import timm

    from tests.models.of_zoo import random_model

    assert timm.models.ConvNeXt is type(zoo_model("convnext").network)
    model = random_model("convnext", options={"head_hidden_size": 12})
    assert "hidden layer" in Recorder(model).facts.refusals.parts


def test_a_norm_after_pooling_that_is_no_layer_norm_is_refused_for_pairs():
    from timm.layers import RmsNorm

    reason = Recorder(vit(fc_norm=True, norm_layer=RmsNorm)).facts.refusals.parts
    assert "RmsNorm" in reason
