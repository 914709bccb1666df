"""Values of settings that have a form of their own."""

from __future__ import annotations

import math
import re
from itertools import pairwise
from pathlib import Path

from pairlens_server.errors import ConfigurationError

_ADDRESS = re.compile(r"(\[[0-9a-fA-F:.]+\]|[^:/\[\]\s]+):[0-9]{1,5}")


def host_and_port(listen: str) -> str:
    """An address to listen on, as it was given.

    Raises:
        ValueError: It is not HOST:PORT.
    """
    if not _ADDRESS.fullmatch(listen):
        raise ValueError("HOST:PORT is expected, with brackets around an IPv6 address")
    if int(listen.rpartition(":")[2]) > 65535:
        raise ValueError("PORT is not above 65535")
    return listen


def ascending(text: str) -> tuple[float, ...]:
    """Numbers with commas between.

    Raises:
        ValueError: They are none, or not positive, finite and ascending.
    """
    try:
        numbers = tuple(float(part) for part in text.split(","))
    except ValueError as error:
        raise ValueError("numbers with commas between are expected") from error
    if not all(0 < number < math.inf for number in numbers):
        raise ValueError("positive numbers are expected")
    if any(a >= b for a, b in pairwise(numbers)):
        raise ValueError("ascending numbers are expected")
    return numbers


def secret(setting: str, path: Path) -> str:
    """What a file holds, without white space around it.

    Args:
        setting: That names the file, for messages.
        path: Of the file.

    Raises:
        ConfigurationError: It cannot be read.
    """
    try:
        return path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "no text"
        raise ConfigurationError(f"{setting}: {path.name}: {reason}") from error
