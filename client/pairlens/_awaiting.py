"""Runs the client's logic as coroutines."""

from __future__ import annotations

import asyncio
from typing import Any, TypeVar, cast

import grpc
import grpc.aio

from pairlens import _fork, _request_ids, _security, _tracing
from pairlens._blocking import closed_error, deadline_error
from pairlens._channel import ChannelSettings, open_aio_channel
from pairlens._failures import from_rpc
from pairlens._steps import Deadline, Rpc, Sleep, Step, Steps, Stubs, Wait, Work
from pairlens.errors import DeadlineExceededError, PairlensError

_T = TypeVar("_T")


class AwaitingDriver:
    """A channel, and the calls that tasks of one event loop make through it.

    Args:
        settings: Of the channel, which is opened for the first call.
        metadata: Sent along with each call.

    Attributes:
        closed: Whether no more calls are made.
    """

    def __init__(self, settings: ChannelSettings, metadata: tuple[tuple[str, str], ...]) -> None:
        self.closed = False
        self._settings, self._metadata = settings, metadata
        self._open: tuple[asyncio.AbstractEventLoop, grpc.aio.Channel, Stubs] | None = None

    async def close(self) -> None:
        """End the calls under way, and make no more."""
        self.closed, opened, self._open = True, self._open, None
        if opened is not None:
            self._check_loop(opened[0])
            await opened[1].close()
            _fork.closed(opened[1])

    async def run(self, steps: Steps[_T]) -> _T:
        """Do what the logic asks for, to its end.

        Raises:
            PairlensError: As the logic; or the client belongs to another event loop.
        """
        try:
            step = next(steps)
            while True:
                try:
                    answer = await self._perform(step)
                except Exception as error:  # noqa: PERF203 - steps fail one by one
                    step = steps.throw(error)
                else:
                    step = steps.send(answer)
        except StopIteration as end:
            result: _T = end.value
            return result
        finally:
            steps.close()  # what it claimed is free again, even when it is cancelled

    async def _perform(self, step: Step) -> object:
        match step:
            case Rpc():
                return await self._call(step)
            case Sleep(seconds):
                await asyncio.sleep(seconds)
            case Wait(until, deadline):
                # Not `wait_for`: it cancels somebody else's work, and until Python 3.12 it loses
                # a cancellation that comes as that work is done.
                left = max(0.0, deadline.remaining())
                await asyncio.wait([asyncio.wrap_future(until)], timeout=left)
                if not until.done():
                    raise deadline_error(self._settings.target, deadline)
            case Work(function):
                return await asyncio.to_thread(function)
        return None

    async def _call(self, step: Rpc[Any, Any]) -> object:
        stubs = self._stubs()
        # The stubs are typed by the other kind of channel.
        method = cast("grpc.aio.UnaryUnaryMultiCallable[Any, Any]", step.method(stubs))
        token = await self._token(step.deadline)
        named = (*_request_ids.metadata(), *_tracing.metadata())
        try:
            return await method(
                step.request,
                timeout=step.deadline.remaining(),
                metadata=grpc.aio.Metadata(*self._metadata, *token, *named),
                wait_for_ready=step.wait_for_ready,
            )
        except grpc.RpcError as error:
            target, timeout = self._settings.target, step.deadline.timeout
            raise from_rpc(error, target=target, timeout=timeout) from error
        except (asyncio.CancelledError, grpc.aio.UsageError) as error:
            # How gRPC answers to calls on a channel that is closed, or closed meanwhile.
            if not self.closed or _being_cancelled():
                raise
            raise closed_error() from error

    async def _token(self, deadline: Deadline) -> _security.Metadata:
        """Who calls; a function that is too slow to say so is not waited for."""
        if not callable(self._settings.token):
            return _security.call_metadata(self._settings)
        asking = asyncio.ensure_future(_security.aio_call_metadata(self._settings))
        try:
            await asyncio.wait([asking], timeout=max(0.0, deadline.remaining()))
            if not asking.done():
                raise DeadlineExceededError(
                    f"the function given as token said nothing within {deadline.timeout:.3g} s"
                )
            return asking.result()
        finally:
            asking.cancel()

    def _stubs(self) -> Stubs:
        if self.closed:
            raise closed_error()
        if self._open is None:
            _fork.check(asynchronous=True)
            channel = open_aio_channel(self._settings)
            _fork.opened(channel)
            self._open = asyncio.get_running_loop(), channel, Stubs(channel)
        self._check_loop(self._open[0])
        return self._open[2]

    def _check_loop(self, loop: asyncio.AbstractEventLoop) -> None:
        if loop is not asyncio.get_running_loop():
            raise PairlensError(
                "this AsyncClient was used in another event loop: make one for each loop",
                code="FAILED_PRECONDITION",
            )


def _being_cancelled() -> bool:
    """Whether the task is cancelled, as far as Python tells (from 3.11)."""
    task = asyncio.current_task()
    return bool(getattr(task, "cancelling", int)())
