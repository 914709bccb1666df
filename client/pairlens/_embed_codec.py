"""Requests of Embed, as many as the pictures need, and their answers as one."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import fields
from types import MappingProxyType

import numpy as np

from pairlens import _answers
from pairlens._images import EncodedImage
from pairlens._tensors import to_float32
from pairlens.errors import (
    InvalidParameterError,
    MalformedResponseError,
    PairlensError,
    from_status,
)
from pairlens.metrics import Embeddings
from pairlens.rendering import FloatArray
from pairlens.results import Provenance, Timing
from pairlens.v1 import common_pb2, explanation_service_pb2

# What a picture's field, and a request, need beside pictures' bytes, generously.
_PICTURE_BYTES, _REQUEST_BYTES = 32, 512


def chunks(
    images: Iterable[EncodedImage], most: int, max_bytes: int
) -> Iterator[list[EncodedImage]]:
    """Group pictures into requests, in their order.

    Args:
        images: Read one after the other.
        most: Pictures of a request, at least 1.
        max_bytes: Of a request; a picture that is larger by itself has one of its own.
    """
    chunk: list[EncodedImage] = []
    left = room = max_bytes - _REQUEST_BYTES
    for image in images:
        size = len(image.data) + _PICTURE_BYTES
        if chunk and (len(chunk) == most or size > left):
            yield chunk
            chunk, left = [], room
        chunk.append(image)
        left -= size
    if chunk:
        yield chunk


def request(images: Sequence[EncodedImage], model: str) -> explanation_service_pb2.EmbedRequest:
    """Build one request."""
    return explanation_service_pb2.EmbedRequest(
        model=model, images=[common_pb2.Image(inline=image.data) for image in images]
    )


class Collected:
    """Answers of several requests, put together.

    Args:
        size: Of an embedding.
    """

    def __init__(self, size: int) -> None:
        self._size = size
        self._vectors: list[FloatArray] = []
        self._failures: dict[int, PairlensError] = {}
        self._provenance: Provenance | None = None
        self._timings: list[Timing] = []

    def add(self, response: explanation_service_pb2.EmbedResponse, count: int) -> None:
        """Read the answer for the next pictures.

        Raises:
            MalformedResponseError: The answer breaks the contract.
        """
        if len(response.results) != count:
            raise MalformedResponseError(f"{len(response.results)} results for {count} pictures")
        for result in response.results:
            index = len(self._vectors)
            outcome = result.WhichOneof("outcome")
            if outcome is None:
                raise MalformedResponseError(
                    f"the result of picture {index} holds neither an embedding nor an error"
                )
            if outcome == "error":
                self.fail(from_status(result.error))
                continue
            vector = to_float32(result.embedding, 1, f"the embedding of picture {index}")
            if vector.size != self._size:
                raise MalformedResponseError(
                    f"the embedding of picture {index} has {vector.size} values and not "
                    f"{self._size}"
                )
            self._vectors.append(vector)
        self._provenance = self._provenance or _answers.provenance(response.provenance)
        self._timings.append(_answers.timing(response.timing))

    def fail(self, error: PairlensError) -> None:
        """Note why the next picture has no embedding."""
        self._failures[len(self._vectors)] = error
        self._vectors.append(np.full(self._size, np.nan, np.float32))

    def embeddings(self) -> Embeddings:
        """All of them.

        Raises:
            InvalidParameterError: There are none.
            PairlensError: No request was answered: the first picture's failure.
        """
        if not self._vectors:
            raise InvalidParameterError("give at least one picture", field="images")
        vectors = np.stack(self._vectors)
        vectors.setflags(write=False)
        if self._provenance is None:  # every picture was refused before it was sent
            raise next(iter(self._failures.values()))
        return Embeddings(
            vectors=vectors,
            failures=MappingProxyType(self._failures),
            provenance=self._provenance,
            timing=_sum(self._timings),
        )


def _sum(timings: Sequence[Timing]) -> Timing:
    return Timing(
        **{
            field.name: sum(getattr(timing, field.name) for timing in timings)
            for field in fields(Timing)
        }
    )
