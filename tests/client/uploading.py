"""What the tests of uploads share."""

from __future__ import annotations

from pairlens.v1 import explanation_service_pb2, image_service_pb2, model_service_pb2
from tests.client.scripted import Scripted, png

EXPLAIN = explanation_service_pb2.ExplainRequest
PAIR = explanation_service_pb2.PairSimilarityRequest
SCORE = explanation_service_pb2.ScoreSaliencyRequest
FIND = image_service_pb2.FindMissingImagesRequest
UPLOAD = image_service_pb2.UploadImagesRequest
DETAILS = model_service_pb2.GetModelRequest
LIST = model_service_pb2.ListModelsRequest


def large(number: int = 0) -> bytes:
    """A picture of more than MIN_UPLOAD_BYTES, another one for each number."""
    return png(110, 110 + number, noise=True)


def kinds(service: Scripted) -> list[str]:
    """What was called, in short."""
    short = {EXPLAIN: "call", PAIR: "call", SCORE: "call", FIND: "find", UPLOAD: "upload"}
    return [short[type(call)] for call in service.calls if type(call) in short]


def sources(request: EXPLAIN | PAIR) -> list[str]:
    images = [request.image] if isinstance(request, EXPLAIN) else [request.query]
    images += [] if isinstance(request, EXPLAIN) else request.candidates
    return [image.WhichOneof("source") for image in images]
