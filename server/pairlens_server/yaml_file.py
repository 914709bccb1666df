"""YAML that people write: whatever is wrong with it is told in one line."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import yaml

from pairlens_server.errors import ConfigurationError

# What PyYAML quotes of a file, which may be a secret; but not single characters, escaped perhaps,
# and its own names of what it met.
_QUOTED = re.compile(r"""'([^']*)'|"([^"]*)"|['"]""")
_HARMLESS = re.compile(r"\\?.|\\x..|\\u....|<[a-z ]+>")
# A file of a few lines can stand for billions, aliases of aliases, which whoever checks or copies
# them meets one by one.
_MAX_VALUES = 1_000_000


class _TooManyError(Exception):
    """More values than any file of ours has."""


class _Loader(yaml.SafeLoader):
    def get_single_node(self) -> yaml.Node | None:
        node: yaml.Node | None = super().get_single_node()
        if node is not None and _values(node, {}) > _MAX_VALUES:
            raise _TooManyError
        return node


def _values(node: yaml.Node, known: dict[int, float]) -> float:
    """How many there are from a node on, each as often as it is named; inf if it holds itself."""
    if id(node) not in known:
        known[id(node)] = math.inf
        below = node.value if isinstance(node, yaml.CollectionNode) else ()
        if isinstance(node, yaml.MappingNode):
            below = (part for pair in below for part in pair)
        known[id(node)] = 1 + sum(_values(part, known) for part in below)
    return known[id(node)]


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
        return yaml.load(data.decode("utf-8"), _Loader)
    except UnicodeDecodeError:
        raise ConfigurationError(f"{name}: no UTF-8") from None
    except yaml.MarkedYAMLError as error:
        raise ConfigurationError(f"{name}: no YAML{_place(error)}") from None
    except _TooManyError:
        raise ConfigurationError(
            f"{name}: holds itself, or more than {_MAX_VALUES} values"
        ) from None
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
