"""Methods and their parameters, read off the contract's descriptors.

A method that is added to `methods.proto` is known here without a line of code.
"""

from __future__ import annotations

import operator
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from google.protobuf.descriptor import Descriptor, EnumDescriptor, FieldDescriptor
from google.protobuf.message import Message

from pairlens.errors import InvalidParameterError
from pairlens.models import Method, MethodKind, ParameterValue
from pairlens.v1 import methods_pb2

_MAX_UINT32 = 2**32 - 1

_CONTAINERS: dict[MethodKind, Descriptor] = {
    MethodKind.EXPLANATION: methods_pb2.ExplanationMethod.DESCRIPTOR,
    MethodKind.PAIR: methods_pb2.PairMethod.DESCRIPTOR,
}


@dataclass(frozen=True)
class ParameterField:
    """A parameter as the contract declares it.

    Attributes:
        name: Of the field.
        type: "int", "bool" or "enum".
        choices: Number of each name of an "enum"; empty otherwise.
    """

    name: str
    type: str
    choices: Mapping[str, int]


def known_methods(kind: MethodKind) -> dict[str, tuple[ParameterField, ...]]:
    """Names and parameters of all methods of a kind, in the contract's order."""
    return {
        method.name: tuple(_parameter(field) for field in method.message_type.fields)
        for method in _CONTAINERS[kind].oneofs_by_name["method"].fields
        if method.message_type is not None
    }


def fill(
    container: Message, kind: MethodKind, method: str, parameters: Mapping[str, object]
) -> None:
    """Write a method with its parameters into an ExplanationMethod or a PairMethod.

    Raises:
        InvalidParameterError: An unknown method or parameter, a value of the wrong
            type or out of the contract's range.
    """
    methods = known_methods(kind)
    if method not in methods:
        raise InvalidParameterError(
            f"unknown method {method!r}; the methods are {', '.join(methods)}", field="method"
        )
    fields = {field.name: field for field in methods[method]}
    message = getattr(container, method)
    message.SetInParent()  # a method without parameters is a choice, too
    for name, value in parameters.items():
        if name not in fields:
            known = f"takes {', '.join(fields)}" if fields else "takes no parameters"
            raise InvalidParameterError(
                f"unknown parameter {name!r}; {method} {known}", field=f"method.{method}.{name}"
            )
        setattr(message, name, _checked(fields[name], value, f"method.{method}.{name}"))


def decode(container: Message) -> Method | None:
    """Read the method that an ExplanationMethod or a PairMethod holds; None when unset."""
    name = container.WhichOneof("method")
    if name is None:
        return None
    message = getattr(container, name)
    arguments: list[tuple[str, ParameterValue]] = []
    for field in message.DESCRIPTOR.fields:
        if field.has_presence and not message.HasField(field.name):
            continue
        value = getattr(message, field.name)
        if field.enum_type is not None:
            if value == 0:
                continue
            value = enum_name(field.enum_type, value)
        arguments.append((field.name, value))
    return Method(name, tuple(arguments))


def enum_choices(enum: EnumDescriptor) -> dict[str, int]:
    """Numbers of an enum's lower-case names without prefix ("strict"); not the unspecified."""
    return {
        enum_name(enum, value.number): value.number for value in enum.values if value.number != 0
    }


def enum_name(enum: EnumDescriptor, number: int) -> str:
    """Lower-case name without prefix; the number itself when a newer server has added it."""
    if number not in enum.values_by_number:
        return str(number)
    # The prefix is that of the zero value, which the style guide fixes as _UNSPECIFIED.
    prefix = enum.values_by_number[0].name.removesuffix("UNSPECIFIED")
    return enum.values_by_number[number].name.removeprefix(prefix).lower()


def _parameter(field: FieldDescriptor) -> ParameterField:
    if field.enum_type is not None:
        return ParameterField(field.name, "enum", MappingProxyType(enum_choices(field.enum_type)))
    kind = "bool" if field.type == FieldDescriptor.TYPE_BOOL else "int"
    return ParameterField(field.name, kind, MappingProxyType({}))


def _checked(parameter: ParameterField, value: object, field: str) -> int | bool:
    """The value as its proto field takes it."""
    if parameter.type == "enum":
        number = parameter.choices.get(value) if isinstance(value, str) else None
        if number is None:
            expected = f"one of {', '.join(parameter.choices)}"
            raise _wrong(parameter, expected, value, field)
        return number
    if parameter.type == "bool":
        if not isinstance(value, bool):
            raise _wrong(parameter, "True or False", value, field)
        return value
    number = as_index(value)
    if number is None:
        raise _wrong(parameter, f"an integer from 0 to {_MAX_UINT32}", value, field)
    return number


def as_index(value: object) -> int | None:
    """The value as a uint32; None when it is none (a bool is none either)."""
    if isinstance(value, bool):
        return None
    try:
        number = operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        return None
    return number if 0 <= number <= _MAX_UINT32 else None


def _wrong(
    parameter: ParameterField, expected: str, value: object, field: str
) -> InvalidParameterError:
    return InvalidParameterError(f"{parameter.name} is {expected}; not {value!r}", field=field)
