"""Entry point of `pairlens-server`."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Sequence

_EXIT_FAILED = 1
_EXIT_CONFIGURATION = 2


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of `pairlens-server`; a server that has started ends the process itself.

    Returns:
        0 where there was nothing to serve, 2 when the server cannot start as configured, and 1
        when it may be able to another time.
    """
    _heed_signals()
    # Not at the top: importing torch and the like takes seconds, or minutes on a cold disk.
    from pairlens_server.errors import ConfigurationError, DeviceError

    try:
        return _run(argv)
    except ConfigurationError as error:
        sys.stderr.write(f"pairlens-server: {error}\n")
        return _EXIT_CONFIGURATION
    except ModuleNotFoundError as error:
        sys.stderr.write(
            f"pairlens-server: {error.name} is not installed: pairlens without its extra is the "
            "client alone; pip install '.[server]' installs the server\n"
        )
        return _EXIT_CONFIGURATION
    except DeviceError as error:
        sys.stderr.write(f"pairlens-server: {error}\n")
        return _EXIT_FAILED


def _heed_signals() -> None:
    """End when told to, until `signals.Orders` listens: there is nothing to finish yet.

    By itself, Python would end with a traceback or a code that stands for a failure, and as process
    1 of a container, for which signals have no default action, not at all.
    """
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: os._exit(0))
    # The models file has not been read, so there is nothing to read again.
    signal.signal(signal.SIGHUP, signal.SIG_IGN)


def _run(argv: Sequence[str] | None) -> int:
    import asyncio

    from pairlens_server.allocator import keep_freed_memory
    from pairlens_server.command_line import dump, parse_command_line
    from pairlens_server.serving import serve
    from pairlens_server.telemetry.logs import set_up_logging

    command = parse_command_line(argv)
    settings = command.settings
    if command.print_config:
        sys.stdout.write(dump(settings))
        return 0
    set_up_logging(settings.log_level, as_json=settings.log_format == "json")
    if settings.keep_memory:
        keep_freed_memory()
    asyncio.run(serve(settings))
