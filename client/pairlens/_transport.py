"""The channel to a server, and calls through it that are worth repeating."""

from __future__ import annotations

import json
import math
import random
import time
from collections.abc import Callable, Sequence
from typing import TypeVar

import grpc

from pairlens.errors import InvalidParameterError, PairlensError, QueueFullError, from_rpc

_Request = TypeVar("_Request")
_Response = TypeVar("_Response")

MAX_QUEUE_ATTEMPTS = 8
_FIRST_QUEUE_WAIT_S = 0.1

_SERVICE_CONFIG = {
    # pick_first, gRPC's default, sends everything to one of several servers.
    "loadBalancingConfig": [{"round_robin": {}}],
    # A server that drains or still loads loses its traffic before it refuses it.
    "healthCheckConfig": {"serviceName": ""},
    "methodConfig": [
        {
            "name": [
                {"service": f"pairlens.v1.{name}"}
                for name in ("ExplanationService", "ModelService", "ImageService", "AdminService")
            ],
            # RESOURCE_EXHAUSTED is absent on purpose: gRPC answers it to requests over
            # the size limit as well, which would be sent again in vain. See `call`.
            "retryPolicy": {
                "maxAttempts": 4,
                "initialBackoff": "0.1s",
                "maxBackoff": "2s",
                "backoffMultiplier": 2,
                "retryableStatusCodes": ["UNAVAILABLE"],
            },
        }
    ],
}


def open_channel(target: str, max_message_bytes: int) -> grpc.Channel:
    """Open a plaintext channel; it connects on the first call.

    Args:
        target: As gRPC names servers: "host:port", "dns:///name:port", "unix:path".
        max_message_bytes: Largest request and largest answer.
    """
    options: list[tuple[str, str | int]] = [
        ("grpc.max_send_message_length", max_message_bytes),
        ("grpc.max_receive_message_length", max_message_bytes),
        # A peer that vanished without a word is noticed within half a minute of a call.
        ("grpc.keepalive_time_ms", 20_000),
        ("grpc.keepalive_timeout_ms", 10_000),
        # Requests over the default of 256 KiB, most pictures, are never retried.
        ("grpc.per_rpc_retry_buffer_size", 64 * 2**20),
        ("grpc.service_config", json.dumps(_SERVICE_CONFIG)),
        # The target decides alone, not a TXT record of its domain.
        ("grpc.service_config_disable_resolution", 1),
    ]
    return grpc.insecure_channel(target, options=options)


class Deadline:
    """A point in time by which a call, with all its repetitions, must be done."""

    def __init__(self, timeout: float, clock: Callable[[], float] = time.monotonic) -> None:
        """Start the clock.

        Args:
            timeout: Seconds from now.
            clock: Seconds from some origin.

        Raises:
            InvalidParameterError: The timeout is not a positive number.
        """
        if not (timeout > 0 and math.isfinite(timeout)):
            raise InvalidParameterError(
                f"timeout is a positive number of seconds, not {timeout}", field="timeout"
            )
        self.timeout = timeout
        self._clock = clock
        self._end = clock() + timeout

    def remaining(self) -> float:
        """Seconds left; negative when it has passed."""
        return self._end - self._clock()


def call(
    rpc: grpc.UnaryUnaryMultiCallable[_Request, _Response],
    request: _Request,
    deadline: Deadline,
    *,
    target: str,
    metadata: Sequence[tuple[str, str]] = (),
    wait_for_ready: bool = False,
    sleep: Callable[[float], None] = time.sleep,
    jitter: Callable[[], float] = random.random,
) -> _Response:
    """Make a call, and make it again while the server's queue is full.

    The channel itself repeats calls that found no server (UNAVAILABLE).

    Args:
        rpc: Method of a stub.
        request: What to send.
        deadline: Of the call with all its repetitions.
        target: The server, for messages.
        metadata: Sent along.
        wait_for_ready: Wait for a connection until the deadline instead of failing.
        sleep: Waits for seconds.
        jitter: Draws from [0, 1), so that many refused clients do not return at once.

    Raises:
        PairlensError: The call failed. `QueueFullError` after `MAX_QUEUE_ATTEMPTS`, or
            when the next attempt would come after the deadline.
    """
    attempt = 1
    while True:
        try:
            return rpc(
                request,
                timeout=deadline.remaining(),
                metadata=tuple(metadata),
                wait_for_ready=wait_for_ready,
            )
        except grpc.RpcError as rpc_error:
            error = from_rpc(rpc_error, target=target, timeout=deadline.timeout)
            if not isinstance(error, QueueFullError) or attempt == MAX_QUEUE_ATTEMPTS:
                raise error from rpc_error
            # Never sooner than the server asked, and up to half as long again.
            wait = error.retry_after or _FIRST_QUEUE_WAIT_S * 2 ** (attempt - 1)
            wait *= 1 + jitter() / 2
            if wait >= deadline.remaining():
                raise error from rpc_error
        except ValueError as closed:  # how gRPC answers to calls on a closed channel
            raise PairlensError("the client is closed", code="CANCELLED") from closed
        sleep(wait)
        attempt += 1
