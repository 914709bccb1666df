"""What the client's logic asks of whoever runs it.

The logic is written once, as generators (`Steps`) that yield what is to be done (a call, a
pause) and are sent the answer. `_blocking` runs them in the caller's thread, `_awaiting` as
coroutines. No step is yielded under a lock, so that one client can be shared.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Generator
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, Generic, TypeAlias, TypeVar

import grpc
import grpc.aio

from pairlens.errors import InvalidParameterError
from pairlens.v1.admin_service_pb2_grpc import AdminServiceStub
from pairlens.v1.explanation_service_pb2_grpc import ExplanationServiceStub
from pairlens.v1.image_service_pb2_grpc import ImageServiceStub
from pairlens.v1.model_service_pb2_grpc import ModelServiceStub

_T = TypeVar("_T")
_Request = TypeVar("_Request")
_Response = TypeVar("_Response")


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


class Stubs:
    """The services of a server, over a channel of either kind."""

    def __init__(self, channel: grpc.Channel | grpc.aio.Channel) -> None:
        self.explanations = ExplanationServiceStub(channel)
        self.models = ModelServiceStub(channel)
        self.images = ImageServiceStub(channel)
        self.admin = AdminServiceStub(channel)


Method: TypeAlias = "Callable[[Stubs], grpc.UnaryUnaryMultiCallable[_Request, _Response]]"
"""Picks a method of the contract. The stubs are those of the channel at that moment, which
is another one after a fork."""


@dataclass(frozen=True)
class Rpc(Generic[_Request, _Response]):
    """A call, made once; answered with the response, or a `PairlensError` is raised.

    Attributes:
        method: Which.
        request: What to send.
        deadline: When it must be done.
        wait_for_ready: Wait for a connection until the deadline instead of failing.
    """

    method: Method[_Request, _Response]
    request: _Request
    deadline: Deadline
    wait_for_ready: bool = False


@dataclass(frozen=True)
class Sleep:
    """A pause of so many seconds."""

    seconds: float


@dataclass(frozen=True)
class Wait:
    """A pause until somebody else is done; `DeadlineExceededError` when that takes too long."""

    until: Future[None]
    deadline: Deadline


@dataclass(frozen=True)
class Work:
    """What takes a while without a server: reading and encoding files."""

    function: Callable[[], object]


Step: TypeAlias = Rpc[Any, Any] | Sleep | Wait | Work
Steps: TypeAlias = Generator[Step, Any, _T]


def rpc(call: Rpc[_Request, _Response]) -> Steps[_Response]:
    """Make a call once.

    Raises:
        PairlensError: It failed.
    """
    response: _Response = yield call
    return response


def sleep(seconds: float) -> Steps[None]:
    """Pause."""
    yield Sleep(seconds)


def wait(until: Future[None], deadline: Deadline) -> Steps[None]:
    """Pause until somebody else is done.

    Raises:
        DeadlineExceededError: That takes too long.
    """
    yield Wait(until, deadline)


def work(function: Callable[[], _T]) -> Steps[_T]:
    """Do what takes a while, away from an event loop.

    Raises:
        Exception: As the function.
    """
    done: _T = yield Work(function)
    return done
