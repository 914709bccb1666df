"""The protocol "images" with the scripted server."""

from __future__ import annotations

from pairlens.evaluation.rows import method_rows
from pairlens.evaluation.single_images import ImageOptions, SingleImages
from pairlens.models import MethodKind
from pairlens.v1 import explanation_service_pb2, metrics_pb2, model_service_pb2

SCORE = explanation_service_pb2.ScoreSaliencyRequest
EXPLAIN = explanation_service_pb2.ExplainRequest


def protocol(client, dataset, methods="rollout", metrics="deletion", model="vit", **options):
    info = client.get_model(model).model
    rows = method_rows(methods, info, MethodKind.EXPLANATION)
    return SingleImages(client, info, dataset, rows, ImageOptions(metrics, **options))


def knows(service, *names):
    """Let the scripted model know further metrics."""
    for name in names:
        service.models[0].metrics.append(
            model_service_pb2.MetricInfo(
                name=name, summary=f"about {name}", defaults=metrics_pb2.Metric(**{name: {}})
            )
        )
