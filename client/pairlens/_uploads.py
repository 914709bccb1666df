"""Calls about pictures, each of which is sent to the server once.

A picture that the server has travels as its hash. When pictures may be there, or are large, one
question finds out which are missing, and those alone are uploaded. A hash is no promise: a call
that finds a picture gone brings it again, once, and after that sends its file along.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from google.protobuf.message import Message

from pairlens import _steps, _transport
from pairlens._chunks import fit
from pairlens._image_fields import ImageField, by_digest, choosing
from pairlens._images import EncodedImage, SentImage
from pairlens._known_images import Standing
from pairlens._remote_images import RemoteImages
from pairlens._steps import Deadline, Method, Steps
from pairlens.errors import ImageMissingError, RequestTooLargeError
from pairlens.models import Limits

_Request = TypeVar("_Request", bound=Message)
_Response = TypeVar("_Response")

MIN_UPLOAD_BYTES = 32 * 2**10
"""Pictures of this size are uploaded at once; smaller ones when they are sent a second time."""

MAX_SMALL_BYTES = 2**20
"""Of smaller ones that travel with one call; what is beyond is uploaded."""

SCATTERED_REST_S = 60.0
"""How long files travel with calls after a server did not have what was just uploaded."""

_HASHED_AT_ONCE_BYTES = 2**18  # takes less than half a millisecond, or 0.2 in newer processors


@dataclass(frozen=True)
class PictureCall(Generic[_Request, _Response]):
    """A call about pictures.

    Attributes:
        method: Which.
        build: Makes the request, with pictures as the fields that it is given makes of them.
        images: All pictures of the request.
        model: That the call is about.
    """

    method: Method[_Request, _Response]
    build: Callable[[ImageField], _Request]
    images: Sequence[SentImage]
    model: str


class Uploads:
    """Sends the pictures of one connection's calls. Thread-safe.

    Args:
        remote: What the server has.
        limits: Of the server that holds a model, by the model's name; may be remembered.
        forget: Has limits be asked for anew.
        target: The server, for messages.
        max_message_bytes: Largest request to send.
        clock: Seconds from some origin.
    """

    def __init__(
        self,
        remote: RemoteImages,
        limits: Callable[[str, Deadline], Steps[Limits]],
        forget: Callable[[], None],
        *,
        target: str,
        max_message_bytes: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._remote, self._limits, self._forget = remote, limits, forget
        self._target, self._clock = target, clock
        self._max_message_bytes = self._room = max_message_bytes
        self._scattered_until = clock()

    def usable(self, limits: Limits) -> bool:
        """Whether pictures travel as their hashes now, so that many fit into a request."""
        return limits.keeps_images and self._remote.able and not self._scattered

    @property
    def _scattered(self) -> bool:
        return self._clock() < self._scattered_until

    def send(self, call: PictureCall[_Request, _Response], deadline: Deadline) -> Steps[_Response]:
        """Make a call, and bring its pictures to the server where they are not there yet.

        Args:
            call: What to send.
            deadline: Of everything together.

        Raises:
            ImageMissingError: A picture is neither there nor here.
            RequestTooLargeError: The files have to travel with the call, and do not fit.
            PairlensError: The call failed, or one before it.
        """
        files: dict[str, EncodedImage] = {}
        if self._remote.able and not (self._scattered and fit(call.images, self._room)):
            files = yield from _hashed(call.images)
        chosen = yield from self._prepared(call, files, deadline)
        try:
            return (yield from self._sent(call, files, chosen, deadline))
        except ImageMissingError as error:
            # Evicted since, or gone to a server that shares no store with the others.
            again = self._lost(error, files, chosen)
        limits = yield from self._learnt(call.model, deadline)
        yield from self._remote.bring(again, limits, self._room, deadline)
        chosen = self._remote.known.held(again)
        try:
            return (yield from self._sent(call, files, chosen, deadline))
        except ImageMissingError as error:
            self._lost(error, files, chosen)
            self._scatter(call, error)
        return (yield from self._sent(call, {}, frozenset(), deadline))

    def _prepared(
        self,
        call: PictureCall[_Request, _Response],
        files: Mapping[str, EncodedImage],
        deadline: Deadline,
    ) -> Steps[frozenset[str]]:
        """Hashes of the files that the server has now and that are to travel so."""
        wanted = self._wanted(files)
        held = self._remote.known.held(wanted)
        if len(held) == len(wanted):
            return held
        call.build(by_digest)  # what is wrong with the arguments is said before any upload
        limits = yield from self._learnt(call.model, deadline)
        if not limits.keeps_images:
            self._remote.rest()
            self._forget()
            return frozenset()
        yield from self._remote.bring(wanted, limits, self._room, deadline)
        return self._remote.known.held(wanted) if self._remote.able else frozenset()

    def _wanted(self, files: Mapping[str, EncodedImage]) -> dict[str, EncodedImage]:
        """Files that are to travel as hashes: large ones, and those that came before."""
        wanted: dict[str, EncodedImage] = {}
        left = MAX_SMALL_BYTES
        for sha256, file in files.items():
            standing = self._remote.known.get(sha256)
            if standing is None and file.size_bytes < MIN_UPLOAD_BYTES and file.size_bytes <= left:
                left -= file.size_bytes
            elif standing is not Standing.REFUSED:
                wanted[sha256] = file
        return wanted

    def _learnt(self, model: str, deadline: Deadline) -> Steps[Limits]:
        """The server's limits."""
        limits = yield from self._limits(model, deadline)
        if limits.max_request_bytes:
            self._room = min(limits.max_request_bytes, self._max_message_bytes)
        return limits

    def _sent(
        self,
        call: PictureCall[_Request, _Response],
        files: Mapping[str, EncodedImage],
        chosen: frozenset[str],
        deadline: Deadline,
    ) -> Steps[_Response]:
        """Make the call with the chosen files as hashes, the others as they are."""
        request = call.build(choosing(chosen))
        size = request.ByteSize()
        if size > self._room:
            raise RequestTooLargeError(
                "the pictures of this call are together over the limit of one request "
                f"({size} vs. {self._room} bytes); send fewer candidates or smaller files"
            )
        response = yield from _transport.call(call.method, request, deadline)
        self._remote.known.note(files.keys() - chosen, Standing.SENT)
        return response

    def _lost(
        self,
        error: ImageMissingError,
        files: Mapping[str, EncodedImage],
        chosen: frozenset[str],
    ) -> dict[str, EncodedImage]:
        """The files to bring again, forgotten.

        Raises:
            ImageMissingError: The error itself, of pictures whose files are not here.
        """
        self._remote.known.forget(chosen)
        elsewhere = tuple(image for image in error.missing if image.sha256 not in chosen)
        if elsewhere or not chosen:
            error.missing = elsewhere  # whose files the caller has to find
            raise error
        return {sha256: file for sha256, file in files.items() if sha256 in chosen}

    def _scatter(self, call: PictureCall[_Request, _Response], error: ImageMissingError) -> None:
        """Send files along for a while.

        Raises:
            RequestTooLargeError: Those of this call do not fit.
        """
        self._scattered_until = self._clock() + SCATTERED_REST_S
        if not fit(call.images, self._room):
            raise RequestTooLargeError(
                f"uploaded pictures are gone again: the servers behind {self._target} share no "
                "store, or it is smaller than this call; and the files are together over the "
                f"limit of one request ({self._room} bytes)"
            ) from error


def _hashed(images: Sequence[SentImage]) -> Steps[dict[str, EncodedImage]]:
    """The files among the pictures, by their hash."""
    files = [image for image in images if isinstance(image, EncodedImage)]

    def hashed() -> dict[str, EncodedImage]:
        return {file.sha256: file for file in files}

    if sum(file.size_bytes for file in files if not file.hashed) <= _HASHED_AT_ONCE_BYTES:
        return hashed()
    return (yield from _steps.work(hashed))
