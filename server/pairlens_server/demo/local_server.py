"""A pairlens server in a process of its own, for as long as a block runs."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

_LISTENING = re.compile(r"listening on (\S+)")
_START_TIMEOUT_S = 120
_STOP_TIMEOUT_S = 30


class ServerFailedError(Exception):
    """The server did not start; the message holds what it wrote."""


@contextmanager
def local_server(models: Path) -> Iterator[str]:
    """Run `pairlens-server` on a free port of this machine.

    Args:
        models: The models file.

    Yields:
        The target to connect to.

    Raises:
        ServerFailedError: It ended, or did not listen in time.
    """
    command = [sys.executable, "-m", "pairlens_server", "--listen", "127.0.0.1:0"]
    with tempfile.TemporaryFile("w+") as log:
        process = subprocess.Popen(
            [*command, "--models", str(models)], stdout=subprocess.PIPE, stderr=log, text=True
        )
        # A server that hangs before it listens would keep the read below waiting.
        alarm = threading.Timer(_START_TIMEOUT_S, process.kill)
        alarm.start()
        try:
            target = _target(process, log)
            alarm.cancel()
            yield target
        finally:
            alarm.cancel()
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(_STOP_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _target(process: subprocess.Popen[str], log: IO[str]) -> str:
    assert process.stdout is not None
    for line in process.stdout:
        found = _LISTENING.search(line)
        if found:
            return found.group(1)
    process.wait()
    log.seek(0)
    raise ServerFailedError(f"the server ended with code {process.returncode}:\n{log.read()}")
