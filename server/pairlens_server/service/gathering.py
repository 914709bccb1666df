"""Waiting for several things at once, and for none of them in vain."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Sequence
from typing import TypeVar

from pairlens_server.errors import (
    ImageTooLargeError,
    ImageUndecodableError,
    NotFiniteError,
    PairlensError,
)

Result = TypeVar("Result")

IMAGE_JOBS = 2
"""Image jobs of one call under way; more would keep other calls waiting behind all of them."""

OF_ONE_PICTURE = (ImageUndecodableError, ImageTooLargeError, NotFiniteError)
"""What fails one candidate and leaves its call alone."""


async def gather_or_cancel(awaitables: Sequence[Awaitable[Result]]) -> list[Result]:
    """Await all; when one fails, or the caller gives up, cancel the others."""
    tasks = [asyncio.ensure_future(awaitable) for awaitable in awaitables]
    try:
        return list(await asyncio.gather(*tasks))
    finally:
        for task in tasks:
            task.cancel()


async def or_error(awaitable: Awaitable[Result]) -> Result | PairlensError:
    """Await something of one picture, whose failure is a result."""
    try:
        return await awaitable
    except OF_ONE_PICTURE as error:
        return error
