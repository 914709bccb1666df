"""Calls about pictures, one or as many as the pictures need."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Generic, TypeAlias, TypeVar

import grpc
from google.protobuf.message import Message

from pairlens import _images
from pairlens._chunks import chunks
from pairlens._connection import Connection
from pairlens._image_fields import ImageField
from pairlens._images import EncodedImage, ImageInput, SentImage
from pairlens._uploads import PictureCall
from pairlens.errors import RequestTooLargeError
from pairlens.models import Limits, ModelDetails

_Request = TypeVar("_Request", bound=Message)
_Response = TypeVar("_Response")

Pictures: TypeAlias = "ImageInput | EncodedImage | Iterable[ImageInput | EncodedImage]"

MAX_CHUNK_BYTES = 2**28
"""Files read at once for one request whose pictures travel as their hashes."""


@dataclass(frozen=True)
class ManyCalls(Generic[_Request, _Response]):
    """Calls that each are about some of many pictures.

    Attributes:
        rpc: Method of a stub.
        build: Makes the request of some pictures, with the fields that it is given.
        details: Of the model that they are about.
        timeout: Seconds of each call; None for the client's.
    """

    rpc: grpc.UnaryUnaryMultiCallable[_Request, _Response]
    build: Callable[[Sequence[SentImage], ImageField], _Request]
    details: ModelDetails
    timeout: float | None


class Sending(Connection):
    """What all calls about pictures share."""

    def _send_each(
        self, calls: ManyCalls[_Request, _Response], images: Pictures
    ) -> Iterator[tuple[int, _Response | RequestTooLargeError]]:
        """Send pictures in as many requests as the limits ask for, one after the other.

        Args:
            calls: What to send.
            images: Read when their turn comes.

        Yields:
            How many pictures a request held, and its answer; or a picture that fits into no
            request.

        Raises:
            PairlensError: A picture cannot be read, or a request failed.
        """
        limits = calls.details.limits
        encoded = _images.encode_each(images, field="images")
        most_bytes = MAX_CHUNK_BYTES if self._uploads.usable(limits) else self._room(limits)
        for chunk in chunks(encoded, limits.max_candidates, most_bytes):
            yield from self._send_chunk(calls, chunk)

    def _send_chunk(
        self, calls: ManyCalls[_Request, _Response], chunk: list[SentImage]
    ) -> Iterator[tuple[int, _Response | RequestTooLargeError]]:
        """Send some pictures in one request, or in several when their files have to go along."""
        limits, model = calls.details.limits, calls.details.model.name
        call = PictureCall(calls.rpc, lambda field: calls.build(chunk, field), chunk, model)
        try:
            with self._forgetting_stale_models():
                response = self._uploads.send(call, self._deadline(calls.timeout))
        except RequestTooLargeError as error:
            parts = list(chunks(chunk, limits.max_candidates, self._room(limits)))
            if len(chunk) == 1:
                yield 1, error
            elif len(parts) == 1:
                raise
            else:
                for part in parts:
                    yield from self._send_chunk(calls, part)
        else:
            yield len(chunk), response

    def _room(self, limits: Limits) -> int:
        """Bytes of one request."""
        return min(limits.max_request_bytes, self._max_message_bytes)
