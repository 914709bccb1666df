"""What commands print: tables for people, JSON for programs, progress for the patient."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import TypeVar

from rich import box
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, track
from rich.table import Table
from rich.text import Text

from pairlens._json import to_json
from pairlens.errors import PairlensError

_Item = TypeVar("_Item")

_WIDTH_WITHOUT_TERMINAL = 200


def printable(text: str) -> str:
    """One line without characters that steer a terminal; names and labels are not ours."""
    line = " ".join(text.split())
    return "".join(letter if letter.isprintable() else "�" for letter in line)


def stdout() -> Console:
    """Where results go; wide where nobody looks, so that tables keep their lines."""
    width = None if sys.stdout.isatty() else _WIDTH_WITHOUT_TERMINAL
    return Console(file=sys.stdout, width=width, highlight=False)


def progress(items: Sequence[_Item], what: str) -> Iterable[_Item]:
    """Go through items under a progress bar; none for one item, or where nobody looks."""
    if len(items) < 2 or not sys.stderr.isatty():
        return items  # rich 13 prints an empty line even for a disabled bar
    return track(items, what, console=Console(file=sys.stderr), transient=True)


def progress_by_cost(
    items: Sequence[_Item], what: Callable[[_Item], str], cost: Callable[[_Item], float]
) -> Iterator[_Item]:
    """Go through items under a bar that grows with what they cost.

    Args:
        items: To be worked on one after the other.
        what: Says what is worked on, with its cost.
        cost: In any unit.
    """
    if not sys.stderr.isatty():
        yield from items
        return
    columns = (BarColumn(), TimeElapsedColumn(), TextColumn("{task.description}", markup=False))
    with Progress(*columns, console=Console(file=sys.stderr), transient=True) as bar:
        task = bar.add_task("", total=sum(map(cost, items)))
        for number, item in enumerate(items, start=1):
            bar.update(task, description=f"{number} of {len(items)}: {what(item)}")
            yield item
            bar.advance(task, cost(item))


def working(what: str) -> AbstractContextManager[object]:
    """Show that something is going on, unless nobody looks."""
    if not sys.stderr.isatty():
        return nullcontext()
    return Console(file=sys.stderr).status(what)


def told(error: PairlensError) -> str:
    """What went wrong with a call, and where its server's log says more."""
    return f"{error.message} (request {error.request_id})" if error.request_id else error.message


def warn(message: str) -> None:
    """Name something that did not stop the command."""
    sys.stderr.write(f"pairlens: {printable(message)}\n")


def print_table(title: str, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Print a table; numbers are aligned on the right, None is left empty."""
    table = Table(title=title or None, title_justify="left", box=box.SIMPLE_HEAD)
    lines = [list(row) for row in rows]
    for index, column in enumerate(columns):
        numbers = all(isinstance(line[index], (int, float, type(None))) for line in lines)
        table.add_column(column, justify="right" if numbers else "left", overflow="fold")
    for line in lines:
        table.add_row(*(Text(_cell(value)) for value in line))
    stdout().print(table)


def _cell(value: object) -> str:
    if value is None:
        return ""
    return f"{value:.5g}" if isinstance(value, float) else printable(str(value))


def print_json(document: object) -> None:
    """Print one JSON document on one line; nothing else may be on standard output."""
    sys.stdout.write(json.dumps(to_json(document), allow_nan=False) + "\n")
