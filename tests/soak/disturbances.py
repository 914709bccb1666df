"""What happens to the servers while they are called."""

from __future__ import annotations

import itertools
import os
import random
import signal
from collections.abc import Callable
from pathlib import Path

import yaml

from pairlens import Client
from tests.deploy.running import RunningSet
from tests.server_process import MODELS
from tests.soak.work import CHANGING, COMING_AND_GOING, STEADY

NAMES = (*STEADY, CHANGING, COMING_AND_GOING)


class Disturbances:
    """One after the other, in turn.

    Args:
        running: The set.
        models: Its models file.
        client: Of the replicas.
    """

    def __init__(self, running: RunningSet, models: Path, client: Client):
        self._running = running
        self._models = models
        self._client = client
        self._seeds = itertools.count(2)
        self._turns = itertools.cycle([self._clear, self._reload, self._kill_redis, self._reload])
        self.made: dict[str, int] = {}

    def next(self) -> None:
        """Make the next one."""
        disturb: Callable[[], None] = next(self._turns)
        disturb()
        name = disturb.__name__.strip("_").replace("_", " ")
        self.made[name] = self.made.get(name, 0) + 1

    def _clear(self) -> None:
        self._client.clear_cache(images=random.random() < 0.5)

    def _reload(self) -> None:
        """Replace one model, and add or remove another."""
        seed = next(self._seeds)
        models = [model for model in MODELS if model["name"] in NAMES]
        models = [{**m, "seed": seed} if m["name"] == CHANGING else m for m in models]
        if seed % 2:
            models = [model for model in models if model["name"] != COMING_AND_GOING]
        draft = self._models.with_suffix(".new")
        draft.write_text(yaml.safe_dump({"models": models}), encoding="utf-8")
        draft.replace(self._models)
        for pid in self._running.pids:
            os.kill(pid, signal.SIGHUP)

    def _kill_redis(self) -> None:
        """The set starts it again, empty."""
        for child in self._running.children():
            if "redis" in child.name():
                child.kill()
