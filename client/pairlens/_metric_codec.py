"""Metrics and their answers as the SDK's frozen values, checked on the way."""

from __future__ import annotations

from collections.abc import Callable

from pairlens import _answers, _parameters
from pairlens._images import SentImage
from pairlens._placed_codec import placed_map
from pairlens._tensors import to_float32
from pairlens.errors import MalformedResponseError
from pairlens.metrics import Curve, Metric, MetricInfo, MetricScore, SaliencyScores
from pairlens.models import Method, ParameterInfo
from pairlens.placed import PlacedMap
from pairlens.v1 import common_pb2, explanation_service_pb2, metrics_pb2, model_service_pb2


def metric_info(
    message: model_service_pb2.MetricInfo,
    parameter: Callable[[model_service_pb2.ParameterInfo], ParameterInfo],
) -> MetricInfo:
    """Read what GetModel says of a metric.

    Args:
        message: Of the contract.
        parameter: Reads a parameter.
    """
    return MetricInfo(
        name=message.name,
        summary=message.summary,
        parameters=tuple(map(parameter, message.parameters)),
        defaults=_metric(message.defaults) or Metric(message.name),
        higher_is_better=message.higher_is_better,
        needs_region=message.needs_region,
        forward_passes=message.forward_passes,
        source=message.source,
    )


def scores(
    response: explanation_service_pb2.ScoreSaliencyResponse,
    image: SentImage,
    partner: SentImage | None,
    given: tuple[PlacedMap | None, PlacedMap | None] = (None, None),
) -> SaliencyScores:
    """Read the answer of ScoreSaliency.

    Args:
        response: The answer.
        image: The picture that was sent.
        partner: The one picture of a similarity target; None without one.
        given: The results that were sent as the maps of both, which the answer leaves out.

    Raises:
        MalformedResponseError: The answer breaks the contract.
    """
    which = response.WhichOneof("saliency")
    method: Method | None = None
    if which is not None:
        if not response.HasField("heatmap"):
            raise MalformedResponseError("the answer holds no heatmap of the method")
        method = _answers.method(getattr(response, which), response.provenance.method)
    return SaliencyScores(
        scores=tuple(
            _score(result, f"results[{index}]") for index, result in enumerate(response.results)
        ),
        target=_answers.target(response.target) if response.HasField("target") else None,
        method=method,
        image=image,
        heatmap=(
            _map(response.heatmap, image, "the heatmap")
            if response.HasField("heatmap")
            else given[0]
        ),
        partner=(
            _map(response.partner_heatmap, partner, "the partner's heatmap")
            if response.HasField("partner_heatmap")
            else given[1]
        ),
        enlargement=_parameters.enum_name(
            explanation_service_pb2.Enlargement.DESCRIPTOR, response.enlargement
        ),
        forward_passes=response.forward_passes,
        provenance=_answers.provenance(response.provenance),
        timing=_answers.timing(response.timing),
    )


def _map(heatmap: common_pb2.Heatmap, image: SentImage | None, what: str) -> PlacedMap:
    if image is None:
        raise MalformedResponseError(f"{what} is of a picture that was not sent")
    return PlacedMap(**placed_map(heatmap, common_pb2.Rendered(), image, None, what))


def _metric(message: metrics_pb2.Metric) -> Metric | None:
    read = _parameters.METRICS.read(message)
    return None if read is None else Metric(*read)


def _score(result: explanation_service_pb2.MetricResult, what: str) -> MetricScore:
    metric = _metric(result.metric)
    if metric is None:
        raise MalformedResponseError(f"{what} holds no metric")
    value = _answers.optional(result, "value")
    if value is None and not result.undefined:
        raise MalformedResponseError(f"{what} holds neither a value nor why there is none")
    return MetricScore(
        metric=metric,
        side=_parameters.enum_name(explanation_service_pb2.Side.DESCRIPTOR, result.side),
        value=value,
        undefined=result.undefined,
        normalized_value=_answers.optional(result, "normalized_value"),
        curve=_curve(result.curve, f"{what}.curve") if result.HasField("curve") else None,
        clean_score=_answers.optional(result, "clean_score"),
        masked_score=_answers.optional(result, "masked_score"),
        class_index=result.class_index if result.HasField("class_index") else None,
    )


def _curve(curve: explanation_service_pb2.Curve, what: str) -> Curve:
    arrays = {
        "fractions": to_float32(curve.fractions, 1, f"{what}.fractions"),
        "scores": to_float32(curve.scores, 1, f"{what}.scores"),
    }
    if curve.HasField("embeddings"):
        arrays["embeddings"] = to_float32(curve.embeddings, 2, f"{what}.embeddings")
    if curve.HasField("partner_embeddings"):
        of_partner = to_float32(curve.partner_embeddings, 2, f"{what}.partner_embeddings")
        arrays["partner_embeddings"] = of_partner
    lengths = {name: len(array) for name, array in arrays.items()}
    if len(set(lengths.values())) > 1:
        raise MalformedResponseError(f"{what} has points of different numbers: {lengths}")
    return Curve(**arrays)
