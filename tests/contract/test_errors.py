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
    refused,
    unseen,
)

VIT, CLS, CNN, HEADLESS = "tiny-vit", "tiny-vit-cls", "tiny-resnet", "tiny-headless"


@pytest.fixture(autouse=True)
def _the_server_goes_on(server):
    yield
    # A forward pass of its own: a cached answer would not show that the device goes on.
    answer = server.explain(VIT, unseen())
    assert answer.timing.cached_images == 0
    assert np.isfinite(array(answer.heatmap.values)).all()


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
    assert "affinity" in found.message  # what to do about it


def test_a_resnet_has_no_rollout_to_redistribute_by(server):
    rollout = decomposition(redistribution="REDISTRIBUTION_ROLLOUT")
    found = refused(server.pair, CNN, png(1), png(2), method=rollout)
    assert (found.code, found.reason) == ("FAILED_PRECONDITION", "METHOD_UNSUPPORTED")
    assert found.field == "method.pooled_decomposition.redistribution"


def test_a_call_ends_at_its_deadline(server):
    # gRPC itself ends it, at the client before the server's DEADLINE_UNREACHABLE (which
    # tests/engine shows) could arrive.
    query, *others = (encoded(Image.new("RGB", (1000, 1000), (i, 0, 0))) for i in range(61))
    with pytest.raises(grpc.RpcError) as caught:
        server.pair(VIT, query, *others, timeout=0.1)
    assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED


def test_bytes_that_are_no_message(server):
    call = server.channel.unary_unary("/pairlens.v1.ExplanationService/Explain")
    with pytest.raises(grpc.RpcError) as caught:
        call(b"\xff\xff\xff", timeout=10)
    found = failure_of_rpc(caught.value)
    assert (found.code, found.reason) == ("INVALID_ARGUMENT", "INVALID_PARAMETER")
    assert "ExplainRequest" in found.message
