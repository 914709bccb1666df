"""What a server does while nobody calls."""

from __future__ import annotations

import asyncio
from typing import Protocol

from pairlens_server.allocator import give_back_freed_memory

_SAMPLED_S = 1.0
_REST_S = 10.0  # without a call, after which freed memory goes back to the system


class Calls(Protocol):
    """What is known of the calls of a server."""

    @property
    def under_way(self) -> int:
        """Calls that were let in and have not ended."""

    @property
    def let_in(self) -> int:
        """Calls that were ever let in."""


async def give_back_when_idle(calls: Calls) -> None:
    """Return freed memory to the system once in every rest between calls; never ends."""
    idle_s, given_back, known = 0.0, False, -1
    while True:
        await asyncio.sleep(_SAMPLED_S)
        # Their number too: short calls are hardly ever under way at the moment of a sample.
        known, before = calls.let_in, known
        resting = known == before and not calls.under_way
        idle_s = idle_s + _SAMPLED_S if resting else 0.0
        if idle_s < _REST_S:
            given_back = False
        elif not given_back:
            await asyncio.to_thread(give_back_freed_memory)
            given_back = True
