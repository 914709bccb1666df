"""Entry point of `pairlens-server`."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Sequence

from pairlens_server.allocator import keep_freed_memory
from pairlens_server.command_line import dump, parse_command_line
from pairlens_server.errors import ConfigurationError
from pairlens_server.serving import serve
from pairlens_server.telemetry.logs import set_up_logging

_EXIT_CONFIGURATION = 2


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of `pairlens-server`; a server that has started ends the process itself.

    Returns:
        0 where there was nothing to serve, 2 when the server cannot start as configured.
    """
    try:
        command = parse_command_line(argv)
        settings = command.settings
        if command.print_config:
            sys.stdout.write(dump(settings))
            return 0
        set_up_logging(settings.log_level, as_json=settings.log_format == "json")
        if settings.keep_memory:
            keep_freed_memory()
        asyncio.run(serve(settings))
    except ConfigurationError as error:
        sys.stderr.write(f"pairlens-server: {error}\n")
        return _EXIT_CONFIGURATION
