"""Flags for the methods and their parameters, read off the contract."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Collection, Sequence
from typing import Any

from pairlens import cli_arguments, specs
from pairlens._parameters import ParameterField, known_methods
from pairlens.cli_arguments import UsageError
from pairlens.models import MethodKind

_PARAMETER = "parameter_"
"""Prefix under which parameters of methods are kept among the parsed arguments."""

_METAVARS = {
    "int": "N",
    "float": "X",
    "string": "NAME",
    "ints": "N,N,...",
    "floats": "X,X,...",
    "box": "X0,Y0,X1,Y1",
}


def add_method(
    parser: argparse.ArgumentParser,
    kind: MethodKind,
    *,
    but: Collection[str] = (),
    also: Sequence[str] = (),
) -> None:
    """Add --model, --method, --set and one flag for each parameter of the methods of a kind.

    Args:
        parser: Of the command.
        kind: Which methods.
        but: Names of parameters that get no flag; --set takes them.
        also: Further choices of --method.
    """
    methods = known_methods(kind)
    group = _group(parser)
    group.add_argument(
        "--method",
        choices=[*methods, *also],
        metavar="METHOD",
        help=f"what to run (default: the model's own choice): {', '.join([*methods, *also])}",
    )
    fields = {field.name: field for fields in methods.values() for field in fields}
    for field in fields.values():
        if field.name not in but:
            takers = [name for name, parameters in methods.items() if field in parameters]
            _add_parameter(group, field, f"of {', '.join(takers)}")
    group.add_argument(
        "--set",
        dest="settings",
        action="append",
        default=[],
        type=_setting(fields),
        metavar="NAME=VALUE",
        help="any parameter by its name, as often as needed",
    )


def add_parameters(parser: argparse.ArgumentParser, kind: MethodKind, method: str) -> None:
    """Add --model and one flag for each parameter of one method."""
    group = _group(parser)
    for field in known_methods(kind)[method]:
        _add_parameter(group, field, "")


def parameters(arguments: argparse.Namespace) -> dict[str, Any]:
    """The method's parameters that were given.

    Raises:
        UsageError: One is given by its flag and by --set.
    """
    given = {
        name.removeprefix(_PARAMETER): value
        for name, value in vars(arguments).items()
        if name.startswith(_PARAMETER) and value is not None
    }
    for name, value in getattr(arguments, "settings", []):
        if name in given:
            raise UsageError(f"{name} is given twice")
        given[name] = value
    return given


def first_with(kind: MethodKind, parameter: str) -> str:
    """Name of the contract's first method that takes a parameter."""
    return next(
        name
        for name, fields in known_methods(kind).items()
        if parameter in (field.name for field in fields)
    )


def _group(parser: argparse.ArgumentParser) -> argparse._ArgumentGroup:
    group = parser.add_argument_group(
        "method",
        "Defaults and ranges depend on the model: see `pairlens models NAME`; what the methods "
        "show and cost: `pairlens methods`.",
    )
    group.add_argument(
        "--model", metavar="NAME", help="served model (default: the first that gives the method)"
    )
    return group


def _add_parameter(group: argparse._ArgumentGroup, field: ParameterField, of: str) -> None:
    flag, dest = f"--{field.name.replace('_', '-')}", _PARAMETER + field.name
    if field.type == "enum":
        group.add_argument(flag, dest=dest, choices=list(field.choices), help=of)
    elif field.type == "bool":
        group.add_argument(flag, dest=dest, action=argparse.BooleanOptionalAction, help=of)
    else:
        metavar = _METAVARS[field.type]
        reader = cli_arguments.region if field.type == "box" else specs.reader(field)
        group.add_argument(flag, dest=dest, type=reader, metavar=metavar, help=of)


def _setting(fields: dict[str, ParameterField]) -> Callable[[str], tuple[str, Any]]:
    """Reads NAME=VALUE."""

    def setting(text: str) -> tuple[str, Any]:
        name, equals, value = text.partition("=")
        name = name.strip().replace("-", "_")
        if not equals or name not in fields:
            raise argparse.ArgumentTypeError(
                f"{text!r} is no NAME=VALUE with one of the names {', '.join(fields)}"
            )
        try:
            return name, specs.reader(fields[name])(value.strip())
        except ValueError as error:
            raise argparse.ArgumentTypeError(f"{name}: {error}") from error

    return setting
