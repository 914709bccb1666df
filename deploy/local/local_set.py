"""The whole set: its processes, its rolling restart, and what there is to know of it."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Coroutine, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from deploy.local import recipes
from deploy.local.part import Part, PartError, Recipe, Say
from deploy.local.ports import HOST, Ports
from deploy.local.recipes import Replica

STATE_FILE = "set.json"

# A client that lost a replica tries to reach it again every 5 s at most, give or take a fifth; the
# next replica goes only when clients have found this one again (minReadySeconds of Kubernetes).
SETTLE_S = 6.0


@dataclass(frozen=True)
class SetOptions:
    """What the set is made of.

    Attributes:
        replicas: How many, 1 or more.
        flags: Further arguments of every pairlens-server.
        balancer: client: the SDK spreads its calls itself; haproxy: a HAProxy does.
        redis: Whether replicas share a Redis.
        prometheus: Whether a Prometheus scrapes them.
        port: First port of gRPC, HAProxy's if there is one; 0 takes free ones.
        metrics_port: First port of /metrics; 0 takes free ones.
        prometheus_port: Of Prometheus' page; 0 takes a free one.
        folder: For logs and files.
    """

    replicas: int
    flags: Sequence[str]
    balancer: Literal["client", "haproxy"]
    redis: bool
    prometheus: bool
    port: int
    metrics_port: int
    prometheus_port: int
    folder: Path


class LocalSet:
    """Replicas, what they share and what stands before them."""

    def __init__(self, options: SetOptions, say: Say):
        """Choose ports and write configurations.

        Args:
            options: What the set is made of.
            say: Tells the user what happens.

        Raises:
            PortError: A port is taken.
            MissingProgramError: A program that was asked for is not installed.
        """
        self._say = say
        self._options = options
        self._state_file = options.folder / STATE_FILE
        self._started = False
        self._rolled = 0
        self._rolling = False
        ports = Ports()
        through_haproxy = options.balancer == "haproxy"
        grpc_ports = ports.take(options.port, options.replicas + through_haproxy)
        self._balancer = f"{HOST}:{grpc_ports.pop(0)}" if through_haproxy else None
        metrics_ports = ports.take(options.metrics_port, options.replicas)
        self.replicas = [
            Replica(f"replica-{number}", port, metrics_port)
            for number, (port, metrics_port) in enumerate(
                zip(grpc_ports, metrics_ports, strict=True), 1
            )
        ]
        self._prometheus_port, redis_port = 0, 0
        if options.prometheus:
            (self._prometheus_port,) = ports.take(options.prometheus_port, 1)
        if options.redis:
            (redis_port,) = ports.take(0, 1)
        self.redis_url = f"redis://{HOST}:{redis_port}" if options.redis else None
        self._stores = self._parts(self._store_recipes(redis_port))
        self._servers = self._parts(
            recipes.replica_recipe(options.folder, replica, place, options.flags, self.redis_url)
            for place, replica in enumerate(self.replicas)
        )
        self._fronts = self._parts(self._front_recipes())

    @property
    def target(self) -> str:
        """What `pairlens.Client` is given."""
        if self._balancer is not None:
            return self._balancer
        return "ipv4:" + ",".join(replica.address for replica in self.replicas)

    @property
    def prometheus_url(self) -> str | None:
        """Prometheus' page, or None."""
        return f"http://{HOST}:{self._prometheus_port}" if self._prometheus_port else None

    async def start(self) -> None:
        """Run everything and wait until it is ready.

        Raises:
            PartError: Something does not come up; nobody waits for the rest any more.
        """
        self._state_file.unlink(missing_ok=True)  # of an earlier set
        # What is in front last, so that it finds ready replicas at its first look.
        for parts in (self._stores, self._servers, self._fronts):
            await _together(part.start() for part in parts)
        self._started = True
        self._write_state()

    async def keep(self) -> None:
        """Start what dies again, until this is cancelled."""
        await _together(part.keep() for part in self._all())

    async def rolling_restart(self) -> None:
        """Drain and start each replica anew, one after the other; stop at one that fails."""
        if self._rolling:
            self._say("a rolling restart is under way already")
            return
        self._rolling = True
        try:
            for place, part in enumerate(self._servers):
                if place:
                    await asyncio.sleep(SETTLE_S)
                self._say(f"{part.recipe.name} drains and starts anew")
                await part.restart()
            self._rolled += 1
            self._write_state()
            self._say("all replicas have been started anew")
        except PartError as error:
            self._say(f"{error}\nThe rolling restart ends here; the other replicas go on.")
        finally:
            self._rolling = False

    async def stop(self) -> None:
        """Drain the replicas, then end the rest."""
        await asyncio.gather(*(part.stop() for part in self._servers))
        await asyncio.gather(*(part.stop() for part in (*self._fronts, *self._stores)))

    async def kill(self) -> None:
        """End everything at once."""
        for part in self._all():
            part.kill()
        await self.stop()

    def _all(self) -> list[Part]:
        return [*self._stores, *self._servers, *self._fronts]

    def _parts(self, made: Iterable[Recipe]) -> list[Part]:
        return [Part(recipe, self._say, self._write_state) for recipe in made]

    def _store_recipes(self, port: int) -> list[Recipe]:
        if not self._options.redis:
            return []
        return [recipes.redis_recipe(self._options.folder, recipes.find_redis(), port)]

    def _front_recipes(self) -> list[Recipe]:
        folder, fronts = self._options.folder, []
        if self._balancer is not None:
            port = int(self._balancer.rpartition(":")[2])
            fronts.append(recipes.haproxy_recipe(folder, port, self.replicas))
        if self._prometheus_port:
            fronts.append(recipes.prometheus_recipe(folder, self._prometheus_port, self.replicas))
        return fronts

    def _write_state(self) -> None:
        """Tell scripts what runs, once all of it has been ready."""
        if not self._started:
            return
        servers = zip(self.replicas, self._servers, strict=True)
        state = {
            "pid": os.getpid(),
            "target": self.target,
            "replicas": [
                {
                    "name": replica.name,
                    "address": replica.address,
                    "metrics": replica.metrics,
                    "pid": part.pid,
                    "log": str(part.recipe.log),
                }
                for replica, part in servers
            ],
            "redis": self.redis_url,
            "prometheus": self.prometheus_url,
            "rolling_restarts": self._rolled,
        }
        draft = self._state_file.with_suffix(".new")
        draft.write_text(json.dumps(state, indent=2) + "\n", encoding="utf-8")
        draft.replace(self._state_file)  # so that a reader sees the old one or the new one, whole


async def _together(works: Iterable[Coroutine[object, object, None]]) -> None:
    """Do all at the same time; when one fails, the others are cancelled."""
    tasks = [asyncio.create_task(work) for work in works]
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
