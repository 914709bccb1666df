"""Methods, metrics and their parameters, read off the contract's descriptors.

A method that is added to `methods.proto`, or a metric to `metrics.proto`, is known here
without a line of code.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, TypeAlias

import numpy as np
from google.protobuf.descriptor import Descriptor, EnumDescriptor, FieldDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

from pairlens import _values
from pairlens.errors import InvalidParameterError
from pairlens.models import Method, MethodKind, ParameterValue
from pairlens.rendering import Box
from pairlens.v1 import common_pb2, methods_pb2, metrics_pb2

_SCALARS = {
    FieldDescriptor.TYPE_UINT32: "int",
    FieldDescriptor.TYPE_FLOAT: "float",
    FieldDescriptor.TYPE_BOOL: "bool",
    FieldDescriptor.TYPE_STRING: "string",
}
Arguments: TypeAlias = "tuple[tuple[str, ParameterValue], ...]"


@dataclass(frozen=True)
class ParameterField:
    """A parameter as the contract declares it.

    Attributes:
        name: Of the field.
        type: "int", "float", "bool", "string", "enum", "ints", "floats" or "box".
        choices: Number of each name of an "enum"; empty otherwise.
    """

    name: str
    type: str
    choices: Mapping[str, int]


@dataclass(frozen=True)
class Family:
    """Messages of which one is chosen, by its field in a oneof.

    Attributes:
        container: The message with the oneof.
        noun: What is chosen, which is also the oneof's name: "method" or "metric".
        field: Where requests hold it, for messages.
    """

    container: Descriptor
    noun: str
    field: str

    def known(self) -> dict[str, tuple[ParameterField, ...]]:
        """Names and parameters of all that can be chosen, in the contract's order."""
        fields = self.container.oneofs_by_name[self.noun].fields
        return {
            chosen.name: tuple(_parameter(field) for field in chosen.message_type.fields)
            for chosen in sorted(fields, key=lambda chosen: chosen.number)
            if chosen.message_type is not None
        }

    def fill(self, container: Message, name: str, parameters: Mapping[str, object]) -> None:
        """Write a choice with its parameters into the container's message.

        Raises:
            InvalidParameterError: An unknown name or parameter, a value of the wrong
                type or out of the contract's range.
        """
        known = self.known()
        if name not in known:
            raise InvalidParameterError(
                f"unknown {self.noun} {name!r}; the {self.noun}s are {', '.join(known)}",
                field=self.field,
            )
        fields = {field.name: field for field in known[name]}
        message = getattr(container, name)
        message.SetInParent()  # a method without parameters is a choice, too
        for parameter, value in parameters.items():
            where = f"{self.field}.{name}.{parameter}"
            if parameter not in fields:
                raise InvalidParameterError(_unknown(parameter, name, known), field=where)
            _write(message, fields[parameter], value, where)

    def read(self, container: Message) -> tuple[str, Arguments] | None:
        """Name and arguments of what a container's message holds; None when unset."""
        name = container.WhichOneof(self.noun)
        if name is None:
            return None
        message = getattr(container, name)
        arguments: list[tuple[str, ParameterValue]] = []
        for field in message.DESCRIPTOR.fields:
            if field.has_presence and not message.HasField(field.name):
                continue
            value = _read(field, getattr(message, field.name))
            if value is not None:
                arguments.append((field.name, value))
        return name, tuple(arguments)

    def checked(self, name: str, parameters: Mapping[str, object]) -> Arguments:
        """The arguments as answers hold them, in the contract's order.

        Raises:
            InvalidParameterError: As `fill`.
        """
        container = GetMessageClass(self.container)()
        self.fill(container, name, parameters)
        read = self.read(container)
        assert read is not None  # it was filled
        return read[1]


EXPLANATIONS = Family(methods_pb2.ExplanationMethod.DESCRIPTOR, "method", "method")
PAIRS = Family(methods_pb2.PairMethod.DESCRIPTOR, "method", "method")
METRICS = Family(metrics_pb2.Metric.DESCRIPTOR, "metric", "metrics")
_OF_KIND = {MethodKind.EXPLANATION: EXPLANATIONS, MethodKind.PAIR: PAIRS}


def of_kind(kind: MethodKind) -> Family:
    """The family of the methods of a kind."""
    return _OF_KIND[kind]


def known_methods(kind: MethodKind) -> dict[str, tuple[ParameterField, ...]]:
    """Names and parameters of all methods of a kind, in the contract's order."""
    return of_kind(kind).known()


def fill(
    container: Message, kind: MethodKind, method: str, parameters: Mapping[str, object]
) -> None:
    """Write a method with its parameters into an ExplanationMethod or a PairMethod.

    Raises:
        InvalidParameterError: As `Family.fill`.
    """
    of_kind(kind).fill(container, method, parameters)


def decode(container: methods_pb2.ExplanationMethod | methods_pb2.PairMethod) -> Method | None:
    """Read the method that an ExplanationMethod or a PairMethod holds; None when unset."""
    # Which of the two it is does not matter: both call their oneof "method".
    read = EXPLANATIONS.read(container)
    return None if read is None else Method(*read)


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


def _unknown(parameter: str, name: str, known: Mapping[str, tuple[ParameterField, ...]]) -> str:
    """What a choice takes in the place of a parameter, and which choices take that."""
    takers = [one for one, fields in known.items() if parameter in (field.name for field in fields)]
    takes = f"takes {', '.join(field.name for field in known[name])}" if known[name] else ""
    return f"unknown parameter {parameter!r}; {name} {takes or 'takes no parameters'}" + (
        f"; {parameter} is of {', '.join(takers)}" if takers else ""
    )


def _parameter(field: FieldDescriptor) -> ParameterField:
    if field.enum_type is not None:
        return ParameterField(field.name, "enum", MappingProxyType(enum_choices(field.enum_type)))
    if field.message_type is not None:  # the contract has parameters of no other message
        assert field.message_type.full_name == common_pb2.Box.DESCRIPTOR.full_name
        return ParameterField(field.name, "box", MappingProxyType({}))
    kind = _SCALARS[field.type]
    # has_presence, not is_repeated: protobuf 5 does not have that yet.
    listed = kind in ("int", "float") and not field.has_presence
    return ParameterField(field.name, f"{kind}s" if listed else kind, MappingProxyType({}))


def _write(message: Message, parameter: ParameterField, value: object, field: str) -> None:
    """Set a field of the message of a method or a metric.

    Raises:
        InvalidParameterError: The value is none that the field takes.
    """
    if parameter.type == "box":
        box = _values.box(value)
        if box is None:
            raise _wrong(parameter, value, field)
        getattr(message, parameter.name).CopyFrom(
            common_pb2.Box(left=box.left, top=box.top, right=box.right, bottom=box.bottom)
        )
    elif parameter.type in ("ints", "floats"):
        read = _values.indices if parameter.type == "ints" else _values.reals
        numbers = read(value)
        if numbers is None:
            raise _wrong(parameter, value, field)
        getattr(message, parameter.name).extend(numbers)
    else:
        checked = _scalar(parameter, value)
        if checked is None:
            raise _wrong(parameter, value, field)
        setattr(message, parameter.name, checked)


def _scalar(parameter: ParameterField, value: object) -> int | float | bool | str | None:
    """The value as its proto field takes it; None when it does not."""
    if parameter.type == "enum":
        return parameter.choices.get(value) if isinstance(value, str) else None
    if parameter.type == "bool":
        return value if isinstance(value, bool) else None
    if parameter.type == "string":
        return value if isinstance(value, str) else None
    return _values.real(value) if parameter.type == "float" else _values.index(value)


def _read(field: FieldDescriptor, value: Any) -> ParameterValue | None:
    """The value of a field that is set; None where unset and empty are the same."""
    if field.enum_type is not None:
        return enum_name(field.enum_type, value) if value else None
    parameter = _parameter(field)
    if parameter.type == "box":
        return Box(value.left, value.top, value.right, value.bottom)
    if parameter.type == "ints":
        return tuple(value) or None
    if parameter.type == "floats":
        return tuple(map(_shortest, value)) or None
    scalar: ParameterValue = _shortest(value) if parameter.type == "float" else value
    return scalar


def _shortest(value: float) -> float:
    """The shortest number that is the same float32: 0.3 comes back as 0.3."""
    return float(str(np.float32(value)))


def _wrong(parameter: ParameterField, value: object, field: str) -> InvalidParameterError:
    expected = {
        "enum": f"one of {', '.join(parameter.choices)}",
        "bool": "True or False",
        "string": "a text",
        "int": f"an integer from 0 to {_values.MAX_UINT32}",
        "ints": f"a list of integers from 0 to {_values.MAX_UINT32}",
        "float": "a finite number",
        "floats": "a list of finite numbers",
        "box": "a Box or (left, top, right, bottom) with left < right and top < bottom",
    }[parameter.type]
    return InvalidParameterError(f"{parameter.name} is {expected}; not {value!r}", field=field)
