"""The pictures that a server has, as far as a client knows, and bringing it what it lacks."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence

from pairlens import _steps, _transport
from pairlens._chunks import chunks, fit
from pairlens._image_fields import digest
from pairlens._images import EncodedImage
from pairlens._known_images import Claims, KnownImages, Standing
from pairlens._steps import Deadline, Steps
from pairlens.errors import ImagesNotKeptError, MalformedResponseError, UnimplementedError
from pairlens.models import Limits
from pairlens.v1 import image_service_pb2

UNABLE_REST_S = 600.0
"""How long nothing is asked after the server said that it keeps no pictures; it may be one of
several, or be replaced by one that does."""

_MOST_DIGESTS = 1000  # of one question, where the server does not say


class RemoteImages:
    """What is known of a server's pictures. Thread-safe: a picture is uploaded by one call.

    Args:
        clock: Seconds from some origin.

    Attributes:
        known: Pictures and what is known of them.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.known = KnownImages()
        self._clock = clock
        self._claims = Claims()
        self._unable_until = clock()

    @property
    def able(self) -> bool:
        """Whether the server may take uploads."""
        return self._clock() >= self._unable_until

    def rest(self) -> None:
        """The server takes no uploads."""
        self._unable_until = self._clock() + UNABLE_REST_S

    def bring(
        self,
        files: Mapping[str, EncodedImage],
        limits: Limits,
        max_bytes: int,
        deadline: Deadline,
    ) -> Steps[None]:
        """See to it that the server has all files that it takes; `known` says which it has.

        Args:
            files: By their hash.
            limits: Of the server.
            max_bytes: Of one request.
            deadline: Of all calls together.

        Raises:
            PairlensError: A call failed, but for a server that takes no uploads.
        """
        most = limits.max_image_bytes or max_bytes
        taken = {
            sha256: file
            for sha256, file in files.items()
            if file.size_bytes <= most and fit([file], max_bytes)
        }
        while self.able:
            unknown = [sha256 for sha256 in taken if not self._settled(sha256)]
            with self._claims.taken(unknown) as (mine, others):
                if mine:
                    claimed = [taken[sha256] for sha256 in unknown if sha256 in mine]
                    absent = yield from self._absent(claimed, limits, deadline)
                    for chunk in chunks(absent, limits.max_candidates + 1, max_bytes):
                        yield from self._upload(chunk, deadline)
            if not others:
                return
            for other in others:
                yield from _steps.wait(other, deadline)

    def _settled(self, sha256: str) -> bool:
        return self.known.get(sha256) in (Standing.HELD, Standing.REFUSED)

    def _absent(
        self, files: Sequence[EncodedImage], limits: Limits, deadline: Deadline
    ) -> Steps[list[EncodedImage]]:
        """The files that are to be uploaded; none when the server takes no uploads."""
        missing: set[str] = set()
        most = limits.max_digests or _MOST_DIGESTS
        for begin in range(0, len(files), most):
            request = image_service_pb2.FindMissingImagesRequest(
                digests=[digest(file) for file in files[begin : begin + most]]
            )
            try:
                response = yield from _transport.call(
                    lambda stubs: stubs.images.FindMissingImages, request, deadline
                )
            except (UnimplementedError, ImagesNotKeptError):
                self.rest()
                return []
            missing |= {message.sha256.hex() for message in response.missing}
        self.known.note({file.sha256 for file in files} - missing, Standing.HELD)
        return [file for file in files if file.sha256 in missing]

    def _upload(self, files: Sequence[EncodedImage], deadline: Deadline) -> Steps[None]:
        """Upload the files of one request.

        Raises:
            MalformedResponseError: The answer is not about these files.
        """
        if not self.able:
            return
        uploads = [image_service_pb2.ImageUpload(digest=digest(f), data=f.data) for f in files]
        request = image_service_pb2.UploadImagesRequest(images=uploads)
        try:
            response = yield from _transport.call(
                lambda stubs: stubs.images.UploadImages, request, deadline
            )
        except (UnimplementedError, ImagesNotKeptError):
            self.rest()
            return
        if len(response.results) != len(files):
            raise MalformedResponseError(
                f"{len(response.results)} results for {len(files)} uploaded pictures"
            )
        for file, result in zip(files, response.results, strict=True):
            kept = result.WhichOneof("outcome") == "digest"
            if kept and result.digest.sha256.hex() != file.sha256:
                raise MalformedResponseError(f"the picture {file.sha256} is kept as another")
            # Why one is refused is said by the call itself, of the field where it stands.
            self.known.note([file.sha256], Standing.HELD if kept else Standing.REFUSED)
