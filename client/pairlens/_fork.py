"""Clients in processes that were forked from one that used them.

gRPC has threads that a forked process lacks: calls of the child hang, whatever their deadline,
when the parent had opened a channel, at times even when it had closed it since. Under
GRPC_ENABLE_FORK_SUPPORT=1 gRPC starts them again, but for what asyncio had open (all measured
with gRPC 1.85).
"""

from __future__ import annotations

import os
import weakref
from typing import Protocol

import grpc
import grpc.aio

from pairlens.errors import PairlensError

# gRPC reads it when it is imported, which it was just now.
_SUPPORTED = os.environ.get("GRPC_ENABLE_FORK_SUPPORT", "").lower() in ("1", "true", "yes", "on")


class Forked(Protocol):
    """What has to be made anew in a forked process."""

    def _forked(self) -> None:
        """This process was forked; no other thread runs yet."""


class _Process:
    """What this process has open, and inherited.

    Attributes:
        used: Whether it, or a process that it was forked from, ever opened a channel.
        unusable: Whether calls hang here.
        unusable_async: Whether awaited ones do.
        channels: Those that are open.
        dependents: What has to be made anew.
    """

    def __init__(self) -> None:
        self.used = self.unusable = self.unusable_async = False
        self.channels: weakref.WeakSet[grpc.Channel | grpc.aio.Channel] = weakref.WeakSet()
        self.dependents: weakref.WeakSet[Forked] = weakref.WeakSet()
        self._inherited: list[grpc.Channel | grpc.aio.Channel] = []

    def after_fork_in_child(self) -> None:
        channels = list(self.channels)
        self.channels.clear()
        # Never destroyed: that takes the threads that are not here.
        self._inherited += channels
        self.unusable = self.used and not _SUPPORTED
        open_async = any(isinstance(channel, grpc.aio.Channel) for channel in channels)
        self.unusable_async |= self.unusable or open_async
        for dependent in list(self.dependents):
            dependent._forked()


_process = _Process()
if hasattr(os, "register_at_fork"):  # Windows has no fork
    os.register_at_fork(after_in_child=_process.after_fork_in_child)


def register(dependent: Forked) -> None:
    """Have `_forked` called in a forked process, as long as the object lives."""
    _process.dependents.add(dependent)


def check(*, asynchronous: bool) -> None:
    """Refuse to open a channel in a process where its calls would hang.

    Raises:
        PairlensError: They would.
    """
    if _process.unusable_async if asynchronous else _process.unusable:
        hint = "" if _SUPPORTED else " Or set GRPC_ENABLE_FORK_SUPPORT=1 before Python starts."
        raise PairlensError(
            "gRPC cannot be used in this process: it was forked from one that had used it. Make "
            'the first call after os.fork(), or start processes by "spawn" or "forkserver".'
            f"{hint}",
            code="FAILED_PRECONDITION",
        )


def opened(channel: grpc.Channel | grpc.aio.Channel) -> None:
    """Note that a channel is open."""
    _process.used = True
    _process.channels.add(channel)


def closed(channel: grpc.Channel | grpc.aio.Channel) -> None:
    """Note that it is not any more."""
    _process.channels.discard(channel)
