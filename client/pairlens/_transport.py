"""Calls that are worth repeating."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import TypeVar

from pairlens import _steps
from pairlens._steps import Deadline, Method, Rpc, Steps
from pairlens.errors import QueueFullError, UnavailableError

_Request = TypeVar("_Request")
_Response = TypeVar("_Response")

MAX_QUEUE_ATTEMPTS = 8
_FIRST_QUEUE_WAIT_S = 0.1


def call(
    method: Method[_Request, _Response],
    request: _Request,
    deadline: Deadline,
    *,
    wait_for_ready: bool = False,
    repeatable: bool = True,
    jitter: Callable[[], float] = random.random,
) -> Steps[_Response]:
    """Make a call, and make it again while the server's queue is full.

    The channel itself repeats calls that found no server (UNAVAILABLE), but none whose answer had
    begun to arrive when the connection broke: those are made again once.

    Args:
        method: Which.
        request: What to send.
        deadline: Of the call with all its repetitions.
        wait_for_ready: Wait for a connection until the deadline instead of failing.
        repeatable: Whether it may be made again after a server may have done it.
        jitter: Draws from [0, 1), so that many refused clients do not return at once.

    Raises:
        PairlensError: The call failed. `QueueFullError` after `MAX_QUEUE_ATTEMPTS`, or
            when the next attempt would come after the deadline.
    """
    attempt, interrupted = 1, False
    while True:
        try:
            return (yield from _steps.rpc(Rpc(method, request, deadline, wait_for_ready)))
        except UnavailableError as error:
            again = error.interrupted and repeatable and not interrupted
            if not again or deadline.remaining() <= 0:
                raise
            interrupted = True
            continue
        except QueueFullError as error:
            # Never sooner than the server asked, and up to half as long again.
            wait = error.retry_after or _FIRST_QUEUE_WAIT_S * 2 ** (attempt - 1)
            wait *= 1 + jitter() / 2
            if attempt == MAX_QUEUE_ATTEMPTS or wait >= deadline.remaining():
                raise
        yield from _steps.sleep(wait)
        attempt += 1
