import math

import numpy as np
import pytest

from pairlens import EncodedImage, Rendering, _codec, _model_codec
from pairlens._tensors import to_float32
from pairlens.errors import MalformedResponseError
from pairlens.models import Method, MethodKind
from pairlens.rendering import Box
from pairlens.v1 import common_pb2, explanation_service_pb2, methods_pb2, model_service_pb2
from tests.client.scripted import heatmap, png, status, tensor
from tests.client.scripted_models import cnn_info, vit_info

IMAGE = EncodedImage(png(), "cat.png")


def test_tensor_round_trip_is_exact_and_read_only():
    values = np.array([[1.5, -0.0, np.nan], [np.inf, 1e-45, 3.4e38]], np.float32)
    array = to_float32(tensor(values), 2, "it")
    assert array.dtype == np.float32
    np.testing.assert_array_equal(array.view(np.uint32), values.view(np.uint32))
    with pytest.raises(ValueError, match="read-only"):
        array[0, 0] = 1


@pytest.mark.parametrize(
    ("shape", "length"),
    [
        ([2, 3], 23),
        ([2, 3], 25),
        ([2, 3], 0),
        ([6], 24),
        ([2, 3, 1], 24),
        ([], 4),
        ([-2, -3], 24),
        ([-1, 6], 24),
        ([0, 3], 0),
        ([2**62, 4], 0),  # the product is 0 in 64 bits
        ([2**40, 2**40], 24),
    ],
)
def test_hostile_shapes(shape: list[int], length: int):
    hostile = common_pb2.Tensor(dtype=common_pb2.DATA_TYPE_FLOAT32, shape=shape, data=bytes(length))
    with pytest.raises(MalformedResponseError, match="the map"):
        to_float32(hostile, 2, "the map")


@pytest.mark.parametrize("dtype", [0, 2, 3, 4, 5, 99])
def test_other_dtypes(dtype: int):
    other = common_pb2.Tensor(dtype=dtype, shape=[2, 3], data=bytes(24))
    with pytest.raises(MalformedResponseError, match="dtype"):
        to_float32(other, 2, "it")


def explain_response(**changes: object) -> explanation_service_pb2.ExplainResponse:
    fields: dict[str, object] = {
        "heatmap": heatmap(IMAGE.data),
        "method": methods_pb2.ExplanationMethod(raw_attention={"block": 3}),
    }
    return explanation_service_pb2.ExplainResponse(**(fields | changes))


def test_explanation():
    made = _codec.explanation(explain_response(), IMAGE, None)
    np.testing.assert_array_equal(made.heatmap, [[0, 1, 2], [3, 4, 5]])
    assert (made.min, made.max, made.constant) == (0, 5, False)
    assert made.geometry.region == Box(0, 0, 60, 40)
    assert (made.geometry.image_height, made.geometry.image_width) == (40, 60)
    # The head is unset, which means the mean over the heads.
    assert made.method == Method("raw_attention", (("block", 3),))
    assert made.method.parameters == {"block": 3}
    assert str(made.method) == "raw_attention(block=3)"
    assert made.target is None
    assert made.score is None
    assert made.rendered is None


def test_a_newer_method_is_known_by_name():
    newer = explain_response(method=None, provenance={"method": "legrad"})
    assert _codec.explanation(newer, IMAGE, None).method == Method("legrad")


def test_upsampled_and_overlay_of_the_server():
    drawn = np.zeros((40, 60), np.float32)
    response = explain_response(rendered={"upsampled": tensor(drawn), "overlay_png": b"png"})
    made = _codec.explanation(response, IMAGE, Rendering())
    assert made.rendered is not None
    assert made.rendered.overlay_png == b"png"
    np.testing.assert_array_equal(made.upsampled(), drawn)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("rows", 3),
        ("columns", 0),
        ("image_height", 0),
        ("image_width", 0),
        ("region.right", 0.0),
        ("region.bottom", -1.0),
        ("region.left", math.nan),
        ("region.top", -math.inf),
    ],
)
def test_impossible_geometry(path: str, value: float):
    response = explain_response()
    *parents, name = path.split(".")
    message = response.heatmap.geometry
    for parent in parents:
        message = getattr(message, parent)
    setattr(message, name, value)
    with pytest.raises(MalformedResponseError, match="the heatmap"):
        _codec.explanation(response, IMAGE, None)


def test_an_empty_answer():
    with pytest.raises(MalformedResponseError):
        _codec.explanation(explanation_service_pb2.ExplainResponse(), IMAGE, None)


def pair_response() -> explanation_service_pb2.PairSimilarityResponse:
    side = {"heatmap": heatmap(IMAGE.data), "sum": 0.5, "bias_share": 0.25, "prefix_share": 0.125}
    match = {
        "similarity": 0.875,
        "query": side,
        "candidate": side,
        "match_matrix": tensor(np.eye(6)),
    }
    return explanation_service_pb2.PairSimilarityResponse(
        results=[{"match": match}, {"error": status("IMAGE_TOO_LARGE", "too large")}]
    )


def test_pair_results():
    made = _codec.pair_results(pair_response(), IMAGE, [IMAGE, IMAGE], None)
    (match,), (failure,) = made.matches, made.failures
    assert made[0] is match
    assert made[-1] is failure
    assert match.similarity == match.score == 0.875
    assert (match.query.sum, match.query.bias_share, match.query.prefix_share) == (0.5, 0.25, 0.125)
    np.testing.assert_array_equal(match.match_matrix, np.eye(6))
    assert (failure.error.reason, failure.error.message) == ("IMAGE_TOO_LARGE", "too large")


def test_results_must_be_as_many_as_candidates():
    with pytest.raises(MalformedResponseError, match="2 results for 1 candidates"):
        _codec.pair_results(pair_response(), IMAGE, [IMAGE], None)


def test_a_result_must_hold_something():
    response = pair_response()
    response.results[1].Clear()
    with pytest.raises(MalformedResponseError, match=r"results\[1\] holds neither"):
        _codec.pair_results(response, IMAGE, [IMAGE, IMAGE], None)


def test_a_match_matrix_must_fit_the_maps():
    response = pair_response()
    response.results[0].match.match_matrix.CopyFrom(tensor(np.eye(5)))
    with pytest.raises(MalformedResponseError, match="match_matrix"):
        _codec.pair_results(response, IMAGE, [IMAGE, IMAGE], None)


def test_models():
    vit, cnn = _model_codec.models(
        model_service_pb2.ListModelsResponse(models=[vit_info(), cnn_info()])
    )
    assert vit.labels == ("[tench]", "goldfish")
    assert vit.default_explanation_method == Method(
        "rollout", (("start_block", 0), ("end_block", 11))
    )
    assert vit.default_pair_method is None
    assert vit.default_similarity_method == Method("affinity")
    assert vit.default_method(MethodKind.EXPLANATION, similarity=True) == Method("affinity")
    assert (vit.hidden_units, vit.cam_layer) == (768, "blocks.11.norm1")
    assert vit.preprocessing.mean == (0.5, 0.5, 0.5)
    rollout = vit.methods[0]
    assert (rollout.kind, rollout.supported) == (MethodKind.EXPLANATION, True)
    assert (rollout.forward_passes, rollout.source) == (1, "Author of rollout, 2020")
    takes = {m.name: (m.takes_class, m.takes_similarity, m.takes_target) for m in vit.methods}
    assert takes["rollout"] == (False, False, False)
    assert takes["score_cam"] == (True, False, True)
    assert takes["affinity"] == (False, True, True)
    assert [m.caution for m in vit.methods if m.caution] == ["slow on a CPU"]
    block, profile = rollout.parameters
    assert (block.minimum, block.maximum, block.default) == (0, 11, "0")
    assert (profile.minimum, profile.choices) == (None, ("strict", "reference", "paper"))
    assert not vit.supports("pooled_decomposition", MethodKind.PAIR)
    assert cnn.supports("pooled_decomposition", MethodKind.PAIR)
    assert cnn.supports("correspondence", MethodKind.PAIR)
    assert not cnn.supports("correspondence", MethodKind.EXPLANATION)


def test_a_method_of_a_newer_kind_is_left_out():
    info = vit_info()
    info.methods.add(name="newer", kind=9)
    (model,) = _model_codec.models(model_service_pb2.ListModelsResponse(models=[info]))
    assert "newer" not in [method.name for method in model.methods]


def test_details_without_a_model():
    with pytest.raises(MalformedResponseError):
        _model_codec.details(model_service_pb2.GetModelResponse())
