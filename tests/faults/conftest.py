"""Three servers and two Redis, started at once and shared by all tests of this folder."""

from __future__ import annotations

import signal
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.faults.calls import Caller
from tests.redis_server import RedisProcess, free_port, redis_server
from tests.server_process import (
    LABELS,
    MODELS,
    STOP_TIMEOUT_S,
    ServerProcess,
    server_process,
)

QUEUE = 66
"""Of the first replica, in forward passes: one full call, and a little more."""

# Every call reads Redis, since nothing is kept in memory; a model computes the same bits for a
# picture only in batches of the same size.
_SHAKEN = ("--cache-bytes", "0", "--max-batch", "1")
_FIRST = ("--max-queued", str(QUEUE), "--max-batch", "4", "--probe-chunk", "4")

_TIMEOUT_MS = 50


def _named(*names: str) -> list[dict[str, Any]]:
    return [model for model in MODELS if model["name"] in names]


def _like(name: str, new_name: str, **fields: Any) -> dict[str, Any]:
    (model,) = _named(name)
    return {**model, "name": new_name, **fields}


def _disputed(seed: int, resize: str) -> list[dict[str, Any]]:
    """Models that the replicas have under one name, and that are not the same."""
    preprocessing = {"size": [32, 48], "resize": resize}
    return [
        _like("tiny-vit-cls", "other-weights", seed=seed),
        _like("tiny-vit-cls", "other-preprocessing", preprocessing=preprocessing),
    ]


# A batch of four takes some tens of milliseconds.
_SLOW = {
    "name": "slow",
    "architecture": "vit_tiny_patch16_224",
    "architecture_options": {"depth": 4},
    "random_weights": True,
    "seed": 1,
    "device": "cpu",
    "classes": 5,
    "preprocessing": {"size": [160, 160], "resize": "stretch"},
}


@dataclass(frozen=True)
class Fleet:
    """What the tests of this folder run against.

    Attributes:
        shaken: A server whose Redis may fail, and had not been started when the server was.
        shaken_redis: Its Redis, not started yet.
        first, second: Replicas, started with the same Redis.
    """

    shaken: ServerProcess
    shaken_redis: RedisProcess
    first: ServerProcess
    second: ServerProcess


def _models_file(folder: Path, models: Sequence[dict[str, Any]]) -> Path:
    folder.mkdir()
    (folder / "labels.txt").write_text("\n".join(LABELS) + "\n", encoding="utf-8")
    path = folder / "models.yaml"
    path.write_text(yaml.safe_dump({"models": list(models)}), encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    folder = tmp_path_factory.mktemp("fleet")
    common = _named("tiny-vit", "tiny-vit-cls", "tiny-resnet")
    with ExitStack() as stack:
        shared = stack.enter_context(redis_server(folder / "redis"))
        absent = RedisProcess(folder / "shaken-redis", free_port())
        stack.callback(absent.stop)

        def start(name: str, models: list[Any], redis: RedisProcess, *flags: str) -> ServerProcess:
            flags += ("--redis-url", redis.url, "--redis-timeout-ms", str(_TIMEOUT_MS))
            path = _models_file(folder / name, models)
            log = folder / name / "log.txt"
            return stack.enter_context(server_process(path, log, *flags))

        # All load at once; each uses one core.
        servers = [
            start("shaken", common, absent, *_SHAKEN),
            start("first", [*common, *_disputed(1, "stretch"), _SLOW], shared, *_FIRST),
            start("second", [*common, *_disputed(2, "crop")], shared),
        ]
        for server in servers:
            server.listening()
        for server in servers:
            server.serving()
        yield Fleet(servers[0], absent, servers[1], servers[2])
        for server in servers:
            server.process.send_signal(signal.SIGTERM)
        for server in servers:
            assert server.process.wait(STOP_TIMEOUT_S) == 0, server.read_log()
            log = server.read_log()
            assert not any(word in log for word in ("internal error", "Traceback", "never re")), log


@pytest.fixture
def first(fleet: Fleet) -> Iterator[Caller]:
    with Caller(fleet.first.target) as caller:
        yield caller


@pytest.fixture
def second(fleet: Fleet) -> Iterator[Caller]:
    with Caller(fleet.second.target) as caller:
        yield caller
