"""Every refusal that a caller can bring about, and that the server goes on after each."""

import grpc
import numpy as np
import pytest
from google.rpc import error_details_pb2
from PIL import Image

from pairlens.v1 import common_pb2, explanation_service_pb2, methods_pb2
from tests.conftest import MAX_IMAGE_BYTES, MAX_IMAGE_PIXELS, MAX_REQUEST_BYTES
from tests.contract.support import (
    array,
    decomposition,
    encoded,
    failure_of,
    failure_of_rpc,
    image,
    noise,
    png,
    tensor,
    unseen,
)

VIT, CLS, CNN, HEADLESS = "tiny-vit", "tiny-vit-cls", "tiny-resnet", "tiny-headless"


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


def refused(call, *arguments, **fields):
    with pytest.raises(grpc.RpcError) as caught:
        call(*arguments, **fields)
    return failure_of_rpc(caught.value)


def animated() -> bytes:
    return encoded(noise(1), "GIF", save_all=True, append_images=[noise(2)])


def large() -> bytes:
    return encoded(Image.new("RGB", (2001, 2000), "red"))


BAD_FILES = {
    "text": (b"no picture at all", "IMAGE_UNDECODABLE"),
    "empty": (b"", "IMAGE_UNDECODABLE"),
    "cut short": (encoded(noise(1, 400, 400), "JPEG")[:500], "IMAGE_UNDECODABLE"),
    "animated": (animated(), "IMAGE_UNDECODABLE"),
    "format": (encoded(noise(1), "PPM"), "IMAGE_UNDECODABLE"),
    "bytes": (b"\x89PNG" + bytes(MAX_IMAGE_BYTES), "IMAGE_TOO_LARGE"),
    "pixels": (large(), "IMAGE_TOO_LARGE"),
}


@pytest.mark.parametrize("name", BAD_FILES)
def test_bad_files(server, name):
    data, reason = BAD_FILES[name]
    for call, field in ((server.explain, "image"), (server.pair, "query")):
        arguments = (VIT, data) if field == "image" else (VIT, data, png(2))
        found = refused(call, *arguments)
        assert (found.code, found.reason, found.field) == ("INVALID_ARGUMENT", reason, field)
    limits = {"bytes": MAX_IMAGE_BYTES, "pixels": MAX_IMAGE_PIXELS}
    if name in limits:
        assert str(limits[name]) in found.message


@pytest.mark.parametrize("name", BAD_FILES)
def test_a_bad_candidate_fails_alone(server, name):
    data, reason = BAD_FILES[name]
    answer = server.pair(VIT, png(1), png(2), data, png(3))
    assert [r.WhichOneof("outcome") for r in answer.results] == ["match", "error", "match"]
    found = failure_of(answer.results[1].error)
    assert (found.code, found.reason) == ("INVALID_ARGUMENT", reason)
    assert found.field == "candidates[1]"
    alone = server.pair(VIT, png(1), png(3)).results[0].match
    np.testing.assert_allclose(
        array(answer.results[2].match.candidate.heatmap.values),
        array(alone.candidate.heatmap.values),
        atol=1e-5,
    )


def test_all_candidates_bad(server):
    answer = server.pair(VIT, png(1), b"a", b"b")
    assert [r.WhichOneof("outcome") for r in answer.results] == ["error", "error"]
    assert answer.provenance.model == VIT


def test_a_candidate_without_a_source_fails_alone(server):
    request = explanation_service_pb2.PairSimilarityRequest(
        model=VIT, query=image(png(1)), candidates=[common_pb2.Image(), image(png(2))]
    )
    answer = server.pair_request(request)
    assert failure_of(answer.results[0].error).reason == "IMAGE_UNDECODABLE"
    assert answer.results[1].match.similarity


def test_unknown_model(server):
    for call, arguments in (
        (server.explain, ("tiny-vid",)),
        (server.pair, ("tiny-vid", png(1), png(2))),
        (server.get_model, ("tiny-vid",)),
    ):
        found = refused(call, *arguments)
        assert (found.code, found.reason) == ("NOT_FOUND", "MODEL_NOT_FOUND")
        assert "tiny-vit" in found.message
        assert found.detail(error_details_pb2.ResourceInfo).resource_name == "tiny-vid"


@pytest.mark.parametrize("character", ["x", "猫"])
def test_a_name_of_20000_characters_comes_back_cut(server, character):
    name = character * 20_000
    for call, arguments in (
        (server.explain, (name,)),
        (server.pair, (name, png(1), png(2))),
        (server.get_model, (name,)),
    ):
        found = refused(call, *arguments)
        assert (found.code, found.reason) == ("NOT_FOUND", "MODEL_NOT_FOUND")
        assert found.field == "model"
        assert VIT in found.message  # what is served
        assert len(found.detail(error_details_pb2.ResourceInfo).resource_name) <= 100


def test_a_label_of_20000_characters_comes_back_cut(server):
    found = refused(server.explain, CNN, target={"label": "猫" * 20_000})
    assert (found.code, found.reason) == ("INVALID_ARGUMENT", "INVALID_PARAMETER")
    assert found.field == "target.label"
    assert len(found.message) < 1000


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


@pytest.mark.parametrize("count", [0, 65])
def test_number_of_candidates(server, count):
    found = refused(server.pair, VIT, png(1), *([png(2)] * count))
    assert (found.code, found.reason) == ("INVALID_ARGUMENT", "INVALID_PARAMETER")
    assert found.field == "candidates"
    assert str(count) in found.message
    assert "64" in found.message


def test_too_many_rendered_pixels(server):
    picture = encoded(Image.new("RGB", (1000, 1000), "red"))
    found = refused(server.pair, VIT, picture, *([picture] * 20), rendering={"overlay": True})
    assert (found.code, found.field) == ("INVALID_ARGUMENT", "rendering.max_side")
    assert "32000000" in found.message


def test_every_map_of_an_answer_counts_as_drawn(server):
    picture = encoded(Image.new("RGB", (2000, 1900), "red"))
    every = {"raw_attention": {"each": "EACH_BLOCK_AND_HEAD"}}
    found = refused(
        server.explain, VIT, picture, method=every, rendering={"overlay": True, "upsampled": True}
    )
    assert (found.code, found.field) == ("INVALID_ARGUMENT", "rendering.max_side")
    assert str(2 * 7 * 2000 * 1900) in found.message


def test_a_message_over_the_limit(server):
    with pytest.raises(grpc.RpcError) as caught:
        server.explain(VIT, bytes(MAX_REQUEST_BYTES))
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert "larger than max" in caught.value.details()


@pytest.mark.parametrize(
    ("model", "method"),
    [
        (CNN, {"raw_attention": {}}),
        (CNN, {"rollout": {}}),
        (CNN, {"attention_relevance": {}}),
        (CNN, {"le_grad": {}}),
        (CNN, {"hidden_unit": {}}),
        (CNN, {"semantic_attention": {}}),
        (CNN, {"attention_mask": {}}),
        (CLS, {"pooled_decomposition": {}}),
    ],
)
def test_methods_that_a_model_cannot_give(server, model, method):
    found = refused(server.explain, model, method=method)
    assert (found.code, found.reason) == ("FAILED_PRECONDITION", "METHOD_UNSUPPORTED")
    assert found.field == "method"
    (name,) = method
    assert name in found.message
    info = server.get_model(model).model
    for listed in (m for m in info.methods if m.name == name):
        assert listed.refusal
        assert listed.refusal in found.message


CORRESPONDENCE = methods_pb2.PairMethod(
    correspondence={"query_region": {"left": 0, "top": 0, "right": 9, "bottom": 9}}
)


@pytest.mark.parametrize("model", [CLS, "tiny-deit"])
@pytest.mark.parametrize("method", [CORRESPONDENCE, decomposition()])
def test_splitting_a_similarity_needs_a_pooled_embedding(server, model, method):
    found = refused(server.pair, model, png(1), png(2), method=method)
    assert (found.code, found.reason) == ("FAILED_PRECONDITION", "METHOD_UNSUPPORTED")
    assert "class token" in found.message
    assert "avg" in found.message  # what to do about it


def test_a_resnet_has_no_rollout_to_redistribute_by(server):
    rollout = decomposition(redistribution="REDISTRIBUTION_ROLLOUT")
    found = refused(server.pair, CNN, png(1), png(2), method=rollout)
    assert (found.code, found.reason) == ("FAILED_PRECONDITION", "METHOD_UNSUPPORTED")
    assert found.field == "method.pooled_decomposition.redistribution"


def test_a_call_ends_at_its_deadline(server):
    # gRPC itself ends it, at the client before the server's DEADLINE_UNREACHABLE (which
    # tests/engine shows) could arrive.
    picture = encoded(Image.new("RGB", (1000, 1000), "red"))
    with pytest.raises(grpc.RpcError) as caught:
        server.pair(VIT, picture, *([picture] * 60), timeout=0.1)
    assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED


def test_bytes_that_are_no_message(server):
    call = server.channel.unary_unary("/pairlens.v1.ExplanationService/Explain")
    with pytest.raises(grpc.RpcError) as caught:
        call(b"\xff\xff\xff", timeout=10)
    found = failure_of_rpc(caught.value)
    assert (found.code, found.reason) == ("INVALID_ARGUMENT", "INVALID_PARAMETER")
    assert "ExplainRequest" in found.message
