"""Arguments that several commands share, and what they mean to the client."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from pairlens import cli_connection, specs
from pairlens._connection import DEFAULT_TIMEOUT_S
from pairlens.cli_connection import UsageError as UsageError
from pairlens.client import Client
from pairlens.errors import InvalidParameterError
from pairlens.models import MethodKind
from pairlens.options import OverlayStyle, Rendering
from pairlens.rendering import Box, ColorMap, ColorScale, Interpolation
from pairlens.targets import SimilarTo

if TYPE_CHECKING:
    Commands = argparse._SubParsersAction["OneLineParser"]

# Of a mistyped word and what was meant; less would name what merely begins alike.
_LIKENESS = 0.7
_SCALES = {
    MethodKind.EXPLANATION: (ColorScale.IMAGE, ColorScale.FIXED),
    MethodKind.PAIR: tuple(ColorScale),
}


class OneLineParser(argparse.ArgumentParser):
    """A parser whose complaints are one line, without the usage above them.

    They name what is nearest to a word that was mistyped, and the command whose help has the rest.
    """

    def error(self, message: str) -> NoReturn:
        """End the process with exit code 2."""
        self.exit(2, f"{self.prog}: {message} (see {self.prog} --help)\n")

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """As its parent's, but for words that no command takes: this one refuses its own."""
        namespace, unknown = super().parse_known_args(args, namespace)
        if unknown:
            flag = unknown[0].partition("=")[0]
            near = _near(flag, self._option_string_actions) if flag.startswith("--") else ""
            self.error(f"unrecognized arguments: {' '.join(unknown)}{near}")
        return namespace, unknown

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        if action.choices is None or value in action.choices:
            return
        choices = [str(choice) for choice in action.choices]
        raise argparse.ArgumentError(
            action,
            f"invalid choice: {value!r}{_near(str(value), choices)} "
            f"(choose from {', '.join(choices)})",
        )


def _near(word: str, words: Iterable[str]) -> str:
    found = get_close_matches(word[:100], words, 1, _LIKENESS)
    return f"; near: {found[0]}" if found else ""


def add_command(
    commands: Commands,
    name: str,
    summary: str,
    epilog: str,
    *,
    timeout: str = f"{DEFAULT_TIMEOUT_S:g}",
) -> OneLineParser:
    """Add a command with the arguments that all commands take.

    Args:
        commands: Of the program, or of a command that has some of its own.
        name: What it is called by.
        summary: What it does, in a line.
        epilog: What stands below the flags in its help.
        timeout: Seconds of each call where --timeout is not given, for the help.
    """
    parser = commands.add_parser(
        name,
        help=summary,
        description=summary,
        epilog=epilog,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    cli_connection.add_flags(parser)
    parser.add_argument(
        "--timeout",
        metavar="SECONDS",
        type=float,
        help=f"how long each call may take (default {timeout})",
    )
    parser.add_argument(
        "--json", action="store_true", help="print the whole result as one JSON document"
    )
    return parser


def add_cache(
    parser: argparse.ArgumentParser, choices: Sequence[str] = ("default", "bypass", "refresh")
) -> None:
    """Add --cache."""
    meanings = {
        "default": "take what is there, compute and keep the rest",
        "bypass": "compute everything, keep nothing",
        "refresh": "compute and keep everything",
    }
    parser.add_argument(
        "--cache",
        choices=choices,
        help="how the server's cache is used: "
        + "; ".join(f"{meanings[choice]} ({choice})" for choice in choices),
    )


def open_client(arguments: argparse.Namespace, *, timeout: float = DEFAULT_TIMEOUT_S) -> Client:
    """The client that the arguments ask for.

    Args:
        arguments: Of any command.
        timeout: Seconds of each call where --timeout is not given.

    Raises:
        UsageError: The flags of the connection contradict each other, or name a file that
            cannot be used.
    """
    given = arguments.timeout
    way = cli_connection.way(arguments)
    try:
        return Client(
            way.target,
            timeout=timeout if given is None else given,
            cache=getattr(arguments, "cache", None) or "default",
            tls=way.tls,
            token=way.token,
            token_over_plaintext=way.token_over_plaintext,
        )
    except InvalidParameterError as error:
        raise cli_connection.blame(error) or error from error


def confirm(arguments: argparse.Namespace, what: str, question: str) -> None:
    """Ask before something that cannot be undone, unless --yes is given.

    Args:
        arguments: Of the command.
        what: "clearing the cache", for where nobody can be asked.
        question: For where somebody can.

    Raises:
        UsageError: The answer is no, or nobody can be asked.
    """
    if arguments.yes:
        return
    if not sys.stdin.isatty():
        raise UsageError(f"{what} needs --yes where nobody can be asked")
    sys.stderr.write(f"{question} [y/N] ")
    sys.stderr.flush()
    if sys.stdin.readline().strip().lower() not in ("y", "yes"):
        raise UsageError("nothing was done")


def add_style(parser: argparse.ArgumentParser, kind: MethodKind) -> None:
    """Add the flags of what --out draws."""
    group = parser.add_argument_group("drawing", "How --out draws a picture.")
    group.add_argument(
        "--color-map", choices=[choice.value for choice in ColorMap], help="default viridis"
    )
    group.add_argument(
        "--scale",
        choices=[choice.value for choice in _SCALES[kind]],
        help="which values become the ends of the colour map: those of each map by itself (image)"
        + (
            ", of both maps together (pair; the default without a region)"
            if kind is MethodKind.PAIR
            else ""
        )
        + ", or --fixed-range (fixed)",
    )
    group.add_argument(
        "--fixed-range",
        dest="fixed",
        nargs=2,
        type=float,
        metavar=("LOW", "HIGH"),
        help="ends of the colour map, so that colours compare across calls; implies --scale fixed",
    )
    group.add_argument("--opacity", type=float, metavar="0..1", help="of the colours; default 0.6")
    group.add_argument(
        "--interpolation",
        choices=[choice.value for choice in Interpolation],
        help="how the map is enlarged; nearest shows its cells; default bilinear",
    )
    group.add_argument(
        "--max-side", type=int, metavar="PIXELS", help="shrink each picture to fit, 16 to 8192"
    )


def style(arguments: argparse.Namespace) -> OverlayStyle:
    """The drawing flags that were given, checked.

    Raises:
        UsageError: There is a flag but no picture to draw.
        InvalidParameterError: A value out of range.
    """
    chosen: OverlayStyle = {}
    for name in OverlayStyle.__annotations__:
        value = getattr(arguments, name)
        if value is not None:
            chosen[name] = tuple(value) if name == "fixed" else value  # type: ignore[literal-required]
    if chosen and arguments.out is None:
        flag = "fixed_range" if "fixed" in chosen else next(iter(chosen))
        raise UsageError(f"--{flag.replace('_', '-')} needs --out: nothing is drawn without it")
    Rendering(**chosen)
    return chosen


def check_files(paths: Iterable[Path]) -> None:
    """Refuse pictures that are not there, before the server has any work.

    Raises:
        UsageError: Names the first of them.
    """
    for path in paths:
        if path.is_dir():
            raise UsageError(f"{path} is a folder and no picture")
        if not path.exists():
            raise UsageError(f"no such file: {path}")


def region(text: str) -> Box:
    """Reads a flag's region."""
    try:
        return specs.box(text)
    except ValueError as error:
        # argparse would say less: that the value is invalid, but not why.
        raise argparse.ArgumentTypeError(f"invalid region value: {error}") from error


def target(arguments: argparse.Namespace) -> int | str | SimilarTo | None:
    """What --target or --similar-to name.

    Raises:
        UsageError: Both are given.
        ImageFileError: A picture cannot be read.
    """
    text: str | None = arguments.target
    if arguments.similar_to is None:
        return int(text) if text is not None and text.isdecimal() else text
    if text is not None:
        raise UsageError("give --target or --similar-to, not both")
    return SimilarTo(arguments.similar_to)
