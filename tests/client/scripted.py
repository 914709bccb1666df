"""A gRPC server of the real contract whose answers a test decides."""

from __future__ import annotations

import io
from collections import deque
from collections.abc import Callable
from concurrent import futures

import grpc
import numpy as np
from google.protobuf.duration_pb2 import Duration
from google.rpc import code_pb2, error_details_pb2, status_pb2
from grpc_health.v1 import health, health_pb2_grpc
from grpc_status import rpc_status
from PIL import Image

from pairlens.v1 import (
    common_pb2,
    explanation_service_pb2,
    explanation_service_pb2_grpc,
    methods_pb2,
    model_service_pb2,
    model_service_pb2_grpc,
)
from tests.client.scripted_answers import (
    COLUMNS,
    ROWS,
    explained,
    heatmap,
    provenance,
    tensor,
    timing,
)
from tests.client.scripted_models import cnn_info, vit_info
from tests.client.scripted_scores import embedding, scored

__all__ = [
    "Running",
    "Scripted",
    "fails",
    "heatmap",
    "png",
    "provenance",
    "status",
    "tensor",
    "timing",
]

CODES = {
    "INVALID_PARAMETER": "INVALID_ARGUMENT",
    "IMAGE_UNDECODABLE": "INVALID_ARGUMENT",
    "IMAGE_TOO_LARGE": "INVALID_ARGUMENT",
    "MODEL_NOT_FOUND": "NOT_FOUND",
    "METHOD_UNSUPPORTED": "FAILED_PRECONDITION",
    "NOT_FINITE": "FAILED_PRECONDITION",
    "QUEUE_FULL": "RESOURCE_EXHAUSTED",
    "OUT_OF_MEMORY": "RESOURCE_EXHAUSTED",
    "DEADLINE_UNREACHABLE": "DEADLINE_EXCEEDED",
    "NOT_READY": "UNAVAILABLE",
    "DRAINING": "UNAVAILABLE",
    "INTERNAL": "INTERNAL",
}
"""The contract's list of reasons and their codes (explanation_service.proto)."""

Act = Callable[[grpc.ServicerContext], None]


def status(
    reason: str, message: str = "why", *, field: str = "", retry_after: float | None = None
) -> status_pb2.Status:
    """A status as the server makes it."""
    result = status_pb2.Status(code=code_pb2.Code.Value(CODES[reason]), message=message)
    result.details.add().Pack(error_details_pb2.ErrorInfo(reason=reason, domain="pairlens"))
    if field:
        bad = error_details_pb2.BadRequest()
        bad.field_violations.add(field=field, description=message)
        result.details.add().Pack(bad)
    if retry_after is not None:
        delay = Duration()
        delay.FromNanoseconds(round(retry_after * 1e9))
        result.details.add().Pack(error_details_pb2.RetryInfo(retry_delay=delay))
    return result


def fails(reason: str, message: str = "why", **details: object) -> Act:
    """End a call with one of the contract's errors."""
    return lambda context: context.abort_with_status(
        rpc_status.to_status(status(reason, message, **details))
    )


class Scripted(
    explanation_service_pb2_grpc.ExplanationServiceServicer,
    model_service_pb2_grpc.ModelServiceServicer,
):
    """Answers like a small server, unless a test has put acts on the script.

    Attributes:
        script: What the next calls do first, one act for each call.
        calls: Requests that arrived, in order, with attempts that the script refused.
        deadlines: Seconds that each of them had left.
        models: What ListModels answers.
        overlay_png: What Explain returns as drawn, when a drawing is asked for.
        broken: Methods that fail, with their reasons.
    """

    def __init__(self) -> None:
        self.script: deque[Act] = deque()
        self.calls: list[object] = []
        self.deadlines: list[float] = []
        self.models = [vit_info(), cnn_info()]
        self.overlay_png = b""
        self.broken: dict[str, str] = {}

    def _arrived(self, request: object, context: grpc.ServicerContext) -> None:
        self.calls.append(request)
        self.deadlines.append(context.time_remaining())
        if self.script:
            self.script.popleft()(context)

    def requests(self, kind: type) -> list[object]:
        return [call for call in self.calls if isinstance(call, kind)]

    def ListModels(self, request, context):  # noqa: N802
        self._arrived(request, context)
        return model_service_pb2.ListModelsResponse(models=self.models)

    def GetModel(self, request, context):  # noqa: N802
        self._arrived(request, context)
        for model in self.models:
            if model.name == request.model:
                limits = model_service_pb2.Limits(
                    max_request_bytes=1 << 20,
                    max_candidates=4,
                    max_target_embeddings=9,
                    max_metrics=16,
                    max_copies=4096,
                    image_formats=["PNG"],
                )
                return model_service_pb2.GetModelResponse(model=model, limits=limits)
        return fails("MODEL_NOT_FOUND", f"no model '{request.model}'")(context)

    def Explain(self, request, context):  # noqa: N802
        self._arrived(request, context)
        try:
            drawn = heatmap(request.image.inline)
        except OSError:
            return fails("IMAGE_UNDECODABLE", "not a picture", field="image")(context)
        name = request.method.WhichOneof("method")
        if name in self.broken:
            return fails(self.broken[name], f"{name} cannot be")(context)
        response = explained(request, drawn)
        if request.rendering.overlay:
            response.rendered.overlay_png = self.overlay_png
        return response

    def PairSimilarity(self, request, context):  # noqa: N802
        self._arrived(request, context)
        method = request.method
        if method.WhichOneof("method") is None:
            method = methods_pb2.PairMethod(
                pooled_decomposition={"profile": common_pb2.PROFILE_STRICT}
            )
        response = explanation_service_pb2.PairSimilarityResponse(
            method=method,
            provenance=provenance(request.model, method.WhichOneof("method")),
            timing=timing(),
        )
        for index, candidate in enumerate(request.candidates):
            result = response.results.add()
            try:
                match = result.match
                match.candidate.heatmap.CopyFrom(heatmap(candidate.inline, scale=2.0))
            except OSError:
                result.error.CopyFrom(
                    status("IMAGE_UNDECODABLE", "not a picture", field=f"candidates[{index}]")
                )
                continue
            match.query.heatmap.CopyFrom(heatmap(request.query.inline))
            match.similarity = 0.5 + index / 8
            match.query.sum, match.query.bias_share, match.query.prefix_share = 0.25, 0.125, 0.0625
            if method.pooled_decomposition.match_matrix:
                match.match_matrix.CopyFrom(tensor(np.full((ROWS * COLUMNS,) * 2, index)))
        return response

    def ScoreSaliency(self, request, context):  # noqa: N802
        self._arrived(request, context)
        return scored(request)

    def Embed(self, request, context):  # noqa: N802
        self._arrived(request, context)
        response = explanation_service_pb2.EmbedResponse(
            provenance=provenance(request.model, ""), timing=timing()
        )
        for index, image in enumerate(request.images):
            result = response.results.add()
            try:
                heatmap(image.inline)
            except OSError:
                field = f"images[{index}]"
                result.error.CopyFrom(status("IMAGE_UNDECODABLE", "not a picture", field=field))
            else:
                result.embedding.CopyFrom(tensor(embedding(image.inline)))
        return response


class Running:
    """A `Scripted` at an address, by default at a free port."""

    def __init__(self, address: str = "127.0.0.1:0") -> None:
        self.service = Scripted()
        limits = [("grpc.max_receive_message_length", 8 * 2**20)]
        self._server = grpc.server(futures.ThreadPoolExecutor(8), options=limits)
        explanation_service_pb2_grpc.add_ExplanationServiceServicer_to_server(
            self.service, self._server
        )
        model_service_pb2_grpc.add_ModelServiceServicer_to_server(self.service, self._server)
        self.health = health.HealthServicer()
        health_pb2_grpc.add_HealthServicer_to_server(self.health, self._server)
        self.target = f"127.0.0.1:{self._server.add_insecure_port(address)}"
        self._server.start()

    def stop(self) -> None:
        self._server.stop(None).wait()


def png(height: int = 40, width: int = 60, *, noise: bool = False) -> bytes:
    """An encoded picture; noise does not compress (3 bytes a pixel)."""
    pixels = np.full((height, width, 3), 128, np.uint8)
    if noise:
        pixels = np.random.default_rng(0).integers(0, 256, pixels.shape, dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()
