"""A gRPC server of the real contract whose answers a test decides."""

from __future__ import annotations

import io
from collections import deque
from concurrent import futures

import grpc
import numpy as np
from grpc_health.v1 import health, health_pb2_grpc
from grpc_status import rpc_status
from PIL import Image

from pairlens.v1 import (
    admin_service_pb2_grpc,
    common_pb2,
    explanation_service_pb2,
    explanation_service_pb2_grpc,
    image_service_pb2_grpc,
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
from tests.client.scripted_cache import ScriptedCache
from tests.client.scripted_images import ImageStore, ScriptedImages, with_files
from tests.client.scripted_models import cnn_info, limits, vit_info
from tests.client.scripted_scores import embedding, scored
from tests.client.scripted_status import CODES, Act, fails, status

__all__ = [
    "CODES",
    "Act",
    "ImageStore",
    "Running",
    "Scripted",
    "fails",
    "heatmap",
    "png",
    "provenance",
    "rpc_status",
    "status",
    "tensor",
    "timing",
]


class Scripted(
    ScriptedCache,
    ScriptedImages,
    explanation_service_pb2_grpc.ExplanationServiceServicer,
    model_service_pb2_grpc.ModelServiceServicer,
):
    """Answers like a small server, unless a test has put acts on the script.

    Attributes:
        script: What the next calls do first, one act for each call.
        calls: Requests that arrived, in order, with attempts that the script refused.
        deadlines: Seconds that each of them had left.
        names: Of the clients that made them.
        metadata: That came with them.
        images: Pictures that it keeps; None for a server that knows no digests.
        limits: What GetModel answers.
        models: What ListModels answers.
        overlay_png: What Explain returns as drawn, when a drawing is asked for.
        broken: Methods that fail, with their reasons.
    """

    def __init__(self) -> None:
        self.script: deque[Act] = deque()
        self.calls: list[object] = []
        self.deadlines: list[float] = []
        self.names: list[str] = []
        self.metadata: list[dict[str, str | bytes]] = []
        self.images: ImageStore | None = ImageStore()
        self.limits = limits()
        self.models = [vit_info(), cnn_info()]
        self.overlay_png = b""
        self.broken: dict[str, str] = {}
        super().__init__()

    def _arrived(self, request: object, context: grpc.ServicerContext) -> None:
        self.calls.append(request)
        self.deadlines.append(context.time_remaining())
        self.metadata.append(dict(context.invocation_metadata()))
        self.names.append(self.metadata[-1].get("pairlens-client", ""))
        if self.script:
            self.script.popleft()(context)

    def requests(self, kind: type) -> list[object]:
        return [call for call in self.calls if isinstance(call, kind)]

    def bytes_received(self) -> int:
        return sum(call.ByteSize() for call in self.calls)

    def ListModels(self, request, context):  # noqa: N802
        self._arrived(request, context)
        return model_service_pb2.ListModelsResponse(models=self.models)

    def GetModel(self, request, context):  # noqa: N802
        self._arrived(request, context)
        for model in self.models:
            if model.name == request.model:
                return model_service_pb2.GetModelResponse(model=model, limits=self.limits)
        return fails("MODEL_NOT_FOUND", f"no model '{request.model}'")(context)

    def Explain(self, request, context):  # noqa: N802
        self._arrived(request, context)
        request = with_files(request, self.images, context)
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
        request = with_files(request, self.images, context)
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
        request = with_files(request, self.images, context)
        return scored(request)

    def Embed(self, request, context):  # noqa: N802
        self._arrived(request, context)
        request = with_files(request, self.images, context)
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
    """A `Scripted` at an address, by default at a free port.

    Args:
        address: Where.
        old: Whether it is a server from before pictures were kept.
        credentials: For TLS; None answers in plaintext.
    """

    def __init__(
        self,
        address: str = "127.0.0.1:0",
        *,
        old: bool = False,
        credentials: grpc.ServerCredentials | None = None,
    ) -> None:
        self.service = Scripted()
        limits = [("grpc.max_receive_message_length", 8 * 2**20)]
        self._server = grpc.server(futures.ThreadPoolExecutor(40), options=limits)
        explanation_service_pb2_grpc.add_ExplanationServiceServicer_to_server(
            self.service, self._server
        )
        model_service_pb2_grpc.add_ModelServiceServicer_to_server(self.service, self._server)
        if old:
            self.service.images = None
            self.service.limits.ClearField("keeps_images")
            self.service.limits.ClearField("max_digests")
        else:
            image_service_pb2_grpc.add_ImageServiceServicer_to_server(self.service, self._server)
            admin_service_pb2_grpc.add_AdminServiceServicer_to_server(self.service, self._server)
        self.health = health.HealthServicer()
        health_pb2_grpc.add_HealthServicer_to_server(self.health, self._server)
        if credentials is None:
            port = self._server.add_insecure_port(address)
        else:
            port = self._server.add_secure_port(address, credentials)
        self.target = f"127.0.0.1:{port}"
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
