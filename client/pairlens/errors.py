"""Everything that can go wrong with a call, as one exception tree.

`from_rpc` and `from_status` alone turn what gRPC and the server say into these;
`_REASONS` and `_CODES` are the whole mapping. Messages are fit to be shown to a
person as they stand.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from typing import cast

import grpc
from google.protobuf.message import DecodeError
from google.rpc import code_pb2, error_details_pb2, status_pb2
from grpc_status import rpc_status

_DOMAIN = "pairlens"


class PairlensError(Exception):
    """Base of all errors of this package.

    Attributes:
        message: What went wrong, for a person.
        code: Name of the gRPC status code ("INVALID_ARGUMENT").
        reason: The server's machine-readable reason, as listed in
            `explanation_service.proto`; "" when the error did not come from a server.
        field: Path of the request field at fault ("candidates[3]"), or "".
        retry_after: Seconds after which the same call may succeed, or None.
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
    ) -> None:
        super().__init__(message)
        self.message = message
        self.code = code or self.default_code
        self.reason = reason
        self.field = field
        self.retry_after = retry_after

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


class ModelNotFoundError(PairlensError):
    """The server has no model of that name, or none at all."""

    default_code = "NOT_FOUND"


class MethodUnsupportedError(PairlensError):
    """The model cannot give the method; the message says why."""

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
    """No server answers at the target, or the connection broke."""

    default_code = "UNAVAILABLE"


class NotReadyError(UnavailableError):
    """The server is still loading its models."""


class DrainingError(UnavailableError):
    """The server is stopping and takes no new work."""


class UnimplementedError(PairlensError):
    """What answers at the target does not offer this call of `pairlens.v1`."""

    default_code = "UNIMPLEMENTED"


class InternalError(PairlensError):
    """A bug in the server; the message holds the id under which its log describes it."""

    default_code = "INTERNAL"


class MalformedResponseError(PairlensError):
    """The server's answer breaks the contract, for example a map of the wrong length."""

    default_code = "DATA_LOSS"


_REASONS: dict[str, type[PairlensError]] = {
    "INVALID_PARAMETER": InvalidParameterError,
    "IMAGE_UNDECODABLE": ImageUndecodableError,
    "IMAGE_TOO_LARGE": ImageTooLargeError,
    "MODEL_NOT_FOUND": ModelNotFoundError,
    "METHOD_UNSUPPORTED": MethodUnsupportedError,
    "NOT_FINITE": NotFiniteError,
    "IMAGE_MISSING": ImageMissingError,
    "IMAGES_NOT_KEPT": ImagesNotKeptError,
    "QUEUE_FULL": QueueFullError,
    "OUT_OF_MEMORY": OutOfMemoryError,
    "DEADLINE_UNREACHABLE": DeadlineExceededError,
    "NOT_READY": NotReadyError,
    "DRAINING": DrainingError,
    "INTERNAL": InternalError,
}

# For statuses without a reason we know: gRPC's own, a proxy's, a newer server's.
_CODES: dict[str, type[PairlensError]] = {
    "INVALID_ARGUMENT": InvalidParameterError,
    "RESOURCE_EXHAUSTED": ResourceExhaustedError,
    "DEADLINE_EXCEEDED": DeadlineExceededError,
    "UNAVAILABLE": UnavailableError,
    "UNIMPLEMENTED": UnimplementedError,
    "INTERNAL": InternalError,
}


def from_status(status: status_pb2.Status) -> PairlensError:
    """Build the typed error of a `google.rpc.Status` with its details."""
    reason, field = "", ""
    retry_after: float | None = None
    missing: tuple[MissingImage, ...] = ()
    for detail in status.details:
        info, bad_request = error_details_pb2.ErrorInfo(), error_details_pb2.BadRequest()
        retry, unmet = error_details_pb2.RetryInfo(), error_details_pb2.PreconditionFailure()
        with suppress(DecodeError):  # a broken detail says nothing, the others still do
            if detail.Unpack(info) and info.domain == _DOMAIN:
                reason = info.reason
            elif detail.Unpack(bad_request) and bad_request.field_violations:
                field = bad_request.field_violations[0].field
            elif detail.Unpack(retry):
                retry_after = retry.retry_delay.seconds + retry.retry_delay.nanos / 1e9
            elif detail.Unpack(unmet):
                missing = _missing(unmet)
    code = _code_name(status.code)
    error = _REASONS.get(reason) or _CODES.get(code, PairlensError)
    message = status.message or f"the server answered {code} without a message"
    made = error(message, code=code, reason=reason, field=field, retry_after=retry_after)
    if isinstance(made, ImageMissingError):
        made.missing = missing
    return made


def from_rpc(error: grpc.RpcError, *, target: str, timeout: float) -> PairlensError:
    """Build the typed error of a failed call.

    Args:
        error: As raised by a stub; it is a `grpc.Call` as well.
        target: The server that was called, for the message.
        timeout: Seconds that the call was given, for the message.
    """
    call = cast("grpc.Call", error)
    try:
        status = rpc_status.from_call(call)
    except (ValueError, DecodeError):  # the trailer contradicts the status, or is broken
        status = None
    if status is not None and status.details:
        return from_status(status)
    code, details = call.code().name, call.details() or ""
    kind, message = _plain(code, details, target, timeout)
    return kind(message, code=code)


def _missing(failure: error_details_pb2.PreconditionFailure) -> tuple[MissingImage, ...]:
    """Pictures among the violations, whose subjects are "images/SHA256/SIZE"."""
    found: list[MissingImage] = []
    for violation in failure.violations:
        kind, _, rest = violation.subject.partition("/")
        sha256, _, size = rest.partition("/")
        if violation.type == "MISSING" and kind == "images" and size.isdecimal():
            found.append(MissingImage(violation.description, sha256, int(size)))
    return tuple(found)


def _plain(code: str, details: str, target: str, timeout: float) -> tuple[type[PairlensError], str]:
    """Class and message of a status that gRPC itself made up."""
    if code == "RESOURCE_EXHAUSTED" and "larger than max" in details:
        if "CLIENT: Received" in details:
            return ResponseTooLargeError, (
                f"the answer is over this client's max_message_bytes ({details}); ask for a "
                "smaller rendering or fewer candidates"
            )
        return RequestTooLargeError, (
            f"the pictures of this call are together over the limit of one request ({details}); "
            "send fewer candidates or smaller files"
        )
    if code == "DEADLINE_EXCEEDED":
        return DeadlineExceededError, f"no answer from {target} within {timeout:.3g} s"
    if code == "UNAVAILABLE":
        return UnavailableError, f"no pairlens server can be reached at {target}: {details}"
    if code == "UNIMPLEMENTED":
        return UnimplementedError, f"the server at {target} does not offer this call: {details}"
    return _CODES.get(code, PairlensError), f"{target} answered {code}: {details}"


def _code_name(number: int) -> str:
    """Name of a status code; "UNKNOWN" for a number that gRPC does not know."""
    names = code_pb2.Code.DESCRIPTOR.values_by_number
    return names[number].name if number in names else "UNKNOWN"
