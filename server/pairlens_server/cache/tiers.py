"""Both tiers as one cache: memory first, then Redis for the rest in one round trip."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import replace

from pairlens_server.cache.keys import is_image_file, kind_prefixes, model_prefix
from pairlens_server.cache.memory import MemoryTier
from pairlens_server.cache.packing import Precision, Value
from pairlens_server.cache.redis_tier import RedisTier
from pairlens_server.cache.stats import CacheKind, CacheStats, Cleared, KindStats, RedisStats


class Cache:
    """Activations, sizes of pictures and image files by content; used by the event loop alone.

    Args:
        activations: Holds activations and sizes of pictures.
        images: Holds image files.
        redis: The shared tier, or None.
        precision: What large activations are kept in.
    """

    def __init__(
        self,
        activations: MemoryTier,
        images: MemoryTier,
        redis: RedisTier | None = None,
        precision: Precision = Precision.HALF,
    ):
        self._activations = activations
        self._images = images
        self._redis = redis
        self._precision = precision

    @property
    def precision(self) -> Precision:
        """What large activations are kept in."""
        return self._precision

    @property
    def keeps_images(self) -> bool:
        """Whether image files can be kept at all."""
        return self.largest_image_bytes > 0

    @property
    def largest_image_bytes(self) -> int:
        """Length of the longest image file that can be kept."""
        shared = self._redis.largest_value if self._redis else 0
        return max(self._images.largest_value, shared)

    async def start(self) -> None:
        """Begin to use Redis, whether it is there or not."""
        if self._redis:
            await self._redis.start()

    async def stop(self) -> None:
        """Write what waits to be written, for about a second at most."""
        if self._redis:
            await self._redis.stop()

    def at_hand(self, key: str) -> Value | None:
        """The value under a key if it is in memory.

        Counted as a hit if so, and else not at all, since a `fetch` follows.
        """
        tier = self._tier(key)
        return tier.get(key) if key in tier else None

    async def fetch(self, keys: Iterable[str]) -> dict[str, Value]:
        """The values that are there; what Redis had is in memory from then on. Never raises."""
        wanted = dict.fromkeys(keys)
        found = {k: v for k in wanted if (v := self._tier(k).get(k)) is not None}
        if self._redis and len(found) < len(wanted):
            shared = await self._redis.get([key for key in wanted if key not in found])
            self._remember(shared)
            found.update(shared)
        return found

    async def files(self, lengths: Mapping[str, int]) -> dict[str, Value]:
        """Image files that are there, as `fetch`, in round trips of bounded size; never raises.

        Args:
            lengths: Bytes that the file under each key has, or is said to have.
        """
        found = {k: v for k in lengths if (v := self._images.get(k)) is not None}
        if self._redis and len(found) < len(lengths):
            shared = await self._redis.files({k: n for k, n in lengths.items() if k not in found})
            self._remember(shared)
            found.update(shared)
        return found

    def store(self, values: Mapping[str, Value]) -> None:
        """Keep values: in memory at once, in Redis some time later or, if it is away, never."""
        self._remember(values)
        if self._redis:
            self._redis.put(values)

    async def keep(self, values: Mapping[str, Value]) -> None:
        """As `store`, but Redis has them when it returns, unless it is away, full or slow."""
        self._remember(values)
        if self._redis:
            await self._redis.write(values)

    async def missing(self, image_keys: Iterable[str]) -> set[str]:
        """Those of some image files that are not there; the others' time to live begins anew."""
        wanted = dict.fromkeys(image_keys)
        held = {k: v for k in wanted if (v := self._images.touch(k)) is not None}
        if not self._redis:
            return set(wanted) - set(held)
        shared = await self._redis.present(list(wanted))
        # Other replicas look there; what Redis has dropped and is here is not asked for again.
        self._redis.put({key: value for key, value in held.items() if key not in shared})
        return set(wanted) - set(held) - shared

    async def stats(self) -> CacheStats:
        """What both tiers hold and have done; asks Redis for its memory."""
        redis = await self._redis.stats() if self._redis else RedisStats()
        return replace(self.counters(), redis=redis)

    def counters(self) -> CacheStats:
        """As `stats`, but Redis is asked for nothing: its memory is 0."""
        # By where values live, so that no number of bytes is over its bound.
        memory = {
            CacheKind.ACTIVATION: _all(self._activations),
            CacheKind.IMAGE: _all(self._images),
        }
        return CacheStats(memory, self._redis.counters() if self._redis else RedisStats())

    async def clear(self, fingerprint: str | None, kinds: Collection[CacheKind]) -> Cleared:
        """Remove values of some kinds from both tiers.

        Args:
            fingerprint: Of the only model whose activations go; None: all models'.
            kinds: What goes; image files and sizes are no model's.
        """
        prefixes: list[str] = []
        for kind in kinds:
            of_model = kind is CacheKind.ACTIVATION and fingerprint is not None
            prefixes += [model_prefix(fingerprint or "")] if of_model else kind_prefixes(kind)
        entries = sum(tier.clear(p) for p in prefixes for tier in (self._activations, self._images))
        if not self._redis:
            return Cleared(entries, 0, redis_cleared=True)
        shared = await self._redis.clear(prefixes)
        return Cleared(entries, shared or 0, redis_cleared=shared is not None)

    def _tier(self, key: str) -> MemoryTier:
        return self._images if is_image_file(key) else self._activations

    def _remember(self, values: Mapping[str, Value]) -> None:
        files = {key: value for key, value in values.items() if is_image_file(key)}
        self._images.put(files)
        self._activations.put({k: v for k, v in values.items() if k not in files})


def _all(tier: MemoryTier) -> KindStats:
    kinds = tier.stats().values()
    sums = {n: sum(getattr(kind, n) for kind in kinds) for n in KindStats.__dataclass_fields__}
    return KindStats(**{**sums, "max_bytes": tier.max_bytes})
