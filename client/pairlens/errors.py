"""Everything that can go wrong with a call, as one exception tree.

Messages are fit to be shown to a person as they stand. What gRPC and the server say is turned
into these by `_failures`.
"""

from __future__ import annotations

from dataclasses import dataclass


class PairlensError(Exception):
    """Base of all errors of this package.

    Attributes:
        message: What went wrong, for a person.
        code: Name of the gRPC status code ("INVALID_ARGUMENT").
        reason: The server's machine-readable reason, as listed in
            `explanation_service.proto`; "" when the error did not come from a server.
        field: Path of the request field at fault ("candidates[3]"), or "".
        retry_after: Seconds after which the same call may succeed, or None.
        request_id: Under which the server's log tells of the call; "" when unknown.
    """

    default_code = "UNKNOWN"

    def __init__(
        self,
        message: str,
        *,
        code: str = "",
        reason: str = "",
        field: str = "",
        retry_after: float | None = None,
        request_id: str = "",
    ) -> None:
        super().__init__(message)
        self.message = message
        self.code = code or self.default_code
        self.reason = reason
        self.field = field
        self.retry_after = retry_after
        self.request_id = request_id

    def __reduce__(self) -> tuple[object, ...]:
        # Exceptions pickle through `args` alone, which would lose the attributes.
        return (type(self), (self.message,), self.__dict__.copy())


class InvalidParameterError(PairlensError):
    """An argument is missing, out of range, unknown, or refused where it stands."""

    default_code = "INVALID_ARGUMENT"


class ImageFileError(PairlensError):
    """A picture's file cannot be read (the cause is the `OSError`), or is not here."""

    default_code = "INVALID_ARGUMENT"


class ImageUndecodableError(PairlensError):
    """The bytes are no picture, a broken one, an animated one, or of a refused format."""

    default_code = "INVALID_ARGUMENT"


class ImageTooLargeError(PairlensError):
    """The picture is over the server's byte or pixel limit (see `Limits`)."""

    default_code = "INVALID_ARGUMENT"


class UnauthenticatedError(PairlensError):
    """The server asks for a token, and the call came with none that it knows."""

    default_code = "UNAUTHENTICATED"


class PermissionDeniedError(PairlensError):
    """The token is known, but not as that of an administrator, as the call needs."""

    default_code = "PERMISSION_DENIED"


class ModelNotFoundError(PairlensError):
    """The server has no model of that name, or none at all."""

    default_code = "NOT_FOUND"


class MethodUnsupportedError(PairlensError):
    """The model cannot give the method; the message says why."""

    default_code = "FAILED_PRECONDITION"


class ConfigurationInvalidError(PairlensError):
    """A file of the server is wrong, so that it could not be read anew; nothing changed."""

    default_code = "FAILED_PRECONDITION"


class NotFiniteError(PairlensError):
    """The model's numbers for the picture overflow its dtype."""

    default_code = "FAILED_PRECONDITION"


@dataclass(frozen=True)
class MissingImage:
    """A picture that the server does not have.

    Attributes:
        field: Path of the request field that named it ("candidates[3]").
        sha256: Of its file, 64 hex digits.
        size_bytes: Length of the file.
    """

    field: str
    sha256: str
    size_bytes: int


class ImageMissingError(PairlensError):
    """The server has to look at pictures that it does not have, and only knows their hashes.

    Attributes:
        missing: Some of them, 16 at most.
    """

    default_code = "FAILED_PRECONDITION"
    missing: tuple[MissingImage, ...] = ()


class ImagesNotKeptError(PairlensError):
    """The server keeps no pictures: each has to be sent with the call that is about it."""

    default_code = "FAILED_PRECONDITION"


class ResourceExhaustedError(PairlensError):
    """The server, or a limit on messages, has no room for the call."""

    default_code = "RESOURCE_EXHAUSTED"


class QueueFullError(ResourceExhaustedError):
    """More work waits at the server than it takes on; try again after `retry_after`."""


class OutOfMemoryError(ResourceExhaustedError):
    """The server's device could not hold the work, even alone."""


class RequestTooLargeError(ResourceExhaustedError):
    """The pictures of the call together are over a limit on the size of one request."""


class ResponseTooLargeError(ResourceExhaustedError):
    """The answer is over this client's `max_message_bytes`."""


class DeadlineExceededError(PairlensError):
    """The answer did not come within the call's timeout."""

    default_code = "DEADLINE_EXCEEDED"


class UnavailableError(PairlensError):
    """No server answers at the target, or the connection broke.

    Attributes:
        interrupted: Whether the connection broke during the call, which a server may have done.
    """

    default_code = "UNAVAILABLE"
    interrupted: bool = False


class NotReadyError(UnavailableError):
    """The server is still loading its models."""


class DrainingError(UnavailableError):
    """The server is stopping and takes no new work."""


class UnimplementedError(PairlensError):
    """What answers at the target does not offer this call of `pairlens.v1`."""

    default_code = "UNIMPLEMENTED"


class InternalError(PairlensError):
    """A bug in the server; `request_id` finds it in the server's log."""

    default_code = "INTERNAL"


class MalformedResponseError(PairlensError):
    """The server's answer breaks the contract, for example a map of the wrong length."""

    default_code = "DATA_LOSS"
