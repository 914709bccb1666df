"""Statuses of the contract, as the scripted server answers them."""

from __future__ import annotations

from collections.abc import Callable

import grpc
from google.protobuf.duration_pb2 import Duration
from google.rpc import code_pb2, error_details_pb2, status_pb2
from grpc_status import rpc_status

CODES = {
    "UNAUTHENTICATED": "UNAUTHENTICATED",
    "PERMISSION_DENIED": "PERMISSION_DENIED",
    "INVALID_PARAMETER": "INVALID_ARGUMENT",
    "IMAGE_UNDECODABLE": "INVALID_ARGUMENT",
    "IMAGE_TOO_LARGE": "INVALID_ARGUMENT",
    "MODEL_NOT_FOUND": "NOT_FOUND",
    "CONFIGURATION_INVALID": "FAILED_PRECONDITION",
    "METHOD_UNSUPPORTED": "FAILED_PRECONDITION",
    "NOT_FINITE": "FAILED_PRECONDITION",
    "IMAGE_MISSING": "FAILED_PRECONDITION",
    "IMAGES_NOT_KEPT": "FAILED_PRECONDITION",
    "QUEUE_FULL": "RESOURCE_EXHAUSTED",
    "OUT_OF_MEMORY": "RESOURCE_EXHAUSTED",
    "DEADLINE_UNREACHABLE": "DEADLINE_EXCEEDED",
    "NOT_READY": "UNAVAILABLE",
    "DRAINING": "UNAVAILABLE",
    "INTERNAL": "INTERNAL",
}
"""The contract's list of reasons and their codes (explanation_service.proto)."""

Act = Callable[[grpc.ServicerContext], None]


def status(
    reason: str,
    message: str = "why",
    *,
    field: str = "",
    retry_after: float | None = None,
    request_id: str = "",
) -> status_pb2.Status:
    """A status as the server makes it."""
    result = status_pb2.Status(code=code_pb2.Code.Value(CODES[reason]), message=message)
    info = error_details_pb2.ErrorInfo(reason=reason, domain="pairlens")
    if request_id:
        info.metadata["request_id"] = request_id
    result.details.add().Pack(info)
    if field:
        bad = error_details_pb2.BadRequest()
        bad.field_violations.add(field=field, description=message)
        result.details.add().Pack(bad)
    if retry_after is not None:
        delay = Duration()
        delay.FromNanoseconds(round(retry_after * 1e9))
        result.details.add().Pack(error_details_pb2.RetryInfo(retry_delay=delay))
    return result


def fails(reason: str, message: str = "why", **details: object) -> Act:
    """End a call with one of the contract's errors."""
    return lambda context: context.abort_with_status(
        rpc_status.to_status(status(reason, message, **details))
    )
