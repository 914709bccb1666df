"""Messages of the contract with anything in their fields, by their descriptors."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from random import Random
from typing import Any

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

from pairlens.v1 import common_pb2
from tests.fuzz.pictures import picture, whole

MODELS = ("tiny-vit", "tiny-vit-cls", "tiny-resnet")
"""Served by the server that is fuzzed."""

_MAX_DEPTH = 5
_TEXTS = (
    *("", " ", "a", "blocks.1", "layer4", "norm", "tiny", "dog", "Größe 猫 \U0001f408"),
    *("\x00", "../../etc/passwd", "%s%n", "'; --", "a" * 3000, "\u202e", "x" * 20_000),
)
_NUMBERS = (0, 1, 2, 3, 5, 7, 16, 64, 255, 256, 1000, 65_536, 2**31 - 1, 2**31, 2**32 - 1, 2**63)
_FLOATS = (
    *(0.0, -0.0, 1.0, 0.5, -1.0, 2.0, 100.0, 1e-45, 1e-10, 3.4e38, -3.4e38),
    *(float("inf"), float("-inf"), float("nan")),
)
_F = FieldDescriptor


def fresh(random: Random, kind: type[Message], depth: int = 0) -> Message:
    """A message with random fields set."""
    message = kind()
    special = _SPECIAL.get(message.DESCRIPTOR.full_name)
    if special is not None and random.random() < 0.9:
        special(random, message)
        return message
    if depth < _MAX_DEPTH:
        for field in message.DESCRIPTOR.fields:
            if random.random() < 0.4:
                _set(random, message, field, depth)
    return message


def change(random: Random, message: Message) -> None:
    """Change, clear or set one field, at any depth."""
    fields = message.DESCRIPTOR.fields
    if not fields:
        return
    held = [f for f, _ in message.ListFields() if f.message_type is not None]
    # Down into what is there, most of the time.
    if held and random.random() < 0.7:
        field = random.choice(held)
        value = getattr(message, field.name)
        if field.is_repeated:
            value = random.choice(value)
        change(random, value)
        return
    field = random.choice(fields)
    if random.random() < 0.25:
        message.ClearField(field.name)
    else:
        _set(random, message, field, 0)


def _set(random: Random, message: Message, field: FieldDescriptor, depth: int) -> None:
    if not field.is_repeated:
        if field.message_type is None:
            setattr(message, field.name, _scalar(random, field))
        else:
            inner = getattr(message, field.name)
            inner.CopyFrom(fresh(random, type(inner), depth + 1))
            # So that an empty message counts as there.
            inner.SetInParent()
        return
    values = getattr(message, field.name)
    for _ in range(random.choice((0, 1, 1, 2, 3, 9, 40 if depth < 2 else 2))):
        if field.message_type is None:
            values.append(_scalar(random, field))
        else:
            inner = values.add()
            inner.CopyFrom(fresh(random, type(inner), depth + 1))


def _scalar(random: Random, field: FieldDescriptor) -> Any:
    if field.name == "model" and random.random() < 0.8:
        return random.choice(MODELS)
    kind = field.cpp_type
    if kind == _F.CPPTYPE_ENUM:
        return random.choice((*(v.number for v in field.enum_type.values), 99, -1, 2**31 - 1))
    if kind == _F.CPPTYPE_BOOL:
        return random.random() < 0.5
    if kind == _F.CPPTYPE_STRING:
        if field.type == _F.TYPE_BYTES:
            return random.randbytes(random.choice((0, 1, 31, 32, 33, 1000)))
        return random.choice(_TEXTS)
    if kind in (_F.CPPTYPE_FLOAT, _F.CPPTYPE_DOUBLE):
        return random.choice((*_FLOATS, random.uniform(-1, 2), random.uniform(0, 60)))
    return _integer(random, kind)


def _integer(random: Random, kind: int) -> int:
    number = random.choice((*_NUMBERS, random.randrange(12), random.randrange(12)))
    bits, signed = _INTEGERS[kind]
    if signed:
        number = random.choice((number, number, -number))
        return max(-(2 ** (bits - 1)), min(2 ** (bits - 1) - 1, number))
    return min(2**bits - 1, number)


_INTEGERS = {
    _F.CPPTYPE_INT32: (32, True),
    _F.CPPTYPE_INT64: (64, True),
    _F.CPPTYPE_UINT32: (32, False),
    _F.CPPTYPE_UINT64: (64, False),
}


def _image(random: Random, message: Any) -> None:
    if random.random() < 0.8:
        message.inline = picture(random)
    else:
        _digest(random, message.digest)


def _digest(random: Random, message: Any) -> None:
    data = random.choice(whole())
    message.sha256 = hashlib.sha256(data).digest()
    message.size_bytes = len(data)
    if random.random() < 0.3:
        message.sha256 = random.randbytes(random.choice((0, 31, 32, 32, 33)))
    if random.random() < 0.3:
        message.size_bytes = random.choice((0, 1, 2**63, 2**64 - 1, len(data) + 1))


_ITEM_BYTES = {1: 4, 2: 2, 3: 1, 4: 8, 5: 1}


def _tensor(random: Random, message: Any) -> None:
    """Whose shape and data fit each other, most of the time."""
    message.dtype = random.choice((*_ITEM_BYTES, 1, 1, 1, 5, 5, 0, 77))
    shapes = ((4, 6), (2, 3), (24, 24), (32, 48), (1,), (6,), (1, 6), (3, 6), (), (0, 4), (2, 2, 2))
    shape = list(random.choice(shapes))
    if random.random() < 0.15:
        shape = [random.choice((0, -1, 1, 2**31, 2**32, 2**62, 2**63 - 1)) for _ in range(3)]
    message.shape.extend(shape)
    length = _ITEM_BYTES.get(message.dtype, 4)
    for size in shape:
        length = min(length * max(size, 0), 10_000)
    message.data = random.randbytes(length)
    # Random bytes hold floats that are none.
    if message.dtype == common_pb2.DATA_TYPE_FLOAT32 and random.random() < 0.7:
        message.data = b"\x00\x00\x80\x3f" * (length // 4)
    if message.dtype == common_pb2.DATA_TYPE_BOOL and random.random() < 0.7:
        message.data = bytes(byte & 1 for byte in message.data)
    if random.random() < 0.1:
        message.data = message.data[: random.randrange(length + 1)]


_SPECIAL: dict[str, Callable[[Random, Any], None]] = {
    "pairlens.v1.Image": _image,
    "pairlens.v1.Digest": _digest,
    "pairlens.v1.Tensor": _tensor,
}
