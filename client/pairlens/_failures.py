"""What gRPC and the server say of a failed call, turned into the exceptions of `errors`.

`from_rpc` and `from_status` alone do this; `_REASONS` and `_CODES` are the whole mapping.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from typing import cast

import grpc
from google.protobuf.message import DecodeError
from google.rpc import code_pb2, error_details_pb2, status_pb2
from grpc_status import rpc_status

from pairlens import errors
from pairlens.errors import MissingImage, PairlensError

_DOMAIN = "pairlens"
_REQUEST_ID = "request_id"
REQUEST_ID_KEY = "x-request-id"
"""Of the metadata in which a call's id travels, both ways."""

_REASONS: dict[str, type[PairlensError]] = {
    "UNAUTHENTICATED": errors.UnauthenticatedError,
    "PERMISSION_DENIED": errors.PermissionDeniedError,
    "INVALID_PARAMETER": errors.InvalidParameterError,
    "IMAGE_UNDECODABLE": errors.ImageUndecodableError,
    "IMAGE_TOO_LARGE": errors.ImageTooLargeError,
    "MODEL_NOT_FOUND": errors.ModelNotFoundError,
    "CONFIGURATION_INVALID": errors.ConfigurationInvalidError,
    "METHOD_UNSUPPORTED": errors.MethodUnsupportedError,
    "NOT_FINITE": errors.NotFiniteError,
    "IMAGE_MISSING": errors.ImageMissingError,
    "IMAGES_NOT_KEPT": errors.ImagesNotKeptError,
    "QUEUE_FULL": errors.QueueFullError,
    "OUT_OF_MEMORY": errors.OutOfMemoryError,
    "DEADLINE_UNREACHABLE": errors.DeadlineExceededError,
    "NOT_READY": errors.NotReadyError,
    "DRAINING": errors.DrainingError,
    "INTERNAL": errors.InternalError,
}

# For statuses without a reason we know: gRPC's own, a proxy's, a newer server's.
_CODES: dict[str, type[PairlensError]] = {
    "UNAUTHENTICATED": errors.UnauthenticatedError,
    "PERMISSION_DENIED": errors.PermissionDeniedError,
    "INVALID_ARGUMENT": errors.InvalidParameterError,
    "RESOURCE_EXHAUSTED": errors.ResourceExhaustedError,
    "DEADLINE_EXCEEDED": errors.DeadlineExceededError,
    "UNAVAILABLE": errors.UnavailableError,
    "UNIMPLEMENTED": errors.UnimplementedError,
    "INTERNAL": errors.InternalError,
}

# What gRPC tells of a connection that failed, and what is likely behind it.
_HINTS = (
    ("WRONG_VERSION_NUMBER", "it speaks no TLS, which the connection asks for"),
    ("certificate has expired", "its certificate has expired"),
    ("certificate is not yet valid", "its certificate is not valid yet, or a clock is wrong"),
    (
        "CERTIFICATE_VERIFY_FAILED",
        "its certificate is signed by nobody whom the client trusts; name the certificate of "
        "who signed it as ca_file",
    ),
    (
        "Hostname Verification Check failed",
        "its certificate is for another name than the target's; connect by that name, or give "
        "it as server_name",
    ),
    (
        "last error: UNAVAILABLE",
        "it hung up at once; it may ask for TLS, or for a certificate of the client that it knows",
    ),
    ("backend unhealthy", "it says that it does not serve now: it is loading models, or stops"),
    (
        "health check call failed",
        "it hung up, or a proxy in between refuses the call that watches its health, which it has "
        "to answer with UNIMPLEMENTED",
    ),
)

# What gRPC tells of a connection that broke during a call; the codes are those behind proxies, too.
_BROKEN_CODES = ("UNAVAILABLE", "UNKNOWN", "INTERNAL", "CANCELLED")
_BROKEN_SIGNS = ("Stream removed", "RST_STREAM", "Socket closed", "reset by peer", "ping timeout")


def from_status(status: status_pb2.Status) -> PairlensError:
    """Build the typed error of a `google.rpc.Status` with its details."""
    reason, field, request_id = "", "", ""
    retry_after: float | None = None
    missing: tuple[MissingImage, ...] = ()
    for detail in status.details:
        info, bad_request = error_details_pb2.ErrorInfo(), error_details_pb2.BadRequest()
        retry, unmet = error_details_pb2.RetryInfo(), error_details_pb2.PreconditionFailure()
        with suppress(DecodeError):  # a broken detail says nothing, the others still do
            if detail.Unpack(info) and info.domain == _DOMAIN:
                reason, request_id = info.reason, info.metadata.get(_REQUEST_ID, "")
            elif detail.Unpack(bad_request) and bad_request.field_violations:
                field = bad_request.field_violations[0].field
            elif detail.Unpack(retry):
                retry_after = retry.retry_delay.seconds + retry.retry_delay.nanos / 1e9
            elif detail.Unpack(unmet):
                missing = _missing(unmet)
    code = _code_name(status.code)
    kind = _REASONS.get(reason) or _CODES.get(code, PairlensError)
    message = status.message or f"the server answered {code} without a message"
    made = kind(
        message,
        code=code,
        reason=reason,
        field=field,
        retry_after=retry_after,
        request_id=request_id,
    )
    if isinstance(made, errors.ImageMissingError):
        made.missing = missing
    return made


def from_rpc(error: grpc.RpcError, *, target: str, timeout: float) -> PairlensError:
    """Build the typed error of a failed call.

    Args:
        error: As raised by a stub, blocking or of asyncio.
        target: The server that was called, for the message.
        timeout: Seconds that the call was given, for the message.
    """
    # Raised errors are a `grpc.Call`, too; those of asyncio answer the same questions.
    call = cast("grpc.Call", error)
    try:
        status = rpc_status.from_call(call)
    except (ValueError, DecodeError):  # the trailer contradicts the status, or is broken
        status = None
    if status is not None and status.details:
        made = from_status(status)
    else:
        code, details = call.code().name, call.details() or ""
        if _is_broken(code, details):
            made = errors.UnavailableError(f"the connection to {target} broke: {details}")
            made.interrupted = True
        else:
            kind, message = _plain(code, details, target, timeout)
            made = kind(message, code=code)
    made.request_id = made.request_id or request_id(call.trailing_metadata())
    return made


def request_id(metadata: Iterable[tuple[str, str | bytes]] | None) -> str:
    """The id of a call, from what the server sent after its answer; "" without one."""
    for key, value in metadata or ():
        if key == REQUEST_ID_KEY and isinstance(value, str):
            return value
    return ""


def _missing(failure: error_details_pb2.PreconditionFailure) -> tuple[MissingImage, ...]:
    """Pictures among the violations, whose subjects are "images/SHA256/SIZE"."""
    found: list[MissingImage] = []
    for violation in failure.violations:
        kind, _, rest = violation.subject.partition("/")
        sha256, _, size = rest.partition("/")
        if violation.type == "MISSING" and kind == "images" and size.isdecimal():
            found.append(MissingImage(violation.description, sha256, int(size)))
    return tuple(found)


def _is_broken(code: str, details: str) -> bool:
    """Whether a connection broke while a server was at the call; else it was never made."""
    signs = any(sign in details for sign in _BROKEN_SIGNS)
    return signs and code in _BROKEN_CODES and "last error" not in details


def _plain(code: str, details: str, target: str, timeout: float) -> tuple[type[PairlensError], str]:
    """Class and message of a status that gRPC itself made up."""
    if code == "RESOURCE_EXHAUSTED" and "larger than max" in details:
        if "CLIENT: Received" in details:
            return errors.ResponseTooLargeError, (
                f"the answer is over this client's max_message_bytes ({details}); ask for a "
                "smaller rendering or fewer candidates"
            )
        return errors.RequestTooLargeError, (
            f"the pictures of this call are together over the limit of one request ({details}); "
            "send fewer candidates or smaller files"
        )
    if code == "DEADLINE_EXCEEDED":
        return errors.DeadlineExceededError, f"no answer from {target} within {timeout:.3g} s"
    if code == "UNAVAILABLE":
        hint = next((hint for sign, hint in _HINTS if sign in details), "")
        hint = hint or _of_target(target, details)
        why = f"{hint} ({details})" if hint else details
        return errors.UnavailableError, f"no pairlens server can be reached at {target}: {why}"
    if code == "UNIMPLEMENTED":
        return (
            errors.UnimplementedError,
            f"the server at {target} does not offer this call: {details}",
        )
    return _CODES.get(code, PairlensError), f"{target} answered {code}: {details}"


def _of_target(target: str, details: str) -> str:
    """What is likely wrong with a target as it is written; "" for nothing."""
    if target.startswith(("http://", "https://")):
        return "a target is HOST:PORT, without http:// before it"
    if not any(sign in target for sign in ":/"):
        return "without a port it is port 443 that is meant"
    if target.startswith("localhost:") and "ipv6:%5B::1%5D:" in details:
        return "this is of [::1], and localhost is 127.0.0.1 as well: that as the target says more"
    return ""


def _code_name(number: int) -> str:
    """Name of a status code; "UNKNOWN" for a number that gRPC does not know."""
    names = code_pb2.Code.DESCRIPTOR.values_by_number
    return names[number].name if number in names else "UNKNOWN"
