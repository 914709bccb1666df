"""What stands before every call: its record, admission, and the mapping of every exception."""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections.abc import Awaitable, Callable, Sequence
from functools import cache
from typing import Any, NoReturn

import grpc
from google.protobuf.descriptor import Descriptor
from google.protobuf.message import DecodeError, Message
from google.rpc import status_pb2
from grpc_status import rpc_status

from pairlens_server.errors import (
    InvalidParameterError,
    PairlensError,
    PermissionDeniedError,
    UnauthenticatedError,
)
from pairlens_server.rpc.auth import Authorizer
from pairlens_server.rpc.caller import claimed_name, host_of
from pairlens_server.rpc.errors import bug_status, retry_metadata, to_status
from pairlens_server.rpc.gate import Gate
from pairlens_server.rpc.open_services import bounded
from pairlens_server.telemetry.record import CURRENT, UNKNOWN, CallRecord, Stage, staged

Context = grpc.aio.ServicerContext[Any, Any]

CallEnded = Callable[[CallRecord, str, float], None]
"""Told of every call that ended: its record, the name of its status code, and its seconds."""

REQUEST_ID_KEY = "x-request-id"
"""Metadata key of the request id, on the way in and in the trailing metadata on the way out."""

MAX_REQUEST_ID = 64

_OWN_SERVICES = "/pairlens.v1."
# gRPC rounds a timeout up to two or three digits on its way, and the client's clock began
# earlier: a cancellation so shortly before the deadline is the client's own deadline.
_DEADLINE_SHARE, _DEADLINE_S = 0.02, 0.05

_log = logging.getLogger(__name__)


# In quotes, since gRPC's class takes parameters in its stubs alone.
_Handlers = tuple["grpc.RpcMethodHandler[Any, Any]", "grpc.RpcMethodHandler[Any, Any]"]


class CallInterceptor(grpc.aio.ServerInterceptor):
    """Admits calls of pairlens' services through a gate, maps what they raise, and tells of them.

    Health checks and reflection pass, within bounds of their own.

    Args:
        gate: Lets calls in.
        authorizer: Says who may call what; by default everybody everything.
        call_ended: Told of every call, refused ones too, with the code that it ended with.
    """

    def __init__(
        self,
        gate: Gate,
        *,
        authorizer: Authorizer | None = None,
        call_ended: CallEnded = lambda record, code, seconds: None,
    ):
        self._gate = gate
        self._authorizer = authorizer or Authorizer()
        self._call_ended = call_ended
        self._handlers: dict[str, _Handlers] = {}

    async def intercept_service(
        self,
        continuation: Callable[
            [grpc.HandlerCallDetails], Awaitable[grpc.RpcMethodHandler[Any, Any] | None]
        ],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> grpc.RpcMethodHandler[Any, Any] | None:
        """See `grpc.aio.ServerInterceptor`."""
        method = str(handler_call_details.method)
        known = self._handlers.get(method)
        if known is None:
            handler = await continuation(handler_call_details)
            # There is no handler for a method that is not in the contract.
            if handler is None:
                return None
            if not method.startswith(_OWN_SERVICES):
                return bounded(handler)
            known = self._handlers[method] = _handlers(self._watched(handler, method))
        reads, refuses = known
        metadata = handler_call_details.invocation_metadata or ()
        return reads if self._authorizer.admits(method, metadata) else refuses

    def _watched(self, handler: Any, method: str) -> Any:
        # Bytes in, bytes out: so a refused call costs no parsing, and neither a message that
        # cannot be parsed nor one that cannot be written escapes the mapping.
        async def call(data: bytes | None, context: Context) -> bytes:
            record = _record(method, context)
            reset = CURRENT.set(record)
            # What it stays if this very function fails.
            code = grpc.StatusCode.UNKNOWN
            try:
                answer = await self._answered(handler, record, data, context)
                if isinstance(answer, status_pb2.Status):
                    plain = rpc_status.to_status(answer)
                    code = plain.code
                    more = (*retry_metadata(answer), (REQUEST_ID_KEY, record.request_id))
                    await _abort(context, plain, more)
                context.set_trailing_metadata(((REQUEST_ID_KEY, record.request_id),))
                code = grpc.StatusCode.OK
                return answer
            except asyncio.CancelledError:
                code = _why_cancelled(record, context)
                raise
            finally:
                self._tell(record, code)
                record.is_over = True
                CURRENT.reset(reset)

        return call

    async def _answered(
        self, handler: Any, record: CallRecord, data: bytes | None, context: Context
    ) -> bytes | status_pb2.Status:
        """The answer, or the status of what went wrong; no data is a message left unread."""
        request: Any = None
        # Not BaseException: a cancelled call must stay cancelled.
        try:
            record.client = self._client(record, context)
            record.caller = record.client or record.caller
            if data is None:
                raise UnauthenticatedError("the token was not known a moment ago; call again")
            with self._gate.admitted(len(data)):
                request = _parse(handler.request_deserializer, data)
                _note_names(record, request)
                answer = await handler.unary_unary(request, context)
                # Not in a thread: protobuf keeps the GIL until it is done, so the loop
                # would stand still as long (128 MB: 0.15 s here, 0.19 s by a thread).
                with staged(Stage.ENCODE):
                    serialized: bytes = handler.response_serializer(answer)
                return serialized
        except PairlensError as error:
            record.reason = error.reason
            return to_status(error, model=getattr(request, "model", ""))
        except Exception as error:
            record.reason = PairlensError.reason
            return bug_status(error, record.rpc)

    def _client(self, record: CallRecord, context: Context) -> str:
        """Who calls, as far as that is sure."""
        try:
            return self._authorizer.check(record.rpc, record.metadata, context.auth_context())
        except PermissionDeniedError as error:
            # Whom the log is to name.
            record.client = record.caller = error.caller
            raise

    def _tell(self, record: CallRecord, code: grpc.StatusCode) -> None:
        try:
            self._call_ended(record, code.name, time.perf_counter() - record.started_s)
        except Exception:
            # Whoever watches calls fails none.
            _log.exception("internal error: a call could not be told of")


def _handlers(call: Callable[[bytes | None, Context], Awaitable[bytes]]) -> _Handlers:
    """What reads a call's message and answers it, and what refuses the call."""

    # gRPC reads the whole message before it asks for the answer of a unary call. As a stream, it
    # stays where it is: 30 calls of strangers with 60 MB each took 1.5 GB, and take none.
    async def refuse(messages: Any, context: Context) -> bytes:
        return await call(None, context)

    return grpc.unary_unary_rpc_method_handler(call), grpc.stream_unary_rpc_method_handler(refuse)


def _record(method: str, context: Context) -> CallRecord:
    # Unset metadata is None in some versions of gRPC.
    metadata: Sequence[tuple[str, Any]] = tuple(context.invocation_metadata() or ())
    return CallRecord(
        method,
        _request_id(metadata),
        caller=claimed_name(metadata),
        peer=host_of(context.peer()),
        metadata=metadata,
    )


def _request_id(metadata: Sequence[tuple[str, Any]]) -> str:
    """The caller's own id of the call, if it is one that can stand in a log; else a new one."""
    for key, value in metadata:
        if key == REQUEST_ID_KEY:
            usable = isinstance(value, str) and value.isascii() and value.isprintable()
            if usable and 1 <= len(value) <= MAX_REQUEST_ID:
                return str(value)
            break
    return secrets.token_hex(8)


def _note_names(record: CallRecord, request: Message) -> None:
    """Say that a request names a model or a method; use cases say which, once it is real."""
    if getattr(request, "model", ""):
        record.model = UNKNOWN
    for name in _method_fields(request.DESCRIPTOR):
        if request.HasField(name):
            record.method = UNKNOWN


@cache
def _method_fields(descriptor: Descriptor) -> tuple[str, ...]:
    return tuple({"method", "pair_method"} & set(descriptor.fields_by_name))


def _why_cancelled(record: CallRecord, context: Context) -> grpc.StatusCode:
    remaining_s = context.time_remaining()
    spent_s = time.perf_counter() - record.started_s
    if remaining_s is None or remaining_s > max(_DEADLINE_S, _DEADLINE_SHARE * spent_s):
        return grpc.StatusCode.CANCELLED
    return grpc.StatusCode.DEADLINE_EXCEEDED


def _parse(deserialize: Callable[[bytes], Any], data: bytes) -> Any:
    try:
        return deserialize(data)
    except DecodeError as error:
        raise InvalidParameterError(f"the request is malformed: {error}") from error


async def _abort(context: Context, plain: grpc.Status, more: Sequence[tuple[str, str]]) -> NoReturn:
    trailing = (*(plain.trailing_metadata or ()), *more)
    await context.abort(plain.code, plain.details or "", trailing)
