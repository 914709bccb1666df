"""Calls of ScoreSaliency and Embed through bare stubs, and pictures whose copies are at hand."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

import grpc
import numpy as np
from PIL import Image

from pairlens.v1 import (
    common_pb2,
    explanation_service_pb2,
    explanation_service_pb2_grpc,
    methods_pb2,
    metrics_pb2,
)
from tests.contract.support import TIMEOUT_S, Failure, array, encoded, image, png

HEIGHT, WIDTH = 32, 48
"""Of the input of the small ViTs, which take pictures of this size as they are."""

ROWS, COLUMNS = 4, 6
"""Of their grid."""

DTYPES = {
    common_pb2.DATA_TYPE_FLOAT32: "<f4",
    common_pb2.DATA_TYPE_FLOAT16: "<f2",
    common_pb2.DATA_TYPE_UINT8: "u1",
    common_pb2.DATA_TYPE_INT64: "<i8",
    common_pb2.DATA_TYPE_BOOL: "?",
}


def plane(values: Any, dtype: int = common_pb2.DATA_TYPE_FLOAT32) -> common_pb2.Tensor:
    array = np.asarray(values).astype(DTYPES[dtype])
    return common_pb2.Tensor(dtype=dtype, shape=array.shape, data=array.tobytes())


def given(values: Any, **fields: Any) -> explanation_service_pb2.GivenHeatmap:
    tensor = values if isinstance(values, common_pb2.Tensor) else plane(values)
    return explanation_service_pb2.GivenHeatmap(values=tensor, **fields)


def random_map(seed: int = 0, shape: tuple[int, ...] = (ROWS, COLUMNS)) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def metric(name: str, **parameters: Any) -> metrics_pb2.Metric:
    return metrics_pb2.Metric(**{name: parameters})


def like(*files: bytes, **fields: Any) -> methods_pb2.Target:
    similarity = {"images": [image(file) for file in files], **fields}
    return methods_pb2.Target(similarity=similarity)


def request(
    model: str,
    metrics: Sequence[metrics_pb2.Metric],
    data: bytes | None = None,
    **fields: Any,
) -> explanation_service_pb2.ScoreSaliencyRequest:
    """A call of a random map of the small ViTs, where `fields` say nothing else."""
    if not {"heatmap", "method", "pair_method"} & set(fields):
        fields["heatmap"] = given(random_map())
    return explanation_service_pb2.ScoreSaliencyRequest(
        model=model,
        image=image(exact(1) if data is None else data),
        metrics=metrics,
        **fields,
    )


class Scores:
    """Calls of ScoreSaliency and Embed."""

    def __init__(self, channel: grpc.Channel):
        self.stub = explanation_service_pb2_grpc.ExplanationServiceStub(channel)

    def score(
        self, *arguments: Any, **fields: Any
    ) -> explanation_service_pb2.ScoreSaliencyResponse:
        """Call with what `request` makes of the arguments."""
        return self.stub.ScoreSaliency(request(*arguments, **fields), timeout=TIMEOUT_S)

    def embed(self, model: str, *files: bytes) -> explanation_service_pb2.EmbedResponse:
        asked = explanation_service_pb2.EmbedRequest(
            model=model, images=[image(file) for file in files]
        )
        return self.stub.Embed(asked, timeout=TIMEOUT_S)

    def embeddings(self, model: str, *files: bytes) -> np.ndarray:
        """Embeddings of pictures that have them: float64 [count, size]."""
        answer = self.embed(model, *files)
        rows = [np.frombuffer(r.embedding.data, "<f4") for r in answer.results]
        return np.stack(rows).astype(np.float64)


def exact(seed: int) -> bytes:
    """A picture of the size of the small ViTs' input."""
    return png(seed, HEIGHT, WIDTH)


def painted(file: bytes, hidden: np.ndarray, colour: int = 0) -> bytes:
    """A picture with some pixels in a grey, black by default.

    Args:
        file: The picture.
        hidden: bool [height, width], or cells that divide it evenly.
        colour: Level of the grey.
    """
    pixels = np.array(Image.open(io.BytesIO(file)).convert("RGB"))
    scale = [of // cells for of, cells in zip(pixels.shape, hidden.shape, strict=False)]
    pixels[np.kron(hidden, np.ones(scale, bool)).astype(bool)] = colour
    return encoded(Image.fromarray(pixels))


def curve(result: Any) -> tuple[np.ndarray, np.ndarray]:
    """Fractions and scores of a result."""
    return array(result.curve.fractions), array(result.curve.scores)


def most_relevant(heatmap: np.ndarray, count: int) -> np.ndarray:
    """Where a map's largest cells are: bool, of its shape."""
    ranks = np.argsort(np.argsort(-heatmap, axis=None)).reshape(heatmap.shape)
    return ranks < count


def cosine(first: np.ndarray, second: np.ndarray) -> float:
    return float(first @ second / np.linalg.norm(first) / np.linalg.norm(second))


def check_refusal(found: Failure, path: str, words: str = "") -> None:
    """Check that a refusal is of a field's value."""
    assert (found.code, found.reason) == ("INVALID_ARGUMENT", "INVALID_PARAMETER"), found
    assert found.field == path, found.message
    assert words in found.message
