"""Who calls, and until when: what a call says beside its request."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any
from urllib.parse import unquote

import grpc

from pairlens_server.telemetry.record import current_call

CLIENT_KEY = "pairlens-client"
"""Metadata key under which a client names itself."""

MAX_CLIENT_CHARACTERS = 100

Context = grpc.aio.ServicerContext[Any, Any]


@dataclass(frozen=True)
class Caller:
    """Who calls.

    Attributes:
        deadline_s: Event-loop time after which nobody waits; None for never.
        client: Whose share of the device the call takes; "" for nobody in particular.
    """

    deadline_s: float | None = None
    client: str = ""


def caller_of(context: Context) -> Caller:
    """Read a call's deadline and its client's name; call it on the event loop.

    The name that a token or certificate stands for goes before what a client calls itself,
    so that nobody takes more than one share, or somebody else's.
    """
    remaining_s = context.time_remaining()
    deadline_s = None if remaining_s is None else asyncio.get_running_loop().time() + remaining_s
    call = current_call()
    # Unset metadata is None in some versions of gRPC.
    name = (call.client if call else "") or claimed_name(context.invocation_metadata() or ())
    return Caller(deadline_s, name or host_of(context.peer()))


def claimed_name(metadata: Iterable[Any]) -> str:
    """What the client calls itself; "" where it does not, or in a way that is refused."""
    for key, value in metadata:
        if key == CLIENT_KEY:
            usable = isinstance(value, str) and value.isprintable()
            return value.strip() if usable and len(value) <= MAX_CLIENT_CHARACTERS else ""
    return ""


# Of one connection it is the same at every call.
@lru_cache(maxsize=1024)
def host_of(peer: str) -> str:
    """An address without its port, which differs between connections of one client.

    `ipv4:10.0.0.7:51234` is 10.0.0.7, `ipv6:%5B::1%5D:51234` is ::1, and a Unix socket, which
    has neither, its whole name.
    """
    family, _, address = unquote(peer).partition(":")
    if family in ("ipv4", "ipv6"):
        address = address.rpartition(":")[0].strip("[]")
    return address[:MAX_CLIENT_CHARACTERS]
