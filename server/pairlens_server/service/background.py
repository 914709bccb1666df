"""Tasks that nobody has to wait for."""

from __future__ import annotations

import asyncio
import logging

from pairlens_server.errors import PairlensError

_log = logging.getLogger(__name__)


class BackgroundTasks:
    """Keeps tasks alive until they are done, and logs those that fail by a bug."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[object]] = set()

    def keep(self, task: asyncio.Task[object]) -> None:
        """Look after a task from now on."""
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    async def cancel(self) -> None:
        """Give up all that are under way, and wait until they have ended."""
        tasks = tuple(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _ended(self, task: asyncio.Task[object]) -> None:
        self._tasks.discard(task)
        # Asked for in any case: else asyncio would log that nobody has fetched it.
        error = None if task.cancelled() else task.exception()
        if error is not None and not isinstance(error, PairlensError):
            _log.error("internal error: task %s", task.get_name(), exc_info=error)
