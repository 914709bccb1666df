"""Runs the client's logic in the thread of the caller."""

from __future__ import annotations

import threading
import time
from concurrent.futures import FIRST_COMPLETED, Future, wait
from typing import Any, Protocol, TypeVar

import grpc

from pairlens import _fork, _request_ids, _security, _tracing
from pairlens._channel import ChannelSettings, open_channel
from pairlens._failures import from_rpc
from pairlens._steps import Deadline, Rpc, Sleep, Step, Steps, Stubs, Wait, Work
from pairlens.errors import DeadlineExceededError, PairlensError

_T = TypeVar("_T")


class StoppedError(Exception):
    """The thread is to end what it does."""


class Hands(Protocol):
    """How a thread calls and waits."""

    def call(self, method: grpc.UnaryUnaryMultiCallable[Any, Any], request: Any, **how: Any) -> Any:
        """Make a call; raises what gRPC raises."""

    def wait(self, until: Future[None] | None, seconds: float) -> None:
        """Wait so long, at most until something is done."""


class Plain:
    """Calls and waits to the end."""

    def call(self, method: grpc.UnaryUnaryMultiCallable[Any, Any], request: Any, **how: Any) -> Any:
        """See `Hands`."""
        return method(request, **how)

    def wait(self, until: Future[None] | None, seconds: float) -> None:
        """See `Hands`."""
        if until is None:
            time.sleep(seconds)
        else:
            wait([until], seconds)


_PLAIN = Plain()


class Stoppable:
    """Calls and waits until another thread says that it is enough; for any number of threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._under_way: set[grpc.Future[Any]] = set()
        self._stopped: Future[None] = Future()

    def stop(self) -> None:
        """End all calls and pauses, with a `StoppedError` in their threads."""
        with self._lock:
            self._stopped.set_result(None)
            under_way = list(self._under_way)
        for call in under_way:
            call.cancel()

    def call(self, method: grpc.UnaryUnaryMultiCallable[Any, Any], request: Any, **how: Any) -> Any:
        """See `Hands`."""
        self._check()
        call = method.future(request, **how)
        with self._lock:
            self._under_way.add(call)
            stopped = self._stopped.done()
        if stopped:
            call.cancel()
        try:
            return call.result()
        except grpc.FutureCancelledError as error:  # by `stop`: nobody else holds the call
            raise StoppedError from error
        finally:
            with self._lock:
                self._under_way.discard(call)

    def wait(self, until: Future[None] | None, seconds: float) -> None:
        """See `Hands`."""
        either = [self._stopped] if until is None else [self._stopped, until]
        wait(either, seconds, FIRST_COMPLETED)
        self._check()

    def _check(self) -> None:
        if self._stopped.done():
            raise StoppedError


class BlockingDriver:
    """A channel, and the calls that threads make through it.

    Args:
        settings: Of the channel, which is opened for the first call.
        metadata: Sent along with each call.

    Attributes:
        closed: Whether no more calls are made.
    """

    def __init__(self, settings: ChannelSettings, metadata: tuple[tuple[str, str], ...]) -> None:
        self.closed = False
        self._settings, self._metadata = settings, metadata
        self._lock = threading.Lock()
        self._open: tuple[grpc.Channel, Stubs] | None = None

    def close(self) -> None:
        """End the calls under way, and make no more."""
        with self._lock:
            self.closed, opened, self._open = True, self._open, None
        if opened is not None:
            opened[0].close()
            _fork.closed(opened[0])

    def run(self, steps: Steps[_T], hands: Hands = _PLAIN) -> _T:
        """Do what the logic asks for, to its end.

        Raises:
            PairlensError: As the logic.
        """
        try:
            step = next(steps)
            while True:
                try:
                    answer = self._perform(step, hands)
                except Exception as error:  # noqa: PERF203 - steps fail one by one
                    step = steps.throw(error)
                else:
                    step = steps.send(answer)
        except StopIteration as end:
            result: _T = end.value
            return result
        finally:
            steps.close()  # what it claimed is free again, even after Ctrl-C

    def _perform(self, step: Step, hands: Hands) -> object:
        match step:
            case Rpc():
                return self._call(step, hands)
            case Sleep(seconds):
                hands.wait(None, seconds)
            case Wait(until, deadline):
                hands.wait(until, max(0.0, deadline.remaining()))
                if not until.done():
                    raise deadline_error(self._settings.target, deadline)
            case Work(function):
                return function()
        return None

    def _call(self, step: Rpc[Any, Any], hands: Hands) -> object:
        method = step.method(self._stubs())
        metadata = (
            *self._metadata,
            *_security.call_metadata(self._settings),
            *_request_ids.metadata(),
            *_tracing.metadata(),
        )
        try:
            return hands.call(
                method,
                step.request,
                timeout=step.deadline.remaining(),
                metadata=metadata,
                wait_for_ready=step.wait_for_ready,
            )
        except grpc.RpcError as error:
            if self.closed and error.code() is grpc.StatusCode.CANCELLED:
                raise closed_error() from error
            target, timeout = self._settings.target, step.deadline.timeout
            raise from_rpc(error, target=target, timeout=timeout) from error
        except ValueError as error:  # how gRPC answers to calls on a closed channel
            if not self.closed:
                raise
            raise closed_error() from error

    def _stubs(self) -> Stubs:
        with self._lock:
            if self.closed:
                raise closed_error()
            if self._open is None:
                _fork.check(asynchronous=False)
                channel = open_channel(self._settings)
                _fork.opened(channel)
                self._open = channel, Stubs(channel)
            return self._open[1]


def closed_error() -> PairlensError:
    """What a call of a closed client ends with."""
    return PairlensError("the client is closed", code="CANCELLED")


def deadline_error(target: str, deadline: Deadline) -> DeadlineExceededError:
    """What a call ends with that waited too long for another's."""
    return DeadlineExceededError(f"no answer from {target} within {deadline.timeout:.3g} s")
