"""One process of the set: started, watched, started again, stopped."""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

Say = Callable[[str], None]

_POLL_S = 0.1
_LONG_ENOUGH_S = 10.0
"""A process that ran for that long is started again at once, any other after a growing pause."""
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 1.0, 30.0
_LAST_LINES = 10


class PartError(Exception):
    """A process did not come up; the message has the end of its log."""


@dataclass(frozen=True)
class Recipe:
    """How a process is run.

    Attributes:
        name: For messages, and of its log file.
        command: With all arguments.
        log: Gets what it says, of all its lives.
        is_ready: Whether it answers; may block for seconds.
        environment: Variables besides this process's own.
        start_s: Longest time until it is ready, in seconds.
        stop_s: How long it may take to end after SIGTERM; then it is killed.
    """

    name: str
    command: Sequence[str]
    log: Path
    is_ready: Callable[[], bool]
    environment: Mapping[str, str] = field(default_factory=dict)
    start_s: float = 30.0
    stop_s: float = 10.0


class Part:
    """A process that is started again whenever it dies."""

    def __init__(self, recipe: Recipe, say: Say, changed: Callable[[], None]):
        """Prepare it.

        Args:
            recipe: How it is run.
            say: Tells the user what happened.
            changed: Called when another process took over.
        """
        self.recipe = recipe
        self._say = say
        self._changed = changed
        self._process: asyncio.subprocess.Process | None = None
        # Held while the process is being replaced, on purpose or because it died.
        self._replacing = asyncio.Lock()

    @property
    def pid(self) -> int:
        """Of the process that runs, or ran last; 0 before the first."""
        return 0 if self._process is None else self._process.pid

    async def start(self) -> None:
        """Run it and wait until it is ready.

        Raises:
            PartError: It ended, or is not ready in time.
        """
        async with self._replacing:
            await self._start()

    async def restart(self) -> None:
        """Stop it in order and run it anew.

        Raises:
            PartError: As `start`.
        """
        async with self._replacing:
            await self._stop()
            await self._start()

    async def stop(self) -> None:
        """End it in order."""
        async with self._replacing:
            await self._stop()

    def kill(self) -> None:
        """End it at once, while `stop` waits for it too."""
        if self._process is not None and self._process.returncode is None:
            self._process.kill()

    async def keep(self) -> None:
        """Start it again whenever it dies, until this is cancelled."""
        clock = asyncio.get_running_loop().time
        pause = 0.0
        while True:
            process, begun = self._process, clock()
            assert process is not None
            code = await process.wait()
            if clock() - begun > _LONG_ENOUGH_S:
                pause = 0.0
            async with self._replacing:
                if process is not self._process:
                    continue  # replaced on purpose
                again = f"in {pause:g} s" if pause else "now"
                self._say(f"{self.recipe.name} ended ({_how(code)}); it is started again {again}")
                await asyncio.sleep(pause)
                pause = min(max(2 * pause, _FIRST_PAUSE_S), _LONGEST_PAUSE_S)
                try:
                    await self._start()
                    self._say(f"{self.recipe.name} is ready again")
                except PartError as error:
                    self._say(str(error))

    async def _start(self) -> None:
        with self.recipe.log.open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                *_dying_with_us(),
                *self.recipe.command,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**os.environ, **self.recipe.environment},
                # Ctrl-C is for this process alone, which ends the others in order.
                start_new_session=True,
            )
        try:
            await asyncio.wait_for(self._until_ready(self._process), self.recipe.start_s)
        except asyncio.TimeoutError as error:
            await self._stop()
            raise PartError(
                f"{self.recipe.name} was not ready within {self.recipe.start_s:g} s; its log, "
                f"{self.recipe.log}, ends with:\n{self._last_words()}"
            ) from error
        self._changed()

    async def _until_ready(self, process: asyncio.subprocess.Process) -> None:
        while not await asyncio.to_thread(self.recipe.is_ready):
            if process.returncode is not None:
                raise PartError(
                    f"{self.recipe.name} ended ({_how(process.returncode)}) before it was ready; "
                    f"its log, {self.recipe.log}, ends with:\n{self._last_words()}"
                )
            await asyncio.sleep(_POLL_S)

    async def _stop(self) -> None:
        process = self._process
        if process is None or process.returncode is not None:
            return
        process.terminate()
        try:
            await asyncio.wait_for(process.wait(), self.recipe.stop_s)
        except asyncio.TimeoutError:
            self._say(f"{self.recipe.name} did not end within {self.recipe.stop_s:g} s; killed")
            process.kill()
            await process.wait()

    def _last_words(self) -> str:
        lines = self.recipe.log.read_text(encoding="utf-8", errors="replace").splitlines()
        return "\n".join(f"  {line}" for line in lines[-_LAST_LINES:])


def _dying_with_us() -> list[str]:
    """A prefix that has a process end with this one, however this one ends."""
    setpriv = shutil.which("setpriv")
    return [setpriv, "--pdeathsig", "TERM", "--"] if setpriv else []


def _how(code: int) -> str:
    return f"signal {-code}" if code < 0 else f"exit code {code}"
