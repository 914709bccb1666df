"""Everything that a caller can be told went wrong, as one exception tree.

Domain code raises these; `rpc.errors` alone turns them into gRPC statuses. The
message of a `PairlensError` goes to the caller as it stands: it names the field
and the limit and holds no path, no traceback and nothing of other callers.
Every other exception is a bug and reaches the caller as a fixed text with an id.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


class PairlensError(Exception):
    """Base of all errors that callers see.

    Attributes:
        reason: Machine-readable reason, as listed in `explanation_service.proto`.
        field: Path of the request field at fault (`candidates[3]`), or "".
        retry_after_s: Seconds after which the same call may succeed, or None.
    """

    reason = "INTERNAL"

    def __init__(self, message: str, *, field: str = "", retry_after_s: float | None = None):
        super().__init__(message)
        self.message = message
        self.field = field
        self.retry_after_s = retry_after_s


class InvalidParameterError(PairlensError):
    """A field is missing, out of range, or refused where it stands."""

    reason = "INVALID_PARAMETER"


class ImageUndecodableError(PairlensError):
    """The bytes are no picture, a broken one, an animated one, or of a refused format."""

    reason = "IMAGE_UNDECODABLE"


class ImageTooLargeError(PairlensError):
    """The picture is over the byte or the pixel limit."""

    reason = "IMAGE_TOO_LARGE"


class ModelNotFoundError(PairlensError):
    """No model of that name is served."""

    reason = "MODEL_NOT_FOUND"


class MethodUnsupportedError(PairlensError):
    """The model's architecture or pooling cannot give what the method needs."""

    reason = "METHOD_UNSUPPORTED"


@dataclass(frozen=True)
class MissingImage:
    """A picture that is not there.

    Attributes:
        field: Path of the request field that named it.
        sha256: Hex hash.
        size_bytes: Of the file.
    """

    field: str
    sha256: str
    size_bytes: int


class ImageMissingError(PairlensError):
    """Pictures sent by digest have to be looked at and are not there.

    Attributes:
        missing: Those found missing, at least one.
    """

    reason = "IMAGE_MISSING"

    def __init__(self, missing: Sequence[MissingImage]):
        first, more = missing[0], len(missing) - 1
        also = f" (and {more} more)" if more else ""
        super().__init__(
            f"{first.field}: the picture {first.sha256} is not here{also}; upload it, or send it "
            "inline",
            field=first.field,
        )
        self.missing = tuple(missing)


class ImagesNotKeptError(PairlensError):
    """This server keeps no images."""

    reason = "IMAGES_NOT_KEPT"


class UnauthenticatedError(PairlensError):
    """The server asks for a token, and none that it knows came with the call."""

    reason = "UNAUTHENTICATED"


class PermissionDeniedError(PairlensError):
    """The call is for administrators, and its token is not one's.

    Attributes:
        caller: Whose token it is.
    """

    reason = "PERMISSION_DENIED"

    def __init__(self, message: str, *, field: str = "", caller: str = ""):
        super().__init__(message, field=field)
        self.caller = caller


class ConfigurationInvalidError(PairlensError):
    """A file of the server is wrong; shown to administrators alone."""

    reason = "CONFIGURATION_INVALID"


class QueueFullError(PairlensError):
    """More work waits than the server takes on."""

    reason = "QUEUE_FULL"


class OutOfMemoryError(PairlensError):
    """The device could not hold the work, even alone."""

    reason = "OUT_OF_MEMORY"


class NotFiniteError(PairlensError):
    """The model's numbers for a picture overflow its dtype."""

    reason = "NOT_FINITE"


class DeadlineUnreachableError(PairlensError):
    """The deadline passed before the work could be done."""

    reason = "DEADLINE_UNREACHABLE"


class NotReadyError(PairlensError):
    """The server is still loading or warming up."""

    reason = "NOT_READY"


class DrainingError(PairlensError):
    """The server is stopping and takes no new work."""

    reason = "DRAINING"


class ConfigurationError(Exception):
    """The server cannot start as configured; shown to the operator, never to a caller."""


class DeviceError(Exception):
    """The device, or its memory, keeps the server from starting, perhaps for a while; likewise."""
