"""Calls about pictures, one or as many as the pictures need."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, TypeAlias, TypeVar

from google.protobuf.message import Message

from pairlens import _images, _steps
from pairlens._chunks import Chunker, chunks
from pairlens._connection import Connection
from pairlens._image_fields import ImageField
from pairlens._images import EncodedImage, ImageInput, SentImage
from pairlens._steps import Method, Steps
from pairlens._uploads import PictureCall
from pairlens.errors import PairlensError, RequestTooLargeError
from pairlens.models import Limits, ModelDetails

_Request = TypeVar("_Request", bound=Message)
_Response = TypeVar("_Response")
_Answer_contra = TypeVar("_Answer_contra", contravariant=True)

Pictures: TypeAlias = "ImageInput | EncodedImage | Iterable[ImageInput | EncodedImage]"

MAX_CHUNK_BYTES = 2**28
"""Files read at once for one request whose pictures travel as their hashes."""


@dataclass(frozen=True)
class ManyCalls(Generic[_Request, _Response]):
    """Calls that each are about some of many pictures.

    Attributes:
        method: Which.
        build: Makes the request of some pictures, with the fields that it is given.
        details: Of the model that they are about.
        timeout: Seconds of each call; None for the client's.
    """

    method: Method[_Request, _Response]
    build: Callable[[Sequence[SentImage], ImageField], _Request]
    details: ModelDetails
    timeout: float | None


class Parts(Protocol[_Answer_contra]):
    """Where the answers about many pictures are put together."""

    def add(self, response: _Answer_contra, count: int) -> None:
        """The answer about the next pictures, so many of them."""

    def fail(self, error: PairlensError) -> None:
        """Why there is no answer about the next picture."""


class Sending(Connection):
    """What all calls about pictures share."""

    def _encoded(self, image: ImageInput | EncodedImage, field: str = "image") -> Steps[SentImage]:
        """Encode a picture.

        Raises:
            Exception: As `_images.encode`.
        """
        if _images.at_hand(image):
            return _images.encode(image, field=field)
        return (yield from _steps.work(lambda: _images.encode(image, field=field)))

    def _send_each(
        self, calls: ManyCalls[_Request, _Response], images: Pictures, parts: Parts[_Response]
    ) -> Steps[None]:
        """Send pictures in as many requests as the limits ask for, one after the other.

        Args:
            calls: What to send.
            images: Read when their turn comes.
            parts: Takes the answers, and pictures that fit into no request as failures.

        Raises:
            PairlensError: A picture cannot be read, or a request failed.
        """
        limits = calls.details.limits
        most_bytes = MAX_CHUNK_BYTES if self._uploads.usable(limits) else self._room(limits)
        chunker: Chunker[SentImage] = Chunker(limits.max_candidates, most_bytes)
        for image, field in _images.each(images, field="images"):
            if full := chunker.add((yield from self._encoded(image, field))):
                yield from self._send_chunk(calls, full, parts)
        if rest := chunker.rest():
            yield from self._send_chunk(calls, rest, parts)

    def _send_chunk(
        self,
        calls: ManyCalls[_Request, _Response],
        chunk: list[SentImage],
        parts: Parts[_Response],
    ) -> Steps[None]:
        """Send some pictures in one request, or in several when their files have to go along."""
        limits, model = calls.details.limits, calls.details.model.name
        call = PictureCall(calls.method, lambda field: calls.build(chunk, field), chunk, model)
        try:
            with self._forgetting_stale_models():
                response = yield from self._uploads.send(call, self._deadline(calls.timeout))
        except RequestTooLargeError as error:
            smaller = list(chunks(chunk, limits.max_candidates, self._room(limits)))
            if len(chunk) == 1:
                parts.fail(error)
                return
            if len(smaller) == 1:
                raise
        else:
            parts.add(response, len(chunk))
            return
        for part in smaller:
            yield from self._send_chunk(calls, part, parts)

    def _room(self, limits: Limits) -> int:
        """Bytes of one request."""
        return min(limits.max_request_bytes, self._max_message_bytes)
