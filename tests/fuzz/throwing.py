"""Cases thrown at a server, some at a time."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import grpc

from tests.fuzz.cases import Case
from tests.fuzz.verdicts import Outcome, problem_with

# Longer than any call's own time: what comes later than that has been lost.
_LOST_S = 60.0


@dataclass
class Tally:
    """What came of all calls.

    Attributes:
        outcomes: How many, by code and reason.
        findings: Cases with something wrong, and what.
    """

    outcomes: Counter[str] = field(default_factory=Counter)
    findings: list[tuple[Case, str]] = field(default_factory=list)


async def throw(
    target: str,
    cases: Iterable[Case],
    *,
    at_once: int,
    seen: Callable[[Case, str], None] = lambda case, problem: None,
) -> Tally:
    """Throw cases at a server.

    Args:
        target: HOST:PORT.
        cases: Taken one by one, when there is room.
        at_once: Calls under way together.
        seen: Told of each case when it is over, with what is wrong or "".
    """
    tally = Tally()
    waiting = iter(cases)

    async def thrower(channel: grpc.aio.Channel) -> None:
        for case in waiting:
            outcome = await outcome_of(channel, case)
            tally.outcomes[outcome.label] += 1
            problem = problem_with(case, outcome)
            if problem:
                tally.findings.append((case, problem))
            seen(case, problem)

    async with _channel(target) as channel:
        await asyncio.gather(*(thrower(channel) for _ in range(at_once)))
    return tally


def _channel(target: str) -> grpc.aio.Channel:
    options = [
        ("grpc.max_send_message_length", -1),
        ("grpc.max_receive_message_length", -1),
    ]
    return grpc.aio.insecure_channel(target, options)


async def outcome_of(channel: grpc.aio.Channel, case: Case) -> Outcome:
    """What comes of one call."""
    call = channel.unary_unary(case.path)(
        case.data, timeout=case.timeout_s, metadata=grpc.aio.Metadata(*case.metadata)
    )
    if case.cancel_s:
        asyncio.get_running_loop().call_later(case.cancel_s, call.cancel)
    try:
        answer = await asyncio.wait_for(call, _LOST_S)
    except grpc.aio.AioRpcError as error:
        return Outcome(error.code(), details=error.details() or "", status=_status(error))
    except asyncio.TimeoutError:
        return Outcome(grpc.StatusCode.UNKNOWN, details=f"no answer within {_LOST_S} s")
    except asyncio.CancelledError:
        if not call.cancelled():
            raise
        return Outcome(grpc.StatusCode.CANCELLED)
    return Outcome(grpc.StatusCode.OK, answer)


def _status(error: grpc.aio.AioRpcError) -> bytes | None:
    for key, value in error.trailing_metadata() or ():
        if key == "grpc-status-details-bin":
            data: Any = value
            return bytes(data)
    return None


async def raw_bytes(host: str, port: int, pieces: Iterable[bytes]) -> AsyncIterator[bytes]:
    """Connections that do not speak gRPC; what each got back before it was closed."""
    for piece in pieces:
        reader, writer = await asyncio.open_connection(host, port)
        found = b""
        # Which the server may close before all of it is written.
        with suppress(OSError, asyncio.TimeoutError):
            writer.write(piece)
            writer.write_eof()
            found = await asyncio.wait_for(reader.read(2**16), 5)
        writer.close()
        yield found
