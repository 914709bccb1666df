"""What the scripted server answers to ScoreSaliency and Embed."""

from __future__ import annotations

import numpy as np

from pairlens.v1 import (
    common_pb2,
    explanation_service_pb2,
    metrics_pb2,
    model_service_pb2,
)
from tests.client.scripted_answers import heatmap, provenance, tensor, timing

SIDE_IMAGE = explanation_service_pb2.SIDE_IMAGE
FRACTIONS = np.array([0, 0.25, 0.5, 1])
SCORES = {"deletion": np.array([0.75, 0.5, 0.25, 0]), "insertion": np.array([0, 0.5, 0.625, 0.75])}
VALUES = {"deletion": 0.3125, "insertion": 0.515625, "average_drop": 0.5, "pointing_game": 1.0}
EMBEDDING_SIZE = 5


def metric_infos() -> list[model_service_pb2.MetricInfo]:
    steps = model_service_pb2.ParameterInfo(
        name="steps", type="int", default_value="64", minimum=1, maximum=50176, description="how"
    )
    sigma = model_service_pb2.ParameterInfo(
        name="blur_sigma", type="float", minimum=0, minimum_excluded=True, description="blur"
    )
    deletion = metrics_pb2.Metric(deletion={"steps": 64, "profile": common_pb2.PROFILE_STRICT})
    return [
        model_service_pb2.MetricInfo(
            name="deletion",
            summary="area under the score",
            parameters=[steps, sigma],
            defaults=deletion,
            forward_passes=65,
            source="Petsiuk et al., 2018",
        ),
        model_service_pb2.MetricInfo(
            name="pointing_game",
            summary="whether the largest cell hits",
            defaults=metrics_pb2.Metric(pointing_game={"tolerance": 0}),
            higher_is_better=True,
            needs_region=True,
        ),
    ]


def scored(
    request: explanation_service_pb2.ScoreSaliencyRequest,
) -> explanation_service_pb2.ScoreSaliencyResponse:
    """Scores that tests know by heart; average_increase is undefined."""
    similar = request.target.HasField("similarity")
    response = explanation_service_pb2.ScoreSaliencyResponse(
        enlargement=request.enlargement or explanation_service_pb2.ENLARGEMENT_BILINEAR,
        forward_passes=9,
        provenance=provenance(request.model, ""),
        timing=timing(),
    )
    which = request.WhichOneof("saliency")
    by_method = which in ("method", "pair_method")
    if by_method:
        getattr(response, which).CopyFrom(getattr(request, which))
        response.heatmap.CopyFrom(heatmap(request.image.inline))
    if similar:
        response.target.similarities.append(0.75)
    else:
        response.target.CopyFrom(
            explanation_service_pb2.ResolvedTarget(
                class_index=request.target.class_index or 1, label="goldfish", probability=0.75
            )
        )
    sides = request.sides or [SIDE_IMAGE]
    if by_method and list(sides) != [SIDE_IMAGE]:
        partner = request.target.similarity.images[0].inline
        response.partner_heatmap.CopyFrom(heatmap(partner, scale=2.0))
    for metric in request.metrics:
        localises = "pointing" in metric.WhichOneof("metric")
        for side in [SIDE_IMAGE] if localises else sides:
            result = response.results.add(metric=metric, side=side)
            _score(result, similar=similar, embeddings=request.return_embeddings)
    return response


def _score(
    result: explanation_service_pb2.MetricResult, *, similar: bool, embeddings: bool
) -> None:
    name = result.metric.WhichOneof("metric")
    lower = 0.125 * (result.side - SIDE_IMAGE)
    if name in VALUES:
        result.value = VALUES[name] - lower
    else:
        result.undefined = "the picture scores zero"
    if "pointing" in name:
        return
    result.clean_score = 0.75
    if not similar:
        result.class_index = 1
    if name not in SCORES:
        return
    message = result.metric.deletion if name == "deletion" else result.metric.insertion
    if not message.steps:
        message.steps = 3
    result.masked_score, result.normalized_value = 0.0, 0.5
    result.curve.fractions.CopyFrom(tensor(FRACTIONS))
    result.curve.scores.CopyFrom(tensor(SCORES[name] - lower))
    if embeddings:
        result.curve.embeddings.CopyFrom(tensor(np.arange(4 * EMBEDDING_SIZE).reshape(4, -1)))


def embedding(image: bytes) -> np.ndarray:
    """[picture's bytes, 1, 2, 3, 4]."""
    return np.array([len(image), 1, 2, 3, 4], np.float32)
