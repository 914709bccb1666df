"""What ScoreSaliency and Embed refuse of a request as a whole: the reason and the field."""

import grpc
import numpy as np
import pytest

from pairlens.v1 import common_pb2, explanation_service_pb2
from tests.conftest import MAX_IMAGE_BYTES
from tests.contract.scores import (
    Scores,
    check_refusal,
    exact,
    given,
    like,
    metric,
    plane,
    random_map,
    request,
)
from tests.contract.support import (
    TIMEOUT_S,
    Stubs,
    array,
    failure_of,
    image,
    png,
    refused,
    unseen,
)
from tests.server_process import server_process, write_models

VIT, CLS, CNN, HEADLESS = "tiny-vit", "tiny-vit-cls", "tiny-resnet", "tiny-headless"
DROP = metric("average_drop")
ONES = np.ones((4, 6))
PAIR = like(exact(2))
BOX = {"left": 1, "top": 2, "right": 30, "bottom": 20}


@pytest.fixture(scope="module")
def scores(server) -> Scores:
    return Scores(server.channel)


@pytest.fixture(autouse=True)
def _the_server_goes_on(server):
    yield
    answer = server.explain(VIT, unseen())
    assert answer.timing.cached_images == 0
    assert np.isfinite(array(answer.heatmap.values)).all()


def test_a_map_of_no_method_and_no_map(scores):
    asked = request(VIT, [DROP])
    asked.ClearField("heatmap")
    check_refusal(
        refused(scores.stub.ScoreSaliency, asked, timeout=TIMEOUT_S), "method", "give a heatmap"
    )


@pytest.mark.parametrize(
    ("metrics", "path", "words"),
    [
        ([], "metrics", "0 metrics; a call takes 1 to 16"),
        ([DROP] * 17, "metrics", "17 metrics"),
        ([DROP, {}], "metrics[1]", "average_drop, average_increase, deletion"),
    ],
)
def test_number_of_metrics(scores, metrics, path, words):
    check_refusal(refused(scores.score, VIT, metrics), path, words)


def test_a_metric_of_a_newer_contract(scores):
    asked = request(VIT, [])
    asked.metrics.add().MergeFromString(b"\xfa\x3e\x00")  # an empty field 1007
    check_refusal(
        refused(scores.stub.ScoreSaliency, asked, timeout=TIMEOUT_S), "metrics[0]", "deletion"
    )


@pytest.mark.parametrize(
    ("model", "fields", "path", "words"),
    [
        ("", {}, "model", "required"),
        (VIT, {"target": {"class_index": 5}}, "target.class_index", "classes 0 to 4"),
        (VIT, {"target": {"label": "dog"}}, "target.label", "label"),
        (CNN, {"target": {"label": "dragon"}}, "target.label", "dragon"),
        (VIT, {"target": {}}, "target", "names nothing"),
        (VIT, {"target": {"predicted": False}}, "target.predicted", "true"),
        (VIT, {"target": {"similarity": {}}}, "target.similarity", "give images"),
        (HEADLESS, {}, "target", "similarity target"),
        (HEADLESS, {"target": {"class_index": 0}}, "target", "similarity target"),
        (HEADLESS, {"target": {"predicted": True}}, "target", "similarity target"),
        (HEADLESS, {"method": {"rollout": {}}}, "target", "similarity target"),
        (VIT, {"method": {"affinity": {}}}, "target", "needs a similarity target"),
        (
            VIT,
            {"method": {"pooled_decomposition": {}}, "target": {"class_index": 0}},
            "target",
            "similarity target alone",
        ),
        (VIT, {"pair_method": {"affinity": {}}}, "target", "one picture"),
        (
            VIT,
            {"pair_method": {"affinity": {}}, "target": {"class_index": 0}},
            "target",
            "one picture",
        ),
        (
            VIT,
            {"pair_method": {"affinity": {}}, "target": like(exact(2), exact(3))},
            "target",
            "one picture",
        ),
        (VIT, {"return_embeddings": True}, "return_embeddings", "similarity target"),
        (VIT, {"enlargement": 9}, "enlargement", "no value has number 9"),
        (VIT, {"sides": [9]}, "sides[0]", "no value has number 9"),
        (VIT, {"sides": ["SIDE_PARTNER"]}, "sides", "side partner needs"),
        (VIT, {"sides": ["SIDE_IMAGE", "SIDE_BOTH"]}, "sides", "side both needs"),
        (VIT, {"sides": ["SIDE_IMAGE"] * 2}, "sides", "twice"),
        (VIT, {"sides": [0, "SIDE_IMAGE"]}, "sides", "twice"),
        (
            VIT,
            {"sides": ["SIDE_BOTH"], "target": like(exact(2), exact(3))},
            "sides",
            "one picture",
        ),
        (
            VIT,
            {
                "sides": ["SIDE_PARTNER"],
                "target": like(exact(2), embeddings=plane(np.ones((1, 6)))),
            },
            "sides",
            "no embeddings",
        ),
        (VIT, {"sides": ["SIDE_PARTNER"], "target": PAIR}, "partner_heatmap", "needs the partner"),
        (VIT, {"partner_heatmap": given(ONES), "target": PAIR}, "partner_heatmap", "side partner"),
        (
            VIT,
            {
                "partner_heatmap": given(ONES),
                "target": PAIR,
                "sides": ["SIDE_BOTH"],
                "method": {"rollout": {}},
            },
            "partner_heatmap",
            "goes with a heatmap",
        ),
        (VIT, {"method": {}}, "method", "holds none of"),
        (VIT, {"pair_method": {}, "target": PAIR}, "pair_method", "holds none of"),
        (
            VIT,
            {"method": {"rollout": {"start_block": 3}}},
            "method.rollout.start_block",
            "blocks 0 to 2",
        ),
        (
            VIT,
            {"pair_method": {"pooled_decomposition": {"profile": 9}}, "target": PAIR},
            "pair_method.pooled_decomposition.profile",
            "no value",
        ),
        (
            VIT,
            {"pair_method": {"grad_cam": {"layer": "nowhere"}}, "target": PAIR},
            "pair_method.grad_cam.layer",
            "nowhere",
        ),
        (
            VIT,
            {"pair_method": {"correspondence": {}}, "target": PAIR},
            "pair_method.correspondence",
            "region",
        ),
    ],
)
def test_requests(scores, model, fields, path, words):
    check_refusal(refused(scores.score, model, [DROP], **fields), path, words)


def test_a_similarity_has_no_predicted_class(scores):
    asked = [DROP, metric("deletion", scored_class="SCORED_CLASS_PREDICTED")]
    found = refused(scores.score, VIT, asked, target=PAIR)
    check_refusal(found, "metrics[1].deletion.scored_class", "no class")


def test_pictures(scores):
    asked = request(VIT, [DROP])
    asked.ClearField("image")
    check_refusal(refused(scores.stub.ScoreSaliency, asked, timeout=TIMEOUT_S), "image", "required")
    found = refused(scores.score, VIT, [DROP], b"no picture")
    assert (found.reason, found.field) == ("IMAGE_UNDECODABLE", "image")
    found = refused(scores.score, VIT, [DROP], target=like(exact(2), b"no picture"))
    assert (found.reason, found.field) == ("IMAGE_UNDECODABLE", "target.similarity.images[1]")
    found = refused(scores.score, VIT, [DROP], pair_method={"affinity": {}}, target=like(b"none"))
    assert (found.reason, found.field) == ("IMAGE_UNDECODABLE", "target.similarity.images[0]")
    found = refused(scores.score, VIT, [DROP], b"\x89PNG" + bytes(MAX_IMAGE_BYTES))
    assert (found.reason, found.field) == ("IMAGE_TOO_LARGE", "image")
    check_refusal(
        refused(scores.score, VIT, [DROP], target=like(*[exact(2)] * 65)),
        "target.similarity.images",
        "65",
    )


def test_unknown_models_and_methods(scores):
    for found in (
        refused(scores.score, "tiny-vid", [DROP]),
        refused(scores.embed, "tiny-vid", png(1)),
    ):
        assert (found.code, found.reason) == ("NOT_FOUND", "MODEL_NOT_FOUND")
    found = refused(scores.score, CNN, [DROP], method={"rollout": {}})
    assert (found.code, found.reason) == ("FAILED_PRECONDITION", "METHOD_UNSUPPORTED")
    assert found.field == "method"
    found = refused(
        scores.score, CLS, [DROP], pair_method={"pooled_decomposition": {}}, target=PAIR
    )
    assert (found.code, found.reason) == ("FAILED_PRECONDITION", "METHOD_UNSUPPORTED")
    assert found.field == "pair_method"


def test_a_region_of_the_method_that_covers_nothing(scores):
    box = {"left": 50, "top": 0, "right": 60, "bottom": 10}
    for side in ("query_region", "candidate_region"):
        method = {"correspondence": {side: box}}
        found = refused(scores.score, VIT, [DROP], pair_method=method, target=PAIR)
        check_refusal(found, f"pair_method.correspondence.{side}")


@pytest.mark.parametrize("count", [0, 65])
def test_number_of_pictures_to_embed(scores, count):
    found = refused(scores.embed, VIT, *[png(1)] * count)
    check_refusal(found, "images", f"{count} images; a call takes 1 to 64")


def test_embedding_needs_a_model(scores):
    check_refusal(refused(scores.embed, "", png(1)), "model", "required")


def test_a_picture_that_cannot_be_embedded_fails_alone(scores):
    asked = explanation_service_pb2.EmbedRequest(
        model=VIT,
        images=[image(png(1)), image(b"none"), common_pb2.Image(), image(png(2))],
    )
    answer = scores.stub.Embed(asked, timeout=TIMEOUT_S)
    outcomes = [result.WhichOneof("outcome") for result in answer.results]
    assert outcomes == ["embedding", "error", "error", "embedding"]
    for index in (1, 2):
        found = failure_of(answer.results[index].error)
        assert (found.code, found.reason) == ("INVALID_ARGUMENT", "IMAGE_UNDECODABLE")
        assert found.field == f"images[{index}]"
    large = b"\x89PNG" + bytes(MAX_IMAGE_BYTES)
    found = failure_of(scores.embed(VIT, large).results[0].error)
    assert (found.reason, found.field) == ("IMAGE_TOO_LARGE", "images[0]")


def test_copies_are_bounded(tmp_path):
    flags = ("--max-copies", "10")
    models = write_models(tmp_path, [VIT])
    with server_process(models, tmp_path / "log.txt", *flags) as process:
        stubs = Stubs(process.listening())
        process.serving()
        scores = Scores(stubs.channel)
        assert stubs.get_model(VIT).limits.max_copies == 10
        # The clean picture and nine others.
        fits = metric("deletion", steps=9)
        assert scores.score(VIT, [fits, fits]).forward_passes == 10
        for asked in ([metric("deletion", steps=10)], [fits, DROP]):
            check_refusal(refused(scores.score, VIT, asked), "metrics", "the 10 of a call")
        fields = {"target": PAIR, "partner_heatmap": given(random_map(1)), "sides": ["SIDE_BOTH"]}
        assert scores.score(VIT, [metric("deletion", steps=4)], **fields).forward_passes == 10
        found = refused(scores.score, VIT, [metric("deletion", steps=5)], **fields)
        check_refusal(found, "metrics", "the 10 of a call")
        stubs.channel.close()
        assert process.stop() == 0


def test_a_call_ends_at_its_deadline(scores):
    asked = request(VIT, [metric("deletion", steps=1536)])
    with pytest.raises(grpc.RpcError) as caught:
        scores.stub.ScoreSaliency(asked, timeout=0.1)
    assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
