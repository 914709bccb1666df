"""Changes of the contract that a peer of the other version would notice.

Fields, enum values and calls may be added. What is there keeps its number, name and type; a
field or a value that is removed leaves its number and name reserved.
"""

from __future__ import annotations

from collections.abc import Iterator

from google.protobuf import descriptor_pb2

from tests.compat.descriptors import FileSet, own_files

_Message = descriptor_pb2.DescriptorProto
_Field = descriptor_pb2.FieldDescriptorProto
_Enum = descriptor_pb2.EnumDescriptorProto
_Service = descriptor_pb2.ServiceDescriptorProto


def breaking_changes(old: FileSet, new: FileSet) -> list[str]:
    """What is wrong with `new` for those who speak `old`, a line each."""
    messages, enums, services = _all(new)
    old_messages, old_enums, old_services = _all(old)
    return [
        *(
            f"{name}{problem}"
            for name, message in old_messages.items()
            for problem in _message_changes(message, messages.get(name))
        ),
        *(
            f"{name}{problem}"
            for name, enum in old_enums.items()
            for problem in _enum_changes(enum, enums.get(name))
        ),
        *(
            f"{name}{problem}"
            for name, service in old_services.items()
            for problem in _service_changes(service, services.get(name))
        ),
    ]


def _all(files: FileSet) -> tuple[dict[str, _Message], dict[str, _Enum], dict[str, _Service]]:
    messages: dict[str, _Message] = {}
    enums: dict[str, _Enum] = {}
    services: dict[str, _Service] = {}

    def add(scope: str, message: _Message) -> None:
        name = f"{scope}.{message.name}"
        messages[name] = message
        enums.update({f"{name}.{enum.name}": enum for enum in message.enum_type})
        for nested in message.nested_type:
            add(name, nested)

    for file in own_files(files):
        for message in file.message_type:
            add(file.package, message)
        enums.update({f"{file.package}.{enum.name}": enum for enum in file.enum_type})
        services.update({f"{file.package}.{made.name}": made for made in file.service})
    return messages, enums, services


def _message_changes(old: _Message, new: _Message | None) -> Iterator[str]:
    if new is None:
        yield ": the message is gone"
        return
    fields = {field.number: field for field in new.field}
    for field in old.field:
        if field.number in fields:
            yield from _field_changes(old, field, new, fields[field.number])
        elif any(held.start <= field.number < held.end for held in new.reserved_range):
            if field.name not in new.reserved_name:
                yield f".{field.name}: removed, and its name is not reserved"
        else:
            yield f".{field.name}: removed or renumbered, and {field.number} is not reserved"
    for held in old.reserved_range:
        for number in fields.keys() & set(range(held.start, min(held.end, held.start + 1000))):
            yield f".{fields[number].name}: takes the reserved number {number}"


def _field_changes(old_in: _Message, old: _Field, new_in: _Message, new: _Field) -> Iterator[str]:
    for what in ("name", "type", "type_name", "label", "proto3_optional"):
        before, after = getattr(old, what), getattr(new, what)
        if before != after:
            yield f".{old.name}: {what} was {before!r}, now {after!r}"
    if (before := _choice(old_in, old)) != (after := _choice(new_in, new)):
        yield f".{old.name}: oneof was {before!r}, now {after!r}"


def _choice(message: _Message, field: _Field) -> str:
    if not field.HasField("oneof_index") or field.proto3_optional:
        return ""
    return message.oneof_decl[field.oneof_index].name


def _enum_changes(old: _Enum, new: _Enum | None) -> Iterator[str]:
    if new is None:
        yield ": the enum is gone"
        return
    numbers = {value.name: value.number for value in new.value}
    for value in old.value:
        if value.name in numbers:
            if numbers[value.name] != value.number:
                yield f".{value.name}: number was {value.number}, now {numbers[value.name]}"
        elif not any(held.start <= value.number <= held.end for held in new.reserved_range):
            yield f".{value.name}: removed or renamed, and {value.number} is not reserved"
        elif value.name not in new.reserved_name:
            yield f".{value.name}: removed, and its name is not reserved"


def _service_changes(old: _Service, new: _Service | None) -> Iterator[str]:
    if new is None:
        yield ": the service is gone"
        return
    methods = {method.name: method for method in new.method}
    for method in old.method:
        if method.name not in methods:
            yield f".{method.name}: the call is gone"
            continue
        for what in ("input_type", "output_type", "client_streaming", "server_streaming"):
            before, after = getattr(method, what), getattr(methods[method.name], what)
            if before != after:
                yield f".{method.name}: {what} was {before!r}, now {after!r}"
