"""Pictures to send, and what came back, through bare stubs."""

from __future__ import annotations

import io
import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import grpc
import numpy as np
import pytest
from google.rpc import error_details_pb2, status_pb2
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

TIMEOUT_S = 60

_UNSEEN = itertools.count(1_000_000)


def noise(seed: int, height: int = 40, width: int = 56) -> Image.Image:
    """A picture of coloured patches."""
    coarse = np.random.default_rng(seed).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((width, height))


def encoded(picture: Image.Image, file_format: str = "PNG", **options: Any) -> bytes:
    file = io.BytesIO()
    picture.save(file, file_format, **options)
    return file.getvalue()


def png(seed: int, height: int = 40, width: int = 56) -> bytes:
    return encoded(noise(seed, height, width))


def noise_png(seed: int, height: int, width: int) -> bytes:
    """Noise of single pixels over coarse patches, rich in keypoints."""
    random = np.random.default_rng(seed)
    coarse = np.asarray(noise(seed, height, width), np.int16)
    fine = random.integers(-60, 61, (height, width, 1))
    return encoded(Image.fromarray(np.clip(coarse + fine, 0, 255).astype(np.uint8)))


def unseen() -> bytes:
    """A picture that no test has sent, so that no cache has its activations."""
    return png(next(_UNSEEN))


def image(data: bytes) -> common_pb2.Image:
    return common_pb2.Image(inline=data)


def array(tensor: common_pb2.Tensor) -> np.ndarray:
    """The values of a Tensor, checked against the contract."""
    assert tensor.dtype == common_pb2.DATA_TYPE_FLOAT32
    assert len(tensor.data) == 4 * int(np.prod(tensor.shape))
    return np.frombuffer(tensor.data, "<f4").reshape(tensor.shape)


def tensor(values: Any) -> common_pb2.Tensor:
    """A float32 Tensor of the contract."""
    array = np.asarray(values, "<f4")
    return common_pb2.Tensor(
        dtype=common_pb2.DATA_TYPE_FLOAT32, shape=array.shape, data=array.tobytes()
    )


def values(side: Any) -> np.ndarray:
    """The map of an answer, of a panel or of one side of a pair."""
    return array(side.heatmap.values)


def decomposition(**fields: Any) -> methods_pb2.PairMethod:
    chosen = methods_pb2.PooledDecomposition(**fields)
    return methods_pb2.PairMethod(pooled_decomposition=chosen)


@dataclass
class Failure:
    """A status with its details.

    Attributes:
        code: Name of the status code.
        reason: Of ErrorInfo.
        field: Of BadRequest, or "".
        message: For a person.
        status: With all details.
    """

    code: str
    reason: str
    field: str
    message: str
    status: status_pb2.Status

    def detail(self, kind: type) -> Any:
        """The detail of a type."""
        for packed in self.status.details:
            found = kind()
            if packed.Unpack(found):
                return found
        raise AssertionError(f"no {kind.__name__} in {self.status}")


def failure_of(status: status_pb2.Status) -> Failure:
    info, bad = error_details_pb2.ErrorInfo(), error_details_pb2.BadRequest()
    for packed in status.details:
        if packed.Is(info.DESCRIPTOR):
            packed.Unpack(info)
        packed.Unpack(bad)
    codes = {code.value[0]: code.name for code in grpc.StatusCode}
    assert info.domain == "pairlens"
    field = bad.field_violations[0].field if bad.field_violations else ""
    return Failure(codes[status.code], info.reason, field, status.message, status)


def failure_of_rpc(error: grpc.RpcError) -> Failure:
    status = rpc_status.from_call(error)
    assert status is not None, error
    return failure_of(status)


def refused(call: Callable[..., Any], *arguments: Any, **fields: Any) -> Failure:
    """What a call is refused with."""
    with pytest.raises(grpc.RpcError) as caught:
        call(*arguments, **fields)
    return failure_of_rpc(caught.value)


class Stubs:
    """Calls of both services; what fails comes back as a Failure."""

    def __init__(self, target: str):
        self.channel = grpc.insecure_channel(
            target,
            options=[
                ("grpc.max_send_message_length", -1),
                ("grpc.max_receive_message_length", -1),
                # The tests want to see every refusal.
                ("grpc.enable_retries", 0),
            ],
        )
        self._explanations = explanation_service_pb2_grpc.ExplanationServiceStub(self.channel)
        self._models = model_service_pb2_grpc.ModelServiceStub(self.channel)

    def explain(
        self, model: str = "tiny-vit", data: bytes | None = None, **fields: Any
    ) -> explanation_service_pb2.ExplainResponse:
        request = explanation_service_pb2.ExplainRequest(
            model=model, image=image(png(1) if data is None else data), **fields
        )
        return self._explanations.Explain(request, timeout=TIMEOUT_S)

    def pair(
        self,
        model: str,
        query: bytes,
        *candidates: bytes,
        timeout: float = TIMEOUT_S,
        **fields: Any,
    ) -> explanation_service_pb2.PairSimilarityResponse:
        request = explanation_service_pb2.PairSimilarityRequest(
            model=model,
            query=image(query),
            candidates=[image(candidate) for candidate in candidates],
            **fields,
        )
        return self._explanations.PairSimilarity(request, timeout=timeout)

    def pair_request(self, request: explanation_service_pb2.PairSimilarityRequest) -> Any:
        return self._explanations.PairSimilarity(request, timeout=TIMEOUT_S)

    def list_models(self) -> list[model_service_pb2.ModelInfo]:
        request = model_service_pb2.ListModelsRequest()
        return list(self._models.ListModels(request, timeout=TIMEOUT_S).models)

    def get_model(self, model: str) -> model_service_pb2.GetModelResponse:
        return self._models.GetModel(
            model_service_pb2.GetModelRequest(model=model), timeout=TIMEOUT_S
        )
