"""What the process is told to do: by signals, and by those who run it over AdminService.

SIGTERM stops in an orderly way and SIGINT does too, without waiting for load balancers to notice; a
second one of either stops at once, and so does the first one while models load. SIGHUP has the
models file read again. Before there is an event loop, `app.py` heeds signals.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
from collections.abc import Callable

_log = logging.getLogger(__name__)


class Orders:
    """Orders as they come in; used by the event loop alone.

    Attributes:
        stop: Set when the server is to stop.
        hurry: Set when it is not to wait for load balancers.
        at_once: Set when it is not to wait for anything.
    """

    def __init__(self) -> None:
        self.stop = asyncio.Event()
        self.hurry = asyncio.Event()
        self.at_once = asyncio.Event()
        self._signals = 0
        self._reload: Callable[[], object] | None = None
        self._reload_waits = False

    def listen(self) -> None:
        """Take signals from now on, on the running loop."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._asked_to_stop, number)
        loop.add_signal_handler(signal.SIGHUP, self._asked_to_reload)

    def ready(self, reload: Callable[[], object]) -> None:
        """The models are there: stop in order from now on, and reload when asked to.

        Args:
            reload: Begins to; called at once if that was asked for meanwhile.
        """
        self._reload = reload
        if self._reload_waits:
            reload()

    def drain(self) -> None:
        """Stop as SIGTERM does, but for a SIGTERM that follows, which is no second signal.

        So an orchestrator may do both, one after the other.
        """
        self.stop.set()

    def _asked_to_stop(self, number: int) -> None:
        if self._reload is None:
            # While loading there is no call to finish, and a thread that loads cannot be stopped.
            _log.info("told to stop while the models load")
            logging.shutdown()
            os._exit(0)
        self._signals += 1
        if self._signals > 1:
            self.at_once.set()
        if number == signal.SIGINT:
            self.hurry.set()
        self.stop.set()

    def _asked_to_reload(self) -> None:
        if self._reload is None:
            self._reload_waits = True
        else:
            self._reload()
