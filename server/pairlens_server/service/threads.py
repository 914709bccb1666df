"""Arithmetic beside the event loop, where it is worth a thread."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TypeVar

Result = TypeVar("Result")

LIGHT = 65_536
"""Numbers that are worked through in less time than a thread takes to be woken."""


async def off_loop(weight: int, function: Callable[..., Result], *arguments: object) -> Result:
    """Run a function in a thread, or at once where it has little to do.

    Args:
        weight: About how many numbers it works through.
        function: What to run.
        *arguments: Of the function.
    """
    if weight <= LIGHT:
        return function(*arguments)
    return await asyncio.to_thread(function, *arguments)
