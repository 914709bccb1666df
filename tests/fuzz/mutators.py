"""How the inputs of each reader are changed so that they get past its first checks."""

from __future__ import annotations

import copy
import datetime
import io
import json
import struct
import zipfile
from collections.abc import Callable
from random import Random
from typing import Any

import yaml
from google.protobuf.message import DecodeError

from tests.fuzz.messages import change
from tests.fuzz.pictures import damaged
from tests.fuzz.targets import COMMANDS

Mutator = Callable[[Random, bytes], bytes]

_ODD: tuple[Any, ...] = (
    *(None, True, False, 0, 1, -1, 7, 2**31, 2**63, 10**30, 0.5, -0.0, float("nan"), float("inf")),
    *(
        "",
        " ",
        "a",
        "auto",
        "cuda:0",
        "1",
        "a\nb",
        "\x85",
        "\ud7ff",
        "\U0001f408",
        "x" * 2000,
        "0x",
    ),
    *("/", "../x", "\x00", "0.1,0.2", "redis://:p@h/0", "h:1", "[::1]:1", "vit_tiny_patch16_224"),
    *([], {}, [[]], [{}], {"": 0}, {1: 2}, {None: None}, [1, 2], [0.5, 0.5, 0.5], b"bytes", {"a"}),
    *(datetime.date(2020, 1, 1), datetime.datetime(2020, 1, 1)),
)


def _yaml(random: Random, data: bytes) -> bytes:
    """Another value, key or order somewhere in the tree."""
    try:
        tree = yaml.safe_load(data)
    except Exception:
        return damaged(random, data)
    for _ in range(random.choice((1, 1, 2, 4))):
        tree = _changed(random, tree)
    try:
        return yaml.safe_dump(tree, sort_keys=False).encode("utf-8", "replace")
    except Exception:
        return damaged(random, data)


def _changed(random: Random, tree: Any) -> Any:
    tree = copy.copy(tree)
    deeper = isinstance(tree, dict | list) and tree and random.random() < 0.85
    if not deeper:
        return random.choice(_ODD)
    if isinstance(tree, dict):
        key = random.choice(list(tree))
        kind = random.random()
        if kind < 0.1:
            tree[random.choice(("name", "token", "models", "a b", "x\ny", "é", 7))] = tree[key]
        elif kind < 0.2:
            del tree[key]
        else:
            tree[key] = _changed(random, tree[key])
        return tree
    at = random.randrange(len(tree))
    if random.random() < 0.2:
        return [*tree, tree[at]]
    tree[at] = _changed(random, tree[at])
    return tree


def _request(random: Random, data: bytes) -> bytes:
    """Another value in a field."""
    kind, _ = COMMANDS[data[0] % len(COMMANDS) if data else 0]
    try:
        message = kind.FromString(data[1:])
    except DecodeError:
        return damaged(random, data)
    for _ in range(random.choice((1, 1, 2, 4))):
        change(random, message)
    return data[:1] + bytes(message.SerializeToString())


def _checkpoint(random: Random, data: bytes) -> bytes:
    """A changed pickle or header, in a file that is whole."""
    first, rest = data[:1], data[1:]
    try:
        if rest[:2] == b"PK":
            return first + _rezipped(random, rest)
        (length,) = struct.unpack("<Q", rest[:8])
        header = json.loads(rest[8 : 8 + length])
        text = json.dumps(_changed(random, header), default=str).encode()
        return first + struct.pack("<Q", len(text)) + text + rest[8 + length :]
    except Exception:
        return first + damaged(random, rest)


def _rezipped(random: Random, data: bytes) -> bytes:
    changed = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(changed, "w") as new:
        for name in old.namelist():
            content = old.read(name)
            if name.endswith("data.pkl") or random.random() < 0.1:
                content = damaged(random, content)
            if random.random() > 0.05:
                new.writestr(name, content)
    return changed.getvalue()


MUTATORS: dict[str, Mutator] = {
    "picture": damaged,
    "cached": damaged,
    "checkpoint": _checkpoint,
    "tokens": _yaml,
    "models_file": _yaml,
    "config_file": _yaml,
    "request": _request,
}
