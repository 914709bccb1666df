"""The one table from errors to gRPC statuses, for whole calls and for single candidates.

Every status carries ErrorInfo with the error's reason and the request id, and where they apply
BadRequest (the field), RetryInfo, ResourceInfo and PreconditionFailure (AIP-193).
"""

from __future__ import annotations

import logging
import secrets
from collections.abc import Sequence

import grpc
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2

from pairlens_server.errors import (
    ConfigurationInvalidError,
    DeadlineUnreachableError,
    DrainingError,
    ImageMissingError,
    ImagesNotKeptError,
    ImageTooLargeError,
    ImageUndecodableError,
    InvalidParameterError,
    MethodUnsupportedError,
    ModelNotFoundError,
    NotFiniteError,
    NotReadyError,
    OutOfMemoryError,
    PairlensError,
    PermissionDeniedError,
    QueueFullError,
    UnauthenticatedError,
)
from pairlens_server.telemetry.record import current_call

DOMAIN = "pairlens"

CODES: dict[type[PairlensError], grpc.StatusCode] = {
    InvalidParameterError: grpc.StatusCode.INVALID_ARGUMENT,
    ImageUndecodableError: grpc.StatusCode.INVALID_ARGUMENT,
    ImageTooLargeError: grpc.StatusCode.INVALID_ARGUMENT,
    ModelNotFoundError: grpc.StatusCode.NOT_FOUND,
    MethodUnsupportedError: grpc.StatusCode.FAILED_PRECONDITION,
    NotFiniteError: grpc.StatusCode.FAILED_PRECONDITION,
    ImageMissingError: grpc.StatusCode.FAILED_PRECONDITION,
    ImagesNotKeptError: grpc.StatusCode.FAILED_PRECONDITION,
    QueueFullError: grpc.StatusCode.RESOURCE_EXHAUSTED,
    OutOfMemoryError: grpc.StatusCode.RESOURCE_EXHAUSTED,
    DeadlineUnreachableError: grpc.StatusCode.DEADLINE_EXCEEDED,
    NotReadyError: grpc.StatusCode.UNAVAILABLE,
    DrainingError: grpc.StatusCode.UNAVAILABLE,
    UnauthenticatedError: grpc.StatusCode.UNAUTHENTICATED,
    PermissionDeniedError: grpc.StatusCode.PERMISSION_DENIED,
    ConfigurationInvalidError: grpc.StatusCode.FAILED_PRECONDITION,
    PairlensError: grpc.StatusCode.INTERNAL,
}
"""Status code of every error; a class that is not listed has that of its nearest base."""

# A status travels as metadata, of which gRPC takes 8 KB for certain: the message with each
# byte as up to three, and once more with all details in base64. Over that the caller gets
# gRPC's own RESOURCE_EXHAUSTED instead.
_MAX_TEXT_BYTES = 1000
_MAX_NAME_BYTES = 100
# Of the texts and names beside the pictures that are missing, and of those.
_MAX_MISSING_TEXT_BYTES = 400
_MAX_MISSING = 16

_log = logging.getLogger(__name__)


def to_status(error: PairlensError, *, model: str = "") -> status_pb2.Status:
    """The status of an error, with all details that apply; long texts are cut.

    Args:
        error: What the caller is told.
        model: The model that the request named, which ModelNotFoundError is about.
    """
    missing = isinstance(error, ImageMissingError)
    text = _cut(error.message, _MAX_MISSING_TEXT_BYTES if missing else _MAX_TEXT_BYTES)
    field = _cut(error.field, _MAX_NAME_BYTES)
    details = [_error_info(error.reason, {"field": field} if field else {})]
    if field:
        violation = error_details_pb2.BadRequest.FieldViolation(field=field, description=text)
        details.append(error_details_pb2.BadRequest(field_violations=[violation]))
    if error.retry_after_s is not None:
        delay = Duration()
        delay.FromNanoseconds(round(error.retry_after_s * 1e9))
        details.append(error_details_pb2.RetryInfo(retry_delay=delay))
    if isinstance(error, ModelNotFoundError):
        details.append(
            error_details_pb2.ResourceInfo(
                resource_type="pairlens.v1.ModelInfo",
                resource_name=_cut(model, _MAX_NAME_BYTES),
                description=text,
            )
        )
    if isinstance(error, ImageMissingError):
        details.append(_missing(error))
    code = next(CODES[base] for base in type(error).__mro__ if base in CODES)
    return _status(code, text, details)


def retry_metadata(status: status_pb2.Status) -> tuple[tuple[str, str], ...]:
    """Trailing metadata with which gRPC's own retries wait for as long as RetryInfo says.

    gRFC A6: a client whose retry policy names the status code tries again after exactly that time,
    instead of its own.
    """
    info = error_details_pb2.RetryInfo()
    for detail in status.details:
        if detail.Unpack(info):
            return (("grpc-retry-pushback-ms", str(info.retry_delay.ToMilliseconds())),)
    return ()


def bug_status(error: Exception, method: str) -> status_pb2.Status:
    """The status of an unforeseen exception: a fixed text, and the request id to look for.

    Args:
        error: Logged with its traceback; nothing of it reaches the caller.
        method: The RPC, for the log.
    """
    call = current_call()
    request_id = call.request_id if call is not None else secrets.token_hex(8)
    _log.error("internal error %s in %s", request_id, method, exc_info=error)
    return _status(
        grpc.StatusCode.INTERNAL,
        f"internal error; the server's log describes it under {request_id}",
        [_error_info(PairlensError.reason, {"request_id": request_id})],
    )


def _cut(text: str, max_bytes: int) -> str:
    data = text.encode()
    if len(data) <= max_bytes:
        return text
    # A character that the cut goes through is left out.
    return data[: max_bytes - len("…".encode())].decode(errors="ignore") + "…"


def _missing(error: ImageMissingError) -> Message:
    violations = [
        error_details_pb2.PreconditionFailure.Violation(
            type="MISSING",
            subject=f"images/{image.sha256}/{image.size_bytes}",
            description=_cut(image.field, _MAX_NAME_BYTES),
        )
        for image in error.missing[:_MAX_MISSING]
    ]
    failure: Message = error_details_pb2.PreconditionFailure(violations=violations)
    return failure


def _error_info(reason: str, metadata: dict[str, str]) -> Message:
    call = current_call()
    if call is not None:
        metadata = {**metadata, "request_id": call.request_id}
    info: Message = error_details_pb2.ErrorInfo(reason=reason, domain=DOMAIN, metadata=metadata)
    return info


def _status(code: grpc.StatusCode, message: str, details: Sequence[Message]) -> status_pb2.Status:
    status = status_pb2.Status(code=code.value[0], message=message)
    for detail in details:
        status.details.add().Pack(detail)
    return status
