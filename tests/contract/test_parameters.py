"""Every parameter out of range, through gRPC: the field and what is wrong with it."""

import numpy as np
import pytest

from pairlens.v1 import methods_pb2
from tests.contract.support import (
    array,
    decomposition,
    failure_of,
    image,
    png,
    refused,
    tensor,
    unseen,
)

VIT, CNN, HEADLESS = "tiny-vit", "tiny-resnet", "tiny-headless"
NAN = float("nan")


def like(embeddings) -> dict:
    """A similarity target of embeddings."""
    return {"similarity": {"embeddings": tensor(embeddings)}}


LIKE_PICTURE = {"similarity": {"images": [image(png(1))]}}


@pytest.fixture(autouse=True)
def _the_server_goes_on(server):
    yield
    # A forward pass of its own: a cached answer would not show that the device goes on.
    answer = server.explain(VIT, unseen())
    assert answer.timing.cached_images == 0
    assert np.isfinite(array(answer.heatmap.values)).all()


@pytest.mark.parametrize(
    ("model", "fields", "path"),
    [
        ("", {}, "model"),
        (VIT, {"method": {}}, "method"),
        (VIT, {"method": {"raw_attention": {"block": 3}}}, "method.raw_attention.block"),
        (VIT, {"method": {"raw_attention": {"head": 2}}}, "method.raw_attention.head"),
        (VIT, {"method": {"raw_attention": {"head": 2**32 - 1}}}, "method.raw_attention.head"),
        (VIT, {"method": {"rollout": {"start_block": 3}}}, "method.rollout.start_block"),
        (VIT, {"method": {"rollout": {"end_block": 3}}}, "method.rollout.end_block"),
        (
            VIT,
            {"method": {"rollout": {"start_block": 2, "end_block": 1}}},
            "method.rollout.start_block",
        ),
        (VIT, {"method": {"rollout": {"profile": 9}}}, "method.rollout.profile"),
        (VIT, {"method": {"grad_cam": {}}, "target": {"class_index": 5}}, "target.class_index"),
        (VIT, {"method": {"grad_cam": {}}, "target": {"label": "dog"}}, "target.label"),
        (CNN, {"target": {"label": "Dog"}}, "target.label"),
        (CNN, {"target": {"label": "newt "[:3]}}, "target.label"),
        (CNN, {"target": {"label": ""}}, "target.label"),
        (CNN, {"target": {"class_index": 8}}, "target.class_index"),
        (CNN, {"target": {}}, "target"),
        (CNN, {"target": {"predicted": False}}, "target.predicted"),
        (VIT, {"method": {"rollout": {}}, "target": {"class_index": 0}}, "target"),
        (VIT, {"method": {"rollout": {}}, "target": {"predicted": True}}, "target"),
        (VIT, {"method": {"raw_power": {"power": 0}}}, "method.raw_power.power"),
        (VIT, {"method": {"raw_power": {"power": 1.5}}}, "method.raw_power.power"),
        (VIT, {"method": {"raw_power": {"power": NAN}}}, "method.raw_power.power"),
        (VIT, {"method": {"raw_scores": {"block": 3}}}, "method.raw_scores.block"),
        (VIT, {"method": {"key_norm": {"head": 2}}}, "method.key_norm.head"),
        (VIT, {"method": {"raw_log": {"each": 9}}}, "method.raw_log.each"),
        (VIT, {"method": {"rollout": {"discard_ratio": 1}}}, "method.rollout.discard_ratio"),
        (VIT, {"method": {"rollout": {"discard_ratio": NAN}}}, "method.rollout.discard_ratio"),
        (
            VIT,
            {"method": {"attention_relevance": {"start_block": 3}}},
            "method.attention_relevance.start_block",
        ),
        (VIT, {"method": {"le_grad": {"start_block": 7}}}, "method.le_grad.start_block"),
        (VIT, {"method": {"grad_cam": {"layer": "nowhere"}}}, "method.grad_cam.layer"),
        (VIT, {"method": {"score_cam": {"layer": ""}}}, "method.score_cam.layer"),
        (VIT, {"method": {"grad_cam": {"rule": 9}}}, "method.grad_cam.rule"),
        (
            VIT,
            {"method": {"integrated_gradients": {"steps": 1}}},
            "method.integrated_gradients.steps",
        ),
        (
            VIT,
            {"method": {"integrated_gradients": {"steps": 513}}},
            "method.integrated_gradients.steps",
        ),
        (VIT, {"method": {"occlusion": {"window": 2}}}, "method.occlusion.window"),
        (VIT, {"method": {"occlusion": {"window": 0}}}, "method.occlusion.window"),
        (VIT, {"method": {"occlusion": {"window": 5}}}, "method.occlusion.window"),
        (VIT, {"method": {"hidden_unit": {"unit": 64}}}, "method.hidden_unit.unit"),
        (VIT, {"method": {"hidden_unit": {"block": 3}}}, "method.hidden_unit.block"),
        (VIT, {"method": {"hidden_unit": {"strongest": 65}}}, "method.hidden_unit.strongest"),
        (VIT, {"method": {"semantic_attention": {"line": 11}}}, "method.semantic_attention.line"),
        (VIT, {"method": {"attention_mask": {"ratio": 0}}}, "method.attention_mask.ratio"),
        (VIT, {"method": {"attention_mask": {"ratio": 1}}}, "method.attention_mask.ratio"),
        (VIT, {"method": {"attention_mask": {"blocks": [0, 3]}}}, "method.attention_mask.blocks"),
        (VIT, {"method": {"attention_mask": {"blocks": [1, 1]}}}, "method.attention_mask.blocks"),
        (
            VIT,
            {"method": {"attention_mask": {"source": "MASK_SOURCE_RAW", "power": 0.5}}},
            "method.attention_mask.power",
        ),
        (
            VIT,
            {
                "method": {
                    "attention_mask": {
                        "source": "MASK_SOURCE_ROLLOUT",
                        "start_block": 2,
                        "end_block": 1,
                    }
                }
            },
            "method.attention_mask.start_block",
        ),
        (HEADLESS, {"method": {"grad_cam": {}}}, "target"),
        (HEADLESS, {"method": {"grad_cam": {}}, "target": {"class_index": 0}}, "target"),
        (HEADLESS, {"method": {"occlusion": {}}, "target": {"predicted": True}}, "target"),
        (VIT, {"method": {"pooled_decomposition": {}}}, "target"),
        (VIT, {"method": {"affinity": {}}, "target": {"class_index": 0}}, "target"),
        (VIT, {"method": {"rollout": {}}, "target": LIKE_PICTURE}, "target.similarity"),
        (VIT, {"target": {"similarity": {}}}, "target.similarity"),
        (VIT, {"target": like(np.ones((1, 5)))}, "target.similarity.embeddings"),
        (VIT, {"target": like(np.zeros((1, 6)))}, "target.similarity.embeddings"),
        (VIT, {"target": like(np.full((1, 6), NAN))}, "target.similarity.embeddings"),
        (VIT, {"target": like(np.ones((100_001, 6)))}, "target.similarity.embeddings"),
        (
            VIT,
            {"target": {"similarity": {"images": [image(png(1))] * 65}}},
            "target.similarity.images",
        ),
        (
            VIT,
            {
                "method": {"pooled_decomposition": {"match_matrix": True}},
                "target": like(np.ones((1, 6))),
            },
            "method.pooled_decomposition.match_matrix",
        ),
        (VIT, {"rendering": {"color_map": 9}}, "rendering.color_map"),
        (VIT, {"rendering": {"scale": "COLOR_SCALE_PAIR"}}, "rendering.scale"),
        (VIT, {"rendering": {"scale": "COLOR_SCALE_FIXED"}}, "rendering.fixed_min"),
        (VIT, {"rendering": {"fixed_min": 0}}, "rendering.fixed_min"),
        (VIT, {"rendering": {"opacity": 1.5}}, "rendering.opacity"),
        (VIT, {"rendering": {"opacity": float("nan")}}, "rendering.opacity"),
        (VIT, {"rendering": {"max_side": 15}}, "rendering.max_side"),
        (VIT, {"rendering": {"max_side": 8193}}, "rendering.max_side"),
    ],
)
def test_parameters_of_explain(server, model, fields, path):
    found = refused(server.explain, model, **fields)
    assert (found.code, found.reason) == ("INVALID_ARGUMENT", "INVALID_PARAMETER")
    assert found.field == path


@pytest.mark.parametrize(
    ("model", "layer", "near"),
    [
        (VIT, "blocks.2.norm", "blocks.2.norm1"),
        (VIT, "blocks.3.norm1", "blocks.2.norm1"),
        (CNN, "layer4.2", "layer4.0"),
    ],
)
@pytest.mark.parametrize("method", ["grad_cam", "x_grad_cam", "score_cam"])
def test_an_unknown_layer_is_answered_with_near_names(server, model, layer, near, method):
    found = refused(server.explain, model, method={method: {"layer": layer}})
    assert (found.reason, found.field) == ("INVALID_PARAMETER", f"method.{method}.layer")
    assert repr(layer) in found.message
    assert near in found.message


@pytest.mark.parametrize(
    ("model", "method", "words"),
    [
        (VIT, {"raw_attention": {"block": 3}}, "blocks 0 to 2"),
        (VIT, {"raw_attention": {"head": 2}}, "heads 0 to 1"),
        (VIT, {"raw_power": {"power": 0}}, "more than 0, at most 1"),
        (VIT, {"rollout": {"start_block": 2, "end_block": 1}}, "2 comes after end_block 1"),
        (VIT, {"occlusion": {"window": 2}}, "odd"),
        (VIT, {"hidden_unit": {"unit": 64}}, "units 0 to 63"),
    ],
)
def test_a_range_is_told(server, model, method, words):
    assert words in refused(server.explain, model, method=method).message


def test_a_broken_picture_of_a_target_is_named(server):
    target = {"similarity": {"images": [image(png(1)), image(b"no picture")]}}
    found = refused(server.explain, VIT, target=target)
    assert (found.reason, found.field) == ("IMAGE_UNDECODABLE", "target.similarity.images[1]")


def region(**sides) -> dict:
    return {"left": 0, "top": 0, "right": 10, "bottom": 10, **sides}


@pytest.mark.parametrize(
    ("fields", "path"),
    [
        ({}, "method.correspondence"),
        ({"query_region": region(), "candidate_region": region()}, "method.correspondence"),
        ({"query_region": region(right=0)}, "method.correspondence.query_region"),
        ({"query_region": region(top=20)}, "method.correspondence.query_region"),
        ({"query_region": region(bottom=NAN)}, "method.correspondence.query_region"),
        ({"candidate_region": {}}, "method.correspondence.candidate_region"),
        ({"query_region": region(left=56, right=90)}, "method.correspondence.query_region"),
    ],
)
def test_regions(server, fields, path):
    method = methods_pb2.PairMethod(correspondence=fields)
    found = refused(server.pair, VIT, png(1), png(2), method=method)
    assert (found.code, found.reason) == ("INVALID_ARGUMENT", "INVALID_PARAMETER")
    assert found.field == path


def test_a_candidate_that_its_region_misses_fails_alone(server):
    box = region(left=50, right=80)
    method = methods_pb2.PairMethod(correspondence={"candidate_region": box})
    answer = server.pair(VIT, png(1), png(2, 40, 40), png(3, 40, 100), method=method)
    assert [r.WhichOneof("outcome") for r in answer.results] == ["error", "match"]
    found = failure_of(answer.results[0].error)
    assert (found.reason, found.field) == (
        "INVALID_PARAMETER",
        "method.correspondence.candidate_region",
    )
    assert "candidates[0]" in found.message


def test_match_matrices_are_bounded(server):
    # 900 cells each; 64 candidates hold 51.8 million values.
    method = decomposition(match_matrix=True)
    found = refused(server.pair, "tiny-fine", png(1), *([png(2)] * 64), method=method)
    assert found.field == "method.pooled_decomposition.match_matrix"
    assert "32000000" in found.message
