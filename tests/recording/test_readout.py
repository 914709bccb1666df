"""Logits, embeddings and what tokens add to them, against timm's own head."""

from __future__ import annotations

import pytest
import torch

from pairlens_server.recording.primitives import (
    Embedding,
    Logits,
    PooledParts,
    ProjectedTokens,
)
from pairlens_server.recording.readout import Readout
from pairlens_server.recording.recorder import Recorder
from tests.oracles import explicit_run
from tests.support import pixels, recorded, resnet, vit, zoo_model, zoo_recorder
from tests.zoo import zoo

ALL = sorted(zoo())
SPLIT = [
    *("vit-avg", "vit-avg-fcnorm", "vit-max", "eva", "eva02", "dinov3", "swin", "swinv2"),
    *("twins-pcpvt", "twins-svt", "convnext", "convnextv2", "resnet", "resnet-max", "resnetv2"),
]


@pytest.mark.parametrize("name", ALL)
def test_logits_and_embedding_are_timms_own(name):
    model, recorder = zoo_model(name), zoo_recorder(name)
    images = pixels(model)
    wanted = [Embedding(), Logits()] if model.classes else [Embedding()]
    found = recorded(recorder, images, *wanted)
    run = explicit_run(model, images)
    assert found[Embedding()].shape == (2, recorder.facts.embedding_size)
    torch.testing.assert_close(
        found[Embedding()].double(), run.embedding.detach(), atol=2e-5, rtol=1e-5
    )
    if model.classes:
        torch.testing.assert_close(
            found[Logits()].double(), run.logits.detach(), atol=5e-5, rtol=1e-5
        )


def test_every_model_of_the_zoo_that_splits_is_tested_here():
    assert {n for n in ALL if not zoo_recorder(n).facts.refusals.parts} == set(SPLIT)


@pytest.mark.parametrize("name", SPLIT)
def test_parts_and_constant_sum_to_the_embedding(name):
    model, recorder = zoo_model(name), zoo_recorder(name)
    facts = recorder.facts
    found = recorded(recorder, pixels(model), PooledParts(), Embedding())
    split = found[PooledParts()]
    assert split.shape == (2, model.layout.tokens, facts.embedding_size)
    total = split.sum(1) + facts.embedding_constant
    torch.testing.assert_close(total, found[Embedding()], atol=1e-5, rtol=1e-5)
    unpooled = [t for t in range(model.layout.tokens) if t not in facts.pooled]
    assert not split[:, unpooled].any()


def test_parts_before_the_norm_by_hand():
    # ConvNeXt norms after pooling: g ⊙ (x/N − mean(x/N)) / σ of the pooled vector; its own LN.
    model, recorder = zoo_model("convnext"), zoo_recorder("convnext")
    images = pixels(model)
    found = recorded(recorder, images, PooledParts())[PooledParts()]
    run = explicit_run(model, images, ["stages.3"])
    cells = run.outputs["stages.3"].detach().flatten(2).mT / 6
    norm = run.network.head.norm
    pooled = cells.sum(1, keepdim=True)
    sigma = (pooled.var(-1, unbiased=False, keepdim=True) + norm.eps).sqrt()
    expected = norm.weight * (cells - cells.mean(-1, keepdim=True)) / sigma
    torch.testing.assert_close(found.double(), expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(recorder.facts.embedding_constant, norm.bias.float())


def test_the_winners_of_max_pooling_own_it():
    model, recorder = zoo_model("resnet-max"), zoo_recorder("resnet-max")
    images = pixels(model)
    found = recorded(recorder, images, PooledParts())[PooledParts()]
    with torch.no_grad():
        cells = model.network.forward_features(images).flatten(2).mT
    largest = cells.amax(1, keepdim=True)
    assert torch.equal(found != 0, (cells == largest) & (largest > 0))
    torch.testing.assert_close(found.sum(1), largest[:, 0])


PLACED = [name for name in ALL if name not in ("siglip", "coat")]


@pytest.mark.parametrize("name", PLACED)
def test_a_place_read_alone_is_the_head_of_a_picture_of_nothing_else(name):
    model, recorder = zoo_model(name), zoo_recorder(name)
    images = pixels(model)
    assert recorder.facts.refusals.places == ""
    found = recorded(recorder, images, ProjectedTokens())[ProjectedTokens()]
    readout = recorder._body.readout
    with torch.no_grad():
        features = readout.features(images)
        tokens = readout.tokens(features)
        for token in range(tokens.shape[1]):
            place = tokens[:, token]
            if features.ndim == 3:
                alone = place[:, None].expand(tokens.shape)
            elif name.startswith("swin"):
                alone = place[:, None, None].expand(features.shape)
            else:
                alone = place[:, :, None, None].expand(features.shape)
            # A head reads the same from tokens that are all alike, however it pools.
            pooled = model.network.forward_head(alone, pre_logits=True).flatten(1)
            expected = pooled if model.projection is None else model.projection(pooled)
            torch.testing.assert_close(found[:, token], expected, atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("name", ["siglip", "coat"])
def test_heads_that_read_no_single_token_are_refused(name):
    assert zoo_recorder(name).facts.refusals.places


def test_the_class_token_read_alone_is_the_embedding():
    for name in ("vit", "clip", "xcit", "convit", "pit", "coat-lite"):
        found = recorded(
            zoo_recorder(name), pixels(zoo_model(name)), ProjectedTokens(), Embedding()
        )
        torch.testing.assert_close(
            found[ProjectedTokens()][:, 0], found[Embedding()], atol=1e-5, rtol=1e-5
        )


def test_places_of_a_pooled_model_average_to_its_embedding():
    # Without a norm after it, pooling and an affine projection commute.
    for name in ("vit-avg", "swin", "resnet", "resnetv2"):
        model = zoo_model(name)
        found = recorded(zoo_recorder(name), pixels(model), ProjectedTokens(), Embedding())
        mean = found[ProjectedTokens()][:, list(model.layout.readout)].mean(1)
        torch.testing.assert_close(mean, found[Embedding()], atol=1e-5, rtol=1e-5)


def test_the_constant_is_the_bias_of_norm_and_projection():
    model = vit(fc_norm=True)
    norm, linear = model.network.fc_norm, model.projection
    expected = linear.weight @ norm.bias + linear.bias
    torch.testing.assert_close(Recorder(model).facts.embedding_constant, expected)
    plain = resnet(projection=None)
    assert not Recorder(plain).facts.embedding_constant.any()


def test_tokens_stand_row_by_row_whatever_the_layout():
    swin, cnn = zoo_recorder("swin")._body.readout, zoo_recorder("resnet")._body.readout
    assert isinstance(swin, Readout)
    last = torch.arange(1 * 2 * 3 * 4.0).view(1, 2, 3, 4)
    assert torch.equal(swin.tokens(last)[0, 5], last[0, 1, 2])
    assert torch.equal(cnn.tokens(last.permute(0, 3, 1, 2))[0, 4], last[0, 1, 1])
