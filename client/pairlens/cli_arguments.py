"""Arguments that several commands share, and what they mean to the client."""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from pairlens._parameters import ParameterField, known_methods
from pairlens.client import DEFAULT_TARGET, DEFAULT_TIMEOUT_S, Client
from pairlens.models import MethodKind
from pairlens.options import OverlayStyle, Rendering
from pairlens.rendering import ColorMap, ColorScale, Interpolation

if TYPE_CHECKING:
    Commands = argparse._SubParsersAction["OneLineParser"]

_PARAMETER = "parameter_"
"""Prefix under which parameters of methods are kept among the parsed arguments."""

_SCALES = {
    MethodKind.EXPLANATION: (ColorScale.IMAGE, ColorScale.FIXED),
    MethodKind.PAIR: tuple(ColorScale),
}


class UsageError(Exception):
    """The command line asks for something that cannot be; the message says what."""


class OneLineParser(argparse.ArgumentParser):
    """A parser whose complaints are one line, without the usage above them."""

    def error(self, message: str) -> NoReturn:
        """End the process with exit code 2."""
        self.exit(2, f"{self.prog}: {message} (see {self.prog} --help)\n")


def add_command(commands: Commands, name: str, summary: str, epilog: str) -> OneLineParser:
    """Add a command with the arguments that all commands take."""
    parser = commands.add_parser(
        name,
        help=summary,
        description=summary,
        epilog=epilog,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--server",
        metavar="TARGET",
        default=os.environ.get("PAIRLENS_SERVER") or DEFAULT_TARGET,
        help="host:port of the server (env PAIRLENS_SERVER; default %(default)s)",
    )
    parser.add_argument(
        "--timeout",
        metavar="SECONDS",
        type=float,
        default=DEFAULT_TIMEOUT_S,
        help="how long each call may take (default %(default)g)",
    )
    parser.add_argument(
        "--json", action="store_true", help="print the whole result as one JSON document"
    )
    return parser


def open_client(arguments: argparse.Namespace) -> Client:
    """The client that the arguments ask for."""
    return Client(arguments.server, timeout=arguments.timeout)


def add_method(parser: argparse.ArgumentParser, kind: MethodKind, *, but: str = "") -> None:
    """Add --model, --method and one flag for each parameter of the methods of a kind.

    Args:
        parser: Of the command.
        kind: Which methods.
        but: Name of a parameter that the command adds by itself.
    """
    methods = known_methods(kind)
    group = parser.add_argument_group(
        "method", "Defaults and ranges depend on the model: see `pairlens models NAME`."
    )
    group.add_argument(
        "--model", metavar="NAME", help="served model (default: the first that gives the method)"
    )
    group.add_argument(
        "--method", choices=list(methods), help="what to run (default: the model's own choice)"
    )
    fields = {field.name: field for fields in methods.values() for field in fields}
    for field in fields.values():
        if field.name != but:
            takers = [name for name, parameters in methods.items() if field in parameters]
            _add_parameter(group, field, f"of {', '.join(takers)}")


def _add_parameter(group: argparse._ArgumentGroup, field: ParameterField, of: str) -> None:
    flag, dest = f"--{field.name.replace('_', '-')}", _PARAMETER + field.name
    if field.type == "enum":
        group.add_argument(flag, dest=dest, choices=list(field.choices), help=of)
    elif field.type == "bool":
        group.add_argument(flag, dest=dest, action=argparse.BooleanOptionalAction, help=of)
    else:
        group.add_argument(flag, dest=dest, type=int, metavar="N", help=of)


def parameters(arguments: argparse.Namespace) -> dict[str, Any]:
    """The method's parameters that were given."""
    return {
        name.removeprefix(_PARAMETER): value
        for name, value in vars(arguments).items()
        if name.startswith(_PARAMETER) and value is not None
    }


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
        + (", of both maps together (pair; the default)" if kind is MethodKind.PAIR else "")
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
