"""Answers of ScoreSaliency and what GetModel says of metrics."""

from collections.abc import Callable
from typing import NoReturn

import pytest

from pairlens import EncodedImage, MalformedResponseError, Method, Metric, _metric_codec
from pairlens.client import Client
from pairlens.v1 import explanation_service_pb2, metrics_pb2, model_service_pb2
from tests.client.scripted import png, tensor
from tests.client.scripted_scores import scored

IMAGE = EncodedImage(png(), "cat.png")
Response = explanation_service_pb2.ScoreSaliencyResponse


def answer() -> Response:
    request = explanation_service_pb2.ScoreSaliencyRequest(
        model="vit",
        image={"inline": IMAGE.data},
        method={"rollout": {}},
        metrics=[metrics_pb2.Metric(deletion={}), metrics_pb2.Metric(average_increase={})],
    )
    return scored(request)


def test_a_value_that_is_set_to_zero_is_a_value():
    response = answer()
    response.results[0].value = 0.0
    response.results[0].class_index = 0
    score = _metric_codec.scores(response, IMAGE, None)["deletion"]
    assert (score.value, score.class_index) == (0.0, 0)
    assert score.value is not None


def test_what_the_answer_does_not_hold_is_none():
    response = answer()
    for name in ("target", "method", "heatmap"):
        response.ClearField(name)
    scores = _metric_codec.scores(response, IMAGE, None)
    assert (scores.target, scores.method) == (None, None)
    assert (scores.heatmap, scores.partner) == (None, None)
    assert scores["average_increase"].normalized_value is None


def test_a_newer_method_is_known_by_name():
    response = answer()
    response.method.Clear()
    response.method.SetInParent()
    response.provenance.method = "telepathy"
    assert _metric_codec.scores(response, IMAGE, None).method == Method("telepathy")


def _a_point_short(response: Response) -> None:
    response.results[0].curve.scores.CopyFrom(tensor([1, 2, 3]))


def _flat_embeddings(response: Response) -> None:
    response.results[0].curve.embeddings.CopyFrom(tensor([1, 2, 3, 4]))


def _embeddings_short(response: Response) -> None:
    response.results[0].curve.partner_embeddings.CopyFrom(tensor([[1, 2], [3, 4]]))


def _partner_from_nowhere(response: Response) -> None:
    response.partner_heatmap.CopyFrom(response.heatmap)


@pytest.mark.parametrize(
    ("break_it", "message"),
    [
        (lambda response: response.ClearField("heatmap"), "no heatmap of the method"),
        (
            lambda response: response.results[0].ClearField("metric"),
            "holds no metric",
        ),
        (lambda response: response.results[0].ClearField("value"), "neither a value nor why"),
        (lambda response: response.results[0].curve.ClearField("scores"), "curve.scores"),
        (_a_point_short, "'fractions': 4, 'scores': 3"),
        (_flat_embeddings, "embeddings has shape"),
        (_embeddings_short, "'partner_embeddings': 2"),
        (_partner_from_nowhere, "the partner's heatmap is of a picture that was not sent"),
    ],
)
def test_an_answer_that_breaks_the_contract(break_it: Callable[[Response], object], message: str):
    response = answer()
    break_it(response)
    with pytest.raises(MalformedResponseError, match=message):
        _metric_codec.scores(response, IMAGE, None)


def test_what_a_model_says_of_its_metrics(client: Client):
    details = client.get_model("vit")
    assert (details.limits.max_metrics, details.limits.max_copies) == (16, 4096)
    assert details.model.random_twin == "vit_random"
    deletion, pointing = details.model.metrics
    assert deletion.defaults == Metric("deletion", (("profile", "strict"), ("steps", 64)))
    assert (deletion.higher_is_better, deletion.needs_region, deletion.forward_passes) == (
        False,
        False,
        65,
    )
    assert deletion.source == "Petsiuk et al., 2018"
    steps, sigma = deletion.parameters
    assert (steps.name, steps.minimum, steps.maximum) == ("steps", 1, 50176)
    assert (steps.minimum_excluded, sigma.minimum_excluded, sigma.maximum) == (False, True, None)
    assert (pointing.needs_region, pointing.higher_is_better) == (True, True)
    assert pointing.defaults == Metric("pointing_game", (("tolerance", 0.0),))
    assert client.list_models()[1].random_twin == ""


def test_a_metric_that_only_a_newer_contract_knows_keeps_its_name():
    message = model_service_pb2.MetricInfo(name="sharpness", summary="how sharp")
    info = _metric_codec.metric_info(message, _no_parameter)
    assert (info.defaults, info.parameters) == (Metric("sharpness"), ())


def _no_parameter(message: object) -> NoReturn:
    raise AssertionError(message)
