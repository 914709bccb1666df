"""Methods and metrics written as text: "deletion(steps=32, fractions=0.1,0.5)".

The form is that of `str(Method)` and `str(Metric)`. A comma begins the next parameter where
a name and "=" follow; any other comma belongs to the value, so that lists need no quotes.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from pairlens._parameters import METRICS, Family, ParameterField, of_kind
from pairlens.errors import InvalidParameterError
from pairlens.models import Method, MethodKind, ParameterValue
from pairlens.rendering import Box

_SPEC = re.compile(r"\s*([A-Za-z][\w-]*)\s*(?:\((.*)\))?\s*", re.DOTALL)
_NEXT = re.compile(r",(?=\s*[A-Za-z][\w-]*\s*=)")


def split(text: str) -> list[str]:
    """The specifications of a list, parted by the commas that lie in no parentheses.

    Example:
        >>> split("rollout, deletion(fractions=0.1,0.5)")
        ['rollout', 'deletion(fractions=0.1,0.5)']
    """
    parts, depth, start = [], 0, 0
    for index, letter in enumerate(text):
        depth += (letter == "(") - (letter == ")")
        if letter == "," and depth <= 0:
            parts.append(text[start:index])
            start = index + 1
    return [part.strip() for part in [*parts, text[start:]] if part.strip()]


def parse(text: str, *, field: str = "") -> tuple[str, dict[str, str]]:
    """Name and parameters of one specification, dashes in names as underscores.

    Args:
        text: "name" or "name(parameter=value, ...)".
        field: Name of the argument, for messages.

    Raises:
        InvalidParameterError: A text of another form, or a parameter given twice.
    """
    match = _SPEC.fullmatch(text)
    if match is None:
        raise InvalidParameterError(
            f"{text!r} is no name or name(parameter=value, ...)", field=field
        )
    name, inside = match.group(1), (match.group(2) or "").strip()
    parameters: dict[str, str] = {}
    for part in _NEXT.split(inside) if inside else []:
        key, equals, value = (piece.strip() for piece in part.partition("="))
        key = key.replace("-", "_")
        if not equals or not key.isidentifier():
            raise InvalidParameterError(
                f"{part.strip()!r} in {text!r} is no parameter=value", field=field
            )
        if key in parameters:
            raise InvalidParameterError(f"{key} is given twice in {text!r}", field=field)
        parameters[key] = value
    return name.replace("-", "_"), parameters


def method(text: str, kind: MethodKind) -> Method:
    """A method of a kind, as `str(Method)` writes it; absent parameters stay unset.

    Raises:
        InvalidParameterError: As `parse`; an unknown method or parameter, or a value that
            the parameter does not take.
    """
    family = of_kind(kind)
    name, parameters = typed(text, family)
    return Method(name, family.checked(name, parameters))


def metric(text: str) -> tuple[str, dict[str, ParameterValue]]:
    """Name and parameters of a metric, for `Metric.of`; errors as `method`."""
    return typed(text, METRICS)


def typed(text: str, family: Family) -> tuple[str, dict[str, ParameterValue]]:
    """Name and parameters of one specification, each value of its parameter's type.

    Unknown names keep their texts: `Family.fill` refuses them.

    Raises:
        InvalidParameterError: As `parse`; or a text that is no value of the type.
    """
    name, parameters = parse(text, field=family.field)
    fields = {field.name: field for field in family.known().get(name, ())}
    values: dict[str, ParameterValue] = {}
    for parameter, given in parameters.items():
        if parameter not in fields:
            values[parameter] = given
            continue
        try:
            values[parameter] = reader(fields[parameter])(given)
        except ValueError as error:
            raise InvalidParameterError(
                f"{parameter}: {error}", field=f"{family.field}.{name}.{parameter}"
            ) from error
    return name, values


def reader(field: ParameterField) -> Callable[[str], Any]:
    """What turns text into a parameter's value; its ValueError says what is wrong."""
    readers: dict[str, Callable[[str], Any]] = {
        "int": int,
        "float": float,
        "string": str,
        "enum": str,
        "bool": _bool,
        "ints": _ints,
        "floats": _floats,
        "box": box,
    }
    return readers[field.type]


def _bool(text: str) -> bool:
    if text.lower() not in ("true", "false"):
        raise ValueError(f"true or false, not {text!r}")
    return text.lower() == "true"


def _ints(text: str) -> list[int]:
    return [int(part) for part in text.split(",")]


def _floats(text: str) -> list[float]:
    return [float(part) for part in text.split(",")]


def box(text: str) -> Box:
    """A region written as "left,top,right,bottom"."""
    parts = text.split(",")
    if len(parts) != 4:
        raise ValueError(f"{text!r} is not left,top,right,bottom")
    return Box(*map(float, parts))


# What argparse calls them in its complaints.
_ints.__name__ = _floats.__name__ = "list of numbers"
