"""Requests of Embed, as many as the pictures need, and their answers as one."""

from __future__ import annotations

from collections.abc import Sequence
from types import MappingProxyType

import numpy as np

from pairlens import _answers, _requests
from pairlens._failures import from_status
from pairlens._image_fields import ImageField
from pairlens._images import SentImage
from pairlens._tensors import to_float32
from pairlens.errors import (
    InvalidParameterError,
    MalformedResponseError,
    PairlensError,
)
from pairlens.metrics import Embeddings
from pairlens.options import CachePolicy
from pairlens.rendering import FloatArray
from pairlens.results import Provenance, Timing
from pairlens.v1 import explanation_service_pb2


def request(
    images: Sequence[SentImage], model: str, cache: CachePolicy, field: ImageField
) -> explanation_service_pb2.EmbedRequest:
    """Build one request; `cache` and `field` as in `_requests`."""
    return explanation_service_pb2.EmbedRequest(
        model=model,
        images=[field(image) for image in images],
        cache=_requests.cache_policy(cache),
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
            timing=_answers.total(self._timings),
        )
