"""Prints what a project depends on: `requirements.py PYPROJECT [EXTRA ...]`."""

from __future__ import annotations

import sys
from pathlib import Path

import tomllib


def main(pyproject: str, *extras: str) -> None:
    """Print the requirements of the project and of extras, one a line."""
    project = tomllib.loads(Path(pyproject).read_text(encoding="utf-8"))["project"]
    required = list(project["dependencies"])
    for extra in extras:
        required += project["optional-dependencies"][extra]
    sys.stdout.write("".join(f"{line}\n" for line in required))


if __name__ == "__main__":
    main(*sys.argv[1:])
