import numpy as np
import pytest

from pairlens import (
    Box,
    Client,
    InvalidParameterError,
    Method,
    MethodUnsupportedError,
    Metric,
    ModelNotFoundError,
    SimilarTo,
)
from pairlens.v1 import common_pb2, explanation_service_pb2
from tests.client.scripted import Scripted, fails, png
from tests.client.scripted_scores import EMBEDDING_SIZE, FRACTIONS, SCORES

ScoreRequest = explanation_service_pb2.ScoreSaliencyRequest
GRID = np.arange(6, dtype=np.float64).reshape(2, 3)


def sent(service: Scripted) -> ScoreRequest:
    return service.requests(ScoreRequest)[-1]


def test_scores_come_back_by_name_and_side(client: Client):
    scores = client.score_saliency(
        png(),
        model="cnn",
        method="grad_cam",
        target=SimilarTo(png(30, 20)),
        metrics=["deletion", "average_increase"],
        sides=("image", "both"),
    )
    assert [(s.metric.name, s.side) for s in scores.scores] == [
        ("deletion", "image"),
        ("deletion", "both"),
        ("average_increase", "image"),
        ("average_increase", "both"),
    ]
    deletion = scores["deletion"]
    assert (deletion.side, deletion.value, deletion.normalized_value) == ("image", 0.3125, 0.5)
    assert (deletion.clean_score, deletion.masked_score, deletion.class_index) == (0.75, 0.0, None)
    assert deletion.metric == Metric("deletion", (("steps", 3),))
    assert deletion.better == "lower"
    np.testing.assert_array_equal(deletion.curve.fractions, FRACTIONS.astype(np.float32))
    np.testing.assert_array_equal(deletion.curve.scores, SCORES["deletion"].astype(np.float32))
    assert deletion.curve.embeddings is None
    assert not deletion.curve.scores.flags.writeable
    assert scores["deletion", "both"].value == 0.3125 - 0.25
    increase = scores["average_increase"]
    assert (increase.value, increase.undefined) == (None, "the picture scores zero")
    assert (increase.curve, increase.masked_score) == (None, None)
    assert scores.method == Method("grad_cam")
    assert scores.target.similarities == (0.75,)
    assert (scores.enlargement, scores.forward_passes) == ("bilinear", 9)
    assert (scores.heatmap.geometry.image_width, scores.partner.geometry.image_width) == (60, 20)
    assert scores.partner.heatmap[1, 2] == 10
    assert scores.timing.total_s == 1.5
    with pytest.raises(KeyError, match=r"there are deletion \(image\), deletion \(both\)"):
        scores["insertion"]
    with pytest.raises(KeyError, match="partner"):
        scores["deletion", "partner"]


def test_a_class_is_scored_on_the_models_own_default(client: Client, service: Scripted):
    scores = client.score_saliency(png())
    request = sent(service)
    assert request.model == "vit"
    # The request must say what runs: the model's default, with its parameters.
    assert request.method.WhichOneof("method") == "rollout"
    assert request.method.rollout.end_block == 11
    assert [metric.WhichOneof("metric") for metric in request.metrics] == [
        "average_drop",
        "average_increase",
        "deletion",
        "insertion",
    ]
    assert list(request.sides) == [explanation_service_pb2.SIDE_IMAGE]
    assert not request.HasField("target")
    assert not request.HasField("region")
    assert scores.target.class_index == 1
    assert scores["insertion"].class_index == 1
    assert scores.partner is None


def test_a_similarity_has_a_default_of_its_own(client: Client, service: Scripted):
    client.score_saliency(png(), target=SimilarTo(png()), metrics="deletion, insertion")
    assert sent(service).method.WhichOneof("method") == "affinity"
    with pytest.raises(MethodUnsupportedError):
        client.score_saliency(png(), model="cnn", target=SimilarTo(png()), metrics="deletion")
    with pytest.raises(ModelNotFoundError):
        client.score_saliency(png(), model="bert")


def test_everything_that_was_asked_is_sent(client: Client, service: Scripted):
    mask = np.zeros((40, 60), bool)
    mask[3, 4] = True
    client.score_saliency(
        png(),
        model="vit",
        method="raw_attention",
        block=3,
        target="goldfish",
        metrics=("deletion(steps=8, substrate=noise)", Metric.of("pointing_game", tolerance=15)),
        enlargement="bilinear_aligned",
        boxes=[Box(1, 2, 3, 4), (5, 6, 7.5, 8)],
        mask=mask,
        return_embeddings=True,
    )
    request = sent(service)
    assert request.method.raw_attention.block == 3
    assert request.target.label == "goldfish"
    assert request.metrics[0].deletion.steps == 8
    assert request.metrics[0].deletion.substrate == 4
    assert request.metrics[1].pointing_game.tolerance == 15
    assert request.enlargement == explanation_service_pb2.ENLARGEMENT_BILINEAR_ALIGNED
    assert [(b.left, b.top, b.right, b.bottom) for b in request.region.boxes] == [
        (1, 2, 3, 4),
        (5, 6, 7.5, 8),
    ]
    assert request.region.mask.dtype == common_pb2.DATA_TYPE_BOOL
    assert list(request.region.mask.shape) == [40, 60]
    assert request.region.mask.data.index(b"\1") == 3 * 60 + 4
    assert request.return_embeddings


def test_embeddings_of_a_curve_come_back_when_asked_for(client: Client):
    scores = client.score_saliency(png(), metrics="insertion", return_embeddings=True)
    embeddings = scores["insertion"].curve.embeddings
    assert embeddings.shape == (4, EMBEDDING_SIZE)
    assert embeddings[3, 4] == 19


@pytest.mark.parametrize("boxes", [Box(1, 2, 3, 4), (1, 2, 3, 4), np.array([1, 2, 3, 4])])
def test_one_box_needs_no_list(client: Client, service: Scripted, boxes: object):
    client.score_saliency(png(), metrics="energy_pointing_game", boxes=boxes)
    assert [box.bottom for box in sent(service).region.boxes] == [4]


@pytest.mark.parametrize(
    ("dtype", "wire"),
    [
        ("float64", "FLOAT32"),
        ("float32", "FLOAT32"),
        (">f4", "FLOAT32"),
        ("float16", "FLOAT16"),
        ("uint8", "UINT8"),
        ("int64", "INT64"),
        ("int32", "INT64"),
        ("uint16", "INT64"),
        ("bool", "BOOL"),
    ],
)
def test_a_map_travels_in_any_dtype(client: Client, service: Scripted, dtype: str, wire: str):
    client.score_saliency(png(), heatmap=GRID.T.astype(dtype))
    given = sent(service).heatmap
    assert common_pb2.DataType.Name(given.values.dtype) == f"DATA_TYPE_{wire}"
    numpy = {"FLOAT32": "<f4", "FLOAT16": "<f2", "UINT8": "u1", "INT64": "<i8", "BOOL": "u1"}
    read = np.frombuffer(given.values.data, numpy[wire]).reshape(given.values.shape)
    np.testing.assert_array_equal(read, GRID.T.astype(dtype))
    assert given.extent == explanation_service_pb2.HEATMAP_EXTENT_UNSPECIFIED


def test_results_are_maps_on_the_grid(client: Client, service: Scripted):
    explained = client.explain(png(), method="rollout")
    scores = client.score_saliency(png(), heatmap=explained, metrics="deletion")
    assert sent(service).model == "vit"
    assert sent(service).heatmap.extent == explanation_service_pb2.HEATMAP_EXTENT_GRID
    assert scores.method is None
    assert scores.heatmap is explained
    assert client.score_saliency(png(), heatmap=GRID).heatmap is None
    match = client.pair_similarity(png(), [png(30, 20)]).matches[0]
    scores = client.score_saliency(
        png(),
        heatmap=match.query,
        partner_heatmap=match.candidate,
        target=SimilarTo(png(30, 20)),
        metrics="deletion",
        sides="both",
    )
    request = sent(service)
    assert (scores.heatmap, scores.partner) == (match.query, match.candidate)
    assert list(request.sides) == [explanation_service_pb2.SIDE_BOTH]
    values = np.frombuffer(request.partner_heatmap.values.data, "<f4")
    np.testing.assert_array_equal(values, match.candidate.heatmap.ravel())


def test_a_pair_method_explains_image_and_partner(client: Client, service: Scripted):
    made = Method("pooled_decomposition", (("redistribution", "none"),))
    scores = client.score_saliency(
        png(), pair_method=made, target=SimilarTo(png()), metrics="deletion"
    )
    request = sent(service)
    assert request.model == "cnn"  # the first that gives it
    assert request.WhichOneof("saliency") == "pair_method"
    assert (scores.method.name, scores.method.parameters["redistribution"]) == (
        "pooled_decomposition",
        "none",
    )


def test_what_the_model_does_not_see_of_a_picture_may_be_nan(client: Client, service: Scripted):
    values = np.full((40, 60), np.nan)
    values[10:30] = 1
    client.score_saliency(png(), heatmap=values, extent="picture", metrics="deletion")
    assert sent(service).heatmap.extent == explanation_service_pb2.HEATMAP_EXTENT_PICTURE


NAN_GRID = np.where(GRID == 3, np.nan, GRID)
MISTAKES = [
    ({"heatmap": NAN_GRID, "extent": "grid"}, "heatmap", "NaN"),
    ({"heatmap": np.where(GRID == 3, np.inf, GRID), "extent": "input"}, "heatmap", "infinite"),
    ({"heatmap": GRID * 1e300, "extent": "grid"}, "heatmap", "infinite"),
    ({"heatmap": GRID, "partner_heatmap": NAN_GRID, "extent": "grid"}, "partner_heatmap", "NaN"),
    ({"heatmap": GRID[0]}, "heatmap", r"float64 of shape \(3,\)"),
    ({"heatmap": np.zeros((0, 3))}, "heatmap", r"\(0, 3\)"),
    ({"heatmap": GRID.astype(complex)}, "heatmap", "complex128"),
    ({"heatmap": [[1, 2], [3]]}, "heatmap", "no array"),
    ({"heatmap": np.full((2, 2), 2**63, np.uint64)}, "heatmap", "beyond int64"),
    ({"heatmap": GRID, "extent": "world"}, "extent", "none of grid, picture, input"),
    ({"heatmap": GRID, "method": "rollout"}, "method", "heatmap and method"),
    ({"method": "rollout", "pair_method": "affinity"}, "pair_method", "method and pair_method"),
    ({"heatmap": GRID, "block": 3}, "method", "block: a given map takes no parameters"),
    ({"method": Method("raw_attention"), "block": 3}, "method", "holds its parameters already"),
    ({"partner_heatmap": GRID}, "partner_heatmap", "goes with heatmap"),
    ({"extent": "grid"}, "extent", "goes with heatmap"),
    ({"model": "vit", "method": "sonar"}, "method", "unknown method"),
    ({"method": "raw_attention", "depth": 3}, "method.raw_attention.depth", "unknown parameter"),
    (
        {"pair_method": Method("pooled_decomposition", (("depth", 3),)), "model": "cnn"},
        "pair_method.pooled_decomposition.depth",
        "unknown parameter",
    ),
    ({"metrics": ()}, "metrics", "at least one metric"),
    ({"metrics": ["deletion(steps=x)"]}, "metrics.deletion.steps", "invalid literal"),
    ({"metrics": [Metric("deletion", (("steps", -1),))]}, "metrics.deletion.steps", "integer"),
    ({"sides": ("left",)}, "sides", "none of image, partner, both"),
    ({"enlargement": "bicubic"}, "enlargement", "none of nearest, bilinear, bilinear_aligned"),
    ({"boxes": [Box(0, 0, 1, 1), (3, 0, 1, 1)]}, r"region.boxes[1]", "left < right"),
    ({"boxes": [(0, 0, 1)]}, r"region.boxes[0]", "left < right"),
    ({"boxes": 3}, r"region.boxes[0]", "not 3"),
    ({"mask": np.zeros((40, 60))}, "region.mask", "float64"),
    ({"mask": np.zeros(40, bool)}, "region.mask", r"\(40,\)"),
    ({"target": -1}, "target", "class index"),
]


@pytest.mark.parametrize(("arguments", "field", "message"), MISTAKES)
def test_mistakes_are_refused_before_they_are_sent(
    client: Client, service: Scripted, arguments: dict[str, object], field: str, message: str
):
    with pytest.raises(InvalidParameterError, match=message) as caught:
        client.score_saliency(png(), **arguments)
    assert caught.value.field == field
    assert not service.requests(ScoreRequest)


def test_a_server_that_lost_the_model_is_asked_for_its_models_anew(
    client: Client, service: Scripted
):
    client.list_models()
    service.script.append(fails("MODEL_NOT_FOUND"))
    with pytest.raises(ModelNotFoundError):
        client.score_saliency(png(), heatmap=GRID)
    service.models.reverse()
    client.score_saliency(png(), heatmap=GRID)
    assert sent(service).model == "cnn"
