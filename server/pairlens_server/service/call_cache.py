"""What one call has seen of the cache, and what it may do with it."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from typing import Protocol

from pairlens_server.cache.keys import activation_key
from pairlens_server.cache.packing import Value
from pairlens_server.cache.policy import CachePolicy
from pairlens_server.cache.tiers import Cache
from pairlens_server.models.loaded import LoadedModel
from pairlens_server.recording.activations import Activation
from pairlens_server.service.stopwatch import Stopwatch
from pairlens_server.telemetry.record import Stage, staged


class Caller(Protocol):
    """What is read of a command besides its question."""

    @property
    def deadline_s(self) -> float | None:
        """Event-loop time after which nobody waits; None for never."""

    @property
    def cache(self) -> CachePolicy:
        """How the cache is used."""

    @property
    def client(self) -> str:
        """Who calls."""


class CallCache:
    """The cache as one call sees it: what it has met stays, whatever is dropped meanwhile.

    Files of pictures are what the call is about, not results: they are fetched under every
    policy.
    """

    def __init__(self, cache: Cache, policy: CachePolicy, watch: Stopwatch):
        self._cache = cache
        self._watch = watch
        self._keys: dict[tuple[str, Activation, str], str] = {}
        self._held: dict[str, Value] = {}
        self._looked_up: set[str] = set()
        self._fetching = asyncio.Lock()
        self.policy = policy
        self.precision = cache.precision

    def key(self, model: LoadedModel, activation: Activation, sha256: str) -> str:
        """Under which an activation of a picture is kept."""
        named = (model.fingerprint, activation, sha256)
        key = self._keys.get(named)
        if key is None:
            key = activation_key(model, activation, sha256, self.precision)
            self._keys[named] = key
        return key

    def __contains__(self, key: str) -> bool:
        return key in self._held

    async def look_up(self, keys: Iterable[str]) -> None:
        """Fetch what this call has not asked for yet, in one go."""
        if not self.policy.reads:
            return
        # Whoever asks for what is under way waits for it, lest it be computed beside.
        async with self._fetching:
            asked = self._looked_up
            new = [k for k in dict.fromkeys(keys) if k not in asked and k not in self._held]
            if new:
                with self._watch.stage(Stage.CACHE_GET):
                    self._held.update(await self._cache.fetch(new))
            asked.update(new)

    async def files(self, lengths: Mapping[str, int]) -> dict[str, Value]:
        """Files that are there, whatever the policy; the call's memory of values has no part.

        Args:
            lengths: Bytes of the file under each key, as the caller says.
        """
        with self._watch.stage(Stage.CACHE_GET):
            return await self._cache.files(lengths)

    async def absent(self, keys: Iterable[str]) -> set[str]:
        """Those of some files that are not there."""
        with self._watch.stage(Stage.CACHE_GET):
            return await self._cache.missing(keys)

    def at_hand(self, key: str) -> Value | None:
        """A value that was looked up, or that memory has had since."""
        value = self._held.get(key)
        if value is None and self.policy.reads:
            # Another call may have computed it after this one looked it up.
            value = self._cache.at_hand(key)
            if value is not None:
                self._held[key] = value
        return value

    def held(self, key: str) -> Value | None:
        """A value that this call has fetched or made."""
        return self._held.get(key)

    def hold(self, values: Mapping[str, Value]) -> None:
        """Keep values for this call."""
        self._held.update(values)

    def store(self, values: Mapping[str, Value]) -> None:
        """Keep values for all calls, where the policy has it."""
        if values and self.policy.writes:
            with staged(Stage.CACHE_PUT):
                self._cache.store(values)
