"""Bounds of what whoever reaches the port may ask: health and the contract, without a token.

gRPC reads any message up to `max_request_bytes`, and keeps that of a `Health.Watch` for as long as
it is open: 16 such calls of strangers held 2 GB.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc
from google.protobuf.message import DecodeError

MAX_BYTES = 4096
"""Of a message; the longest that means something holds the name of a service or a file."""

WAIT_S = 10.0
"""Seconds that a message may take to arrive, so that none is collected for hours."""

Context = grpc.aio.ServicerContext[Any, Any]


def bounded(handler: Any) -> grpc.RpcMethodHandler[Any, Any]:
    """The handler of a method, for messages that are short and come soon.

    Args:
        handler: Of a method that answers one message or a stream of them; a stream of answers is
            an asynchronous generator.
    """
    # Streams, of which gRPC reads a message when it is asked for one.
    if handler.response_streaming:

        async def stream(_: Any, context: Context) -> AsyncIterator[bytes]:
            requests = _requests(handler, context)
            if handler.request_streaming:
                answers = handler.stream_stream(requests, context)
            else:
                answers = handler.unary_stream(await _only(requests, context), context)
            async for answer in answers:
                yield handler.response_serializer(answer)

        return grpc.stream_stream_rpc_method_handler(stream)

    async def unary(_: Any, context: Context) -> bytes:
        request = await _only(_requests(handler, context), context)
        answer: bytes = handler.response_serializer(await handler.unary_unary(request, context))
        return answer

    return grpc.stream_unary_rpc_method_handler(unary)


async def _requests(handler: Any, context: Context) -> AsyncIterator[Any]:
    while True:
        try:
            data = await asyncio.wait_for(context.read(), WAIT_S)
        except asyncio.TimeoutError:
            return
        if data is grpc.aio.EOF:
            return
        if len(data) > MAX_BYTES:
            await context.abort(
                grpc.StatusCode.RESOURCE_EXHAUSTED, f"a message has at most {MAX_BYTES} bytes here"
            )
        try:
            request = handler.request_deserializer(data)
        except DecodeError:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "the message is malformed")
        yield request


async def _only(requests: AsyncIterator[Any], context: Context) -> Any:
    async for request in requests:
        return request
    await context.abort(grpc.StatusCode.INVALID_ARGUMENT, f"no message came within {WAIT_S:g} s")
