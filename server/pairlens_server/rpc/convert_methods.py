"""Methods with their parameters, from the contract's messages and back.

A method's dataclass and its message have the same fields by name, so that none needs
code of its own here; tests compare the two.
"""

from __future__ import annotations

from dataclasses import fields
from enum import Enum
from functools import cache
from types import MappingProxyType
from typing import Any, TypeVar, get_args, get_type_hints

import numpy as np
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

from pairlens.rendering import Box
from pairlens.v1 import common_pb2, methods_pb2
from pairlens_server.errors import InvalidParameterError
from pairlens_server.methods.base import ExplanationMethod, Method
from pairlens_server.methods.catalogue import EXPLANATION_METHODS, PAIR_METHODS, PairMethod
from pairlens_server.rpc.enums import from_proto, to_proto

Kind = TypeVar("Kind", bound=Method)

_EXPLANATIONS = MappingProxyType({method.name: method for method in EXPLANATION_METHODS})
_PAIRS = MappingProxyType({method.name: method for method in PAIR_METHODS})


def explanation_method(message: methods_pb2.ExplanationMethod) -> ExplanationMethod:
    """The method of an Explain request, its parameters not yet resolved.

    Raises:
        InvalidParameterError: None is chosen, or a parameter has a value we do not know.
    """
    return _read(message, _EXPLANATIONS[_chosen(message)])


def pair_method(message: methods_pb2.PairMethod) -> PairMethod:
    """The method of a PairSimilarity request, its parameters not yet resolved.

    Raises:
        InvalidParameterError: None is chosen, or a parameter has a value we do not know.
    """
    return _read(message, _PAIRS[_chosen(message)])


def explanation_message(method: ExplanationMethod) -> methods_pb2.ExplanationMethod:
    """A resolved method of Explain as its message."""
    message = methods_pb2.ExplanationMethod()
    _write(getattr(message, method.name), method)
    return message


def pair_message(method: PairMethod) -> methods_pb2.PairMethod:
    """A resolved method of PairSimilarity as its message."""
    message = methods_pb2.PairMethod()
    _write(getattr(message, method.name), method)
    return message


def _chosen(message: methods_pb2.ExplanationMethod | methods_pb2.PairMethod) -> str:
    chosen: str | None = message.WhichOneof("method")
    if chosen is not None:
        return chosen
    # Not the default: what a newer client chose looks unset here, and it would get
    # another map than it asked for.
    known = ", ".join(field.name for field in message.DESCRIPTOR.fields)
    raise InvalidParameterError(
        f"method holds none of {known}; leave it out for the model's default", field="method"
    )


@cache
def _enums(kind: type[Method]) -> dict[str, type[Enum]]:
    """Enum of each field of a method that has one."""
    hints = get_type_hints(kind)
    found: dict[str, type[Enum]] = {}
    for field in fields(kind):
        hint = hints[field.name]
        for candidate in (hint, *get_args(hint)):
            if isinstance(candidate, type) and issubclass(candidate, Enum):
                found[field.name] = candidate
    return found


def _read(container: Message, kind: type[Kind]) -> Kind:
    message = getattr(container, kind.name)
    given: dict[str, Any] = {}
    for field in message.DESCRIPTOR.fields:
        value = getattr(message, field.name)
        if _is_repeated(field):
            given[field.name] = tuple(value)
        elif field.enum_type is not None:
            enum = _wrapper(field)
            path = f"method.{kind.name}.{field.name}"
            member = from_proto(enum, value, _enums(kind)[field.name], path)
            if member is not None:
                given[field.name] = member
        elif not field.has_presence or message.HasField(field.name):
            given[field.name] = _plain(value)
    return kind(**given)


def _write(message: Any, method: Method) -> None:
    message.SetInParent()  # a method without parameters is a choice, too
    for field in message.DESCRIPTOR.fields:
        value = getattr(method, field.name)
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


def _wrapper(field: FieldDescriptor) -> Any:
    """The module-level wrapper of a field's enum."""
    assert field.enum_type is not None
    name = field.enum_type.name
    return getattr(methods_pb2, name, None) or getattr(common_pb2, name)


def _plain(value: Any) -> Any:
    """A scalar as it was meant, or a box."""
    if isinstance(value, common_pb2.Box):
        return Box(value.left, value.top, value.right, value.bottom)
    # The shortest decimal of a float32: 0.9 is 0.9 and not 0.89999998.
    return float(str(np.float32(value))) if isinstance(value, float) else value
