"""Inputs that are right, for each reader: where guided fuzzing begins."""

from __future__ import annotations

import hashlib
import io
import pickle
from collections.abc import Callable
from pathlib import Path
from random import Random

import torch
import yaml
from safetensors.torch import save

from pairlens_server.cache.codec import encode
from pairlens_server.cache.packing import Precision, pack
from tests.fuzz import targets
from tests.fuzz.cases import METHODS, case_of
from tests.fuzz.pictures import bombs, whole
from tests.server_process import MODELS

_SERVER = Path(__file__).parents[2]


def _pictures() -> list[bytes]:
    return [*whole(), *(bomb for bomb in bombs() if len(bomb) < 20_000)]


def _cached() -> list[bytes]:
    tensors = (torch.zeros(3, 2), torch.arange(5), torch.linspace(-9, 9, 5000), torch.zeros(0, 4))
    key = "pairlens:v1:fuzz"
    values = [encode(key, pack(tensor, Precision.HALF)) for tensor in tensors]
    values += [encode(key, b"a file"), encode(key, b"")]
    return [first + value for value in values for first in (b"\0", b"\xff")]


class _Bomb:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return exec, ("raise SystemExit('the pickle ran')",)


def _checkpoints() -> list[bytes]:
    state = {"a.weight": torch.arange(6.0).reshape(2, 3), "b": torch.ones(1, dtype=torch.int64)}
    files = [b"\0" + save(state)]
    for content in (state, {"model": state}, {"args": _Bomb(), "model": state}):
        for is_zip in (True, False):
            file = io.BytesIO()
            torch.save(content, file, _use_new_zipfile_serialization=is_zip)
            files.append(b"\1" + file.getvalue())
    return [*files, b"\1" + pickle.dumps(_Bomb())]


def _tokens() -> list[bytes]:
    digest = hashlib.sha256(b"a-token-of-operators").hexdigest()
    entries = [
        {"name": "retrieval", "token": "a-token-of-retrieval"},
        {"name": "ops", "sha256": digest, "admin": True},
    ]
    return [yaml.safe_dump(entries).encode(), b"- {name: a, token: 'a-token-of-indexers'}\n"]


def _models_files() -> list[bytes]:
    example = (_SERVER / "deploy" / "models.example.yaml").read_bytes()
    return [example, *(yaml.safe_dump({"models": [model]}).encode() for model in MODELS)]


def _config_files() -> list[bytes]:
    settings = {
        "listen": "0.0.0.0:50051",
        "max_batch": 8,
        "redis_url": "rediss://:secret@redis:6379/0",
        "cache_precision": "half",
        "latency_buckets_s": "0.01,0.1,1",
        "tls_cert_file": "tls.crt",
        "tls_key_file": "tls.key",
        "keep_memory": False,
    }
    return [yaml.safe_dump({name: value}).encode() for name, value in settings.items()] + [
        yaml.safe_dump(settings).encode()
    ]


def _requests() -> list[bytes]:
    kinds = [kind.DESCRIPTOR.full_name for kind, _ in targets.COMMANDS]
    random, found = Random(1), []
    while len(found) < 200:
        case = case_of(random)
        name = METHODS[case.path].input_type.full_name
        if name in kinds and len(case.data) < 4000:
            found.append(bytes((kinds.index(name),)) + case.data)
    return found


CORPUS: dict[str, Callable[[], list[bytes]]] = {
    "picture": _pictures,
    "cached": _cached,
    "checkpoint": _checkpoints,
    "tokens": _tokens,
    "models_file": _models_files,
    "config_file": _config_files,
    "request": _requests,
}
