"""YAML that people write: whatever is wrong with it is told in one line."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

from pairlens_server.errors import ConfigurationError

# What PyYAML quotes of a file, which may be a secret; but not single characters, escaped perhaps,
# and its own names of what it met.
_QUOTED = re.compile(r"""'([^']*)'|"([^"]*)"|['"]""")
_HARMLESS = re.compile(r"\\?.|\\x..|\\u....|<[a-z ]+>")


def read_yaml(path: Path) -> Any:
    """The content of a YAML file.

    Raises:
        ConfigurationError: As `parse_yaml`, or the file cannot be read.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ConfigurationError(f"{path.name}: {error.strerror or error}") from error
    return parse_yaml(data, path.name)


def parse_yaml(data: bytes, name: str) -> Any:
    """The content of YAML.

    Args:
        data: In UTF-8.
        name: Of the file, for error messages.

    Raises:
        ConfigurationError: It is none; says in which line, and nothing of what stands there,
            which may be a secret.
    """
    try:
        return yaml.safe_load(data.decode("utf-8"))
    except UnicodeDecodeError:
        raise ConfigurationError(f"{name}: no UTF-8") from None
    except yaml.MarkedYAMLError as error:
        raise ConfigurationError(f"{name}: no YAML{_place(error)}") from None
    # Dates that are none are a ValueError or an AttributeError, and thousands of brackets are too
    # deep.
    except Exception:
        raise ConfigurationError(f"{name}: no YAML") from None


def _place(error: yaml.MarkedYAMLError) -> str:
    mark = error.problem_mark or error.context_mark
    where = "" if mark is None else f": line {mark.line + 1}"
    problem = error.problem or ""
    quoted = ("".join(found.groups("")) for found in _QUOTED.finditer(problem))
    harmless = problem and all(_HARMLESS.fullmatch(piece) for piece in quoted)
    return f"{where}: {problem}" if harmless else where
