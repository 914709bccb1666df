"""Parameters of methods and metrics, from the contract's messages and back.

A dataclass and its message have the same fields by name, so that none needs code of its own
here; tests compare the two.
"""

from __future__ import annotations

from dataclasses import fields
from enum import Enum
from functools import cache
from typing import Any, ClassVar, Protocol, TypeVar, get_args, get_type_hints

import numpy as np
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

from pairlens.rendering import Box
from pairlens.v1 import common_pb2, methods_pb2, metrics_pb2
from pairlens_server.errors import InvalidParameterError
from pairlens_server.rpc.enums import from_proto, to_proto

MAX_VALUES = 10_000
"""Of one list; each is looked at by itself, while other calls wait."""


class Named(Protocol):
    """A dataclass with parameters."""

    name: ClassVar[str]
    __dataclass_fields__: ClassVar[dict[str, Any]]


Kind = TypeVar("Kind", bound=Named)


@cache
def _enums(kind: type[Named]) -> dict[str, type[Enum]]:
    """Enum of each field that has one."""
    hints = get_type_hints(kind)
    found: dict[str, type[Enum]] = {}
    for field in fields(kind):
        hint = hints[field.name]
        for candidate in (hint, *get_args(hint)):
            if isinstance(candidate, type) and issubclass(candidate, Enum):
                found[field.name] = candidate
    return found


def read_parameters(container: Message, kind: type[Kind], field: str) -> Kind:
    """The value that a container's chosen message holds, its parameters not yet resolved.

    Args:
        container: Has a field named as the kind.
        kind: What to make.
        field: Path of the container in the request, for errors.

    Raises:
        InvalidParameterError: An enum has a value that we do not know, or a list too many.
    """
    message = getattr(container, kind.name)
    given: dict[str, Any] = {}
    for parameter in message.DESCRIPTOR.fields:
        name, value = parameter.name, getattr(message, parameter.name)
        if _is_repeated(parameter):
            if len(value) > MAX_VALUES:
                raise InvalidParameterError(
                    f"{len(value)} values; {name} has at most {MAX_VALUES}",
                    field=f"{field}.{kind.name}.{name}",
                )
            given[name] = tuple(map(_plain, value))
        elif parameter.enum_type is not None:
            path = f"{field}.{kind.name}.{name}"
            member = from_proto(_wrapper(parameter), value, _enums(kind)[name], path)
            if member is not None:
                given[name] = member
        elif not parameter.has_presence or message.HasField(name):
            given[name] = _plain(value)
    return kind(**given)


def write_parameters(message: Any, value_of: Named) -> None:
    """Write a resolved value into its message."""
    message.SetInParent()  # one without parameters is a choice, too
    for field in message.DESCRIPTOR.fields:
        value = getattr(value_of, field.name)
        if value is None:
            continue
        if _is_repeated(field):
            getattr(message, field.name).extend(value)
        elif field.enum_type is not None:
            setattr(message, field.name, to_proto(_wrapper(field), value))
        elif isinstance(value, Box):
            box = common_pb2.Box(
                left=value.left, top=value.top, right=value.right, bottom=value.bottom
            )
            getattr(message, field.name).CopyFrom(box)
        else:
            setattr(message, field.name, value)


def _is_repeated(field: Any) -> bool:
    # protobuf before 6.31 has labels, 7 has none.
    repeated = getattr(field, "is_repeated", None)
    return bool(field.label == field.LABEL_REPEATED if repeated is None else repeated)


@cache
def _wrapper(field: FieldDescriptor) -> Any:
    """The module-level wrapper of a field's enum."""
    assert field.enum_type is not None
    name = field.enum_type.name
    modules = (methods_pb2, metrics_pb2, common_pb2)
    return next(getattr(module, name) for module in modules if hasattr(module, name))


def _plain(value: Any) -> Any:
    """A scalar as it was meant, or a box."""
    if isinstance(value, common_pb2.Box):
        return Box(value.left, value.top, value.right, value.bottom)
    # The shortest decimal of a float32: 0.9 is 0.9 and not 0.89999998.
    return float(str(np.float32(value))) if isinstance(value, float) else value
