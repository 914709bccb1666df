"""The shared tier: values in Redis, where replicas find what others computed."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeVar

from pairlens_server import torch_threads
from pairlens_server.cache.breaker import Breaker
from pairlens_server.cache.codec import OVERHEAD, decode_all, encode_all
from pairlens_server.cache.keys import is_image_file, kind_of
from pairlens_server.cache.memory import ENTRY_BYTES, entry_bytes
from pairlens_server.cache.packing import Value
from pairlens_server.cache.patience import Patience
from pairlens_server.cache.redis_admin import beginning_with, memory, remove
from pairlens_server.cache.redis_link import Observe, RedisLink, is_wrong_type, unobserved
from pairlens_server.cache.redis_settings import RedisSettings
from pairlens_server.cache.stats import CacheKind, KindStats, RedisState, RedisStats
from pairlens_server.cache.writer import Writer

T = TypeVar("T")

WINDOW_BYTES = 16 * 2**20
"""Of files that are read in one round trip, and at a time: memory, and other readers' patience."""

_ACTIVATIONS = 16  # that are given as long again as a round trip for nothing
_IMAGE_WEIGHT = 16  # activations that an image file counts as: longer, and dearer to do without
_MOST_TIMEOUTS = 20  # that a read may take in all, while replies keep coming
_INLINE_BYTES = 32 * 1024  # decoding less takes less than the way to a thread
_WRITE_S = 1.0
_BYTES_PER_S = 10 * 2**20  # of a network that is slow, and still worth it
_KEEP_S = 2.0  # that a caller waits for what it wants written
_CLEAR_S = 60.0
_LOOK_S = 0.5
_FLUSH_S = 1.0


class RedisTier:
    """Reads and writes values; Redis away, slow or full is a miss, and never an error.

    Used by the event loop alone. Decoding and encoding run on threads of its own.

    Args:
        settings: Where Redis is.
        clock: Seconds, for the pauses after failures.
        observe: See `RedisLink`; told of "clear", too.
    """

    def __init__(
        self,
        settings: RedisSettings,
        clock: Callable[[], float] = time.monotonic,
        observe: Observe = unobserved,
    ):
        self._settings = settings
        self._observe = observe
        # Trying to read is done in the background, so that it need not be done as rarely.
        reads, writes = Breaker(clock, longest_s=5.0), Breaker(clock)
        self._link = RedisLink(settings, reads, writes, observe)
        self._writer = Writer(settings.max_queued_bytes, self._write, self._dropped)
        self._threads = torch_threads.pool(2, "cache")
        self._kinds = {kind: KindStats() for kind in CacheKind}
        self._stopped = False

    @property
    def largest_value(self) -> int:
        """Bytes of the largest value that is kept."""
        return max(
            min(
                self._settings.max_value_bytes - OVERHEAD,
                self._settings.max_queued_bytes - ENTRY_BYTES,
            ),
            0,
        )

    async def start(self) -> None:
        """Connect, waiting for it no longer than about a second; Redis need not be there."""
        await self._link.start()

    async def stop(self) -> None:
        """Write what waits to be written, for about a second at most, and disconnect."""
        await self._writer.stop(_FLUSH_S)
        await self._link.stop()
        self._stopped = True
        self._threads.shutdown(wait=False)

    async def get(self, keys: Sequence[str]) -> dict[str, Value]:
        """Values that are there, in one round trip; one more removes what is there and is none.

        Ends when Redis is silent for `timeout_s` and as long again for each 16 activations or for
        an image file, and after 20 times `timeout_s` in any case; as long may other reads take
        that it waits for.
        """
        if not keys:
            return {}
        # A range, so that no more is transferred than a value may have.
        limit = self._settings.max_value_bytes
        commands = [("GETRANGE", self._name(key), 0, limit) for key in keys]
        replies = await self._link.send(commands, self._link.reads, self._patience(keys))
        return await self._taken(keys, dict(zip(keys, replies, strict=False)))

    async def files(self, lengths: Mapping[str, int]) -> dict[str, Value]:
        """Files that are there, in round trips of `WINDOW_BYTES` or of one file.

        Each may take a second, and what its bytes take of a slow network.

        Args:
            lengths: Bytes of the file under each key, as a caller says who may be wrong: no more
                is transferred. Of files that are longer, the first is fetched nevertheless, so
                that the caller can be told, and the others are left out.
        """
        found: dict[str, Value] = {}
        longer: list[str] = []
        for window in windows(lengths):
            ends = {k: min(lengths[k] + OVERHEAD, self._settings.max_value_bytes) for k in window}
            commands = [("GETRANGE", self._name(key), 0, end) for key, end in ends.items()]
            patience = self._patience_of_files([lengths[key] for key in window])
            sent = await self._link.send(commands, self._link.reads, patience, files=True)
            replies = dict(zip(window, sent, strict=False))
            cut = [k for k, r in replies.items() if self._is_cut(r, ends[k])]
            whole = [key for key in window if key not in cut]
            found |= await self._taken(whole, {k: replies[k] for k in whole if k in replies})
            longer += cut
        if longer:
            bound = self._settings.max_value_bytes
            found |= await self.files({longer[0]: bound})
        return found

    def _is_cut(self, reply: Any, end: int) -> bool:
        return isinstance(reply, bytes) and end < len(reply) <= self._settings.max_value_bytes

    async def _taken(self, keys: Sequence[str], replies: Mapping[str, Any]) -> dict[str, Value]:
        values, corrupt = await self._decoded(replies)
        for key in keys:
            stats = self._kinds[kind_of(key)]
            stats.hits += key in values
            stats.misses += key not in values
            stats.corrupt += key in corrupt
        if corrupt:
            await self._discard(list(corrupt))
        return values

    async def present(self, keys: Sequence[str]) -> set[str]:
        """Keys that are there, in one round trip; their time to live begins anew."""
        if not keys:
            return set()
        commands = [("EXPIRE", self._name(key), self._settings.ttl_s) for key in keys]
        replies = await self._link.send(commands, self._link.reads, self._patience(keys))
        return {key for key, reply in zip(keys, replies, strict=False) if reply == 1}

    def put(self, values: Mapping[str, Value]) -> None:
        """Have values written some time later; those for which there is no room are dropped."""
        taken = self._writable(values)
        if taken:
            self._writer.put(taken)

    async def write(self, values: Mapping[str, Value]) -> None:
        """Write values before those that wait, and wait for it, but for about 2 s at most.

        What is not written by then waits on; what finds no room until then is dropped, as is
        everything when Redis fails.
        """
        taken = self._writable(values)
        if taken:
            await self._writer.write(taken, _KEEP_S)

    async def settle(self, timeout_s: float) -> None:
        """Wait until what was put is written or dropped, but for no longer than that."""
        await self._writer.settle(timeout_s)

    async def clear(self, prefixes: Iterable[str]) -> int | None:
        """Remove the values whose keys begin with one of some prefixes, within a minute.

        Tried even while Redis is left alone, if it says that it is there.

        Returns:
            How many there were, or None when Redis did not do it.
        """
        prefixes = list(prefixes)
        for prefix in prefixes:
            self._writer.forget(prefix)
        await self.settle(_WRITE_S)
        patterns = [beginning_with(self._name(prefix)) for prefix in prefixes]
        began_s = time.perf_counter()
        run = self._link.run(lambda client: remove(client, patterns), _CLEAR_S, insist=True)
        removed = await run
        self._observe("clear", time.perf_counter() - began_s, removed is None)
        return removed

    async def stats(self) -> RedisStats:
        """What this process has done; asks Redis for its memory."""
        used_bytes, max_bytes = await self._link.run(memory, _LOOK_S) or (0, 0)
        return replace(self.counters(), used_bytes=used_bytes, max_bytes=max_bytes)

    def counters(self) -> RedisStats:
        """As `stats`, but nothing is asked: the memory is 0."""
        return RedisStats(
            state=RedisState.UP if self._link.reads.closed else RedisState.UNAVAILABLE,
            kinds={kind: replace(stats) for kind, stats in self._kinds.items()},
            errors=self._link.errors,
            timeouts=self._link.timeouts,
            queued_bytes=self._writer.nbytes,
            max_queued_bytes=self._settings.max_queued_bytes,
        )

    def _writable(self, values: Mapping[str, Value]) -> dict[str, Value]:
        taken = {}
        ready = self._link.reads.closed and self._link.writes.allows
        for key, value in values.items():
            if ready and entry_bytes(value) - ENTRY_BYTES <= self.largest_value:
                taken[key] = value
            else:
                self._dropped(key)
        return taken

    def _name(self, key: str) -> str:
        return f"{self._settings.prefix}:{key}"

    def _patience(self, keys: Sequence[str]) -> Patience:
        weight = sum(_IMAGE_WEIGHT if is_image_file(key) else 1 for key in keys)
        silent = min(1 + weight / _ACTIVATIONS, _MOST_TIMEOUTS)
        return Patience(
            self._settings.timeout_s * silent, self._settings.timeout_s * _MOST_TIMEOUTS
        )

    def _patience_of_files(self, lengths: Sequence[int]) -> Patience:
        # A file is one reply, however long it takes.
        silent = self._patience([]).silent_s * 2 + max(lengths) / _BYTES_PER_S
        most = self._settings.timeout_s * _MOST_TIMEOUTS + sum(lengths) / _BYTES_PER_S
        return Patience(silent, most)

    def _dropped(self, key: str) -> None:
        self._kinds[kind_of(key)].dropped += 1

    async def _decoded(self, replies: Mapping[str, Any]) -> tuple[dict[str, Value], set[str]]:
        data = {key: r for key, r in replies.items() if isinstance(r, bytes) and r}
        if sum(len(value) for value in data.values()) <= _INLINE_BYTES:
            values = decode_all(data, self._settings.max_value_bytes)
        else:
            values = await self._on_thread(decode_all, data, self._settings.max_value_bytes)
        corrupt = {key for key, reply in replies.items() if is_wrong_type(reply)}
        return values, corrupt | (set(data) - set(values))

    async def _discard(self, keys: Sequence[str]) -> None:
        # Lest `present` say that a picture is there which nobody can read. Waited for, since it
        # must not overtake what is written in their place.
        commands = [("UNLINK", self._name(key)) for key in keys]
        await self._link.send(commands, self._link.writes, self._patience(keys))

    async def _write(self, values: Mapping[str, Value]) -> None:
        encoded = await self._on_thread(encode_all, values)
        ttl_s = self._settings.ttl_s
        commands = [("SET", self._name(k), data, "EX", ttl_s) for k, data in encoded.items()]
        most_s = _WRITE_S + sum(map(len, encoded.values())) / _BYTES_PER_S
        replies: list[Any] = []
        if commands:
            replies = await self._link.send(commands, self._link.writes, Patience(most_s, most_s))
        done = dict(zip(encoded, replies, strict=False))
        for key in values:
            if done.get(key) is True:
                self._kinds[kind_of(key)].stored += 1
            else:
                self._dropped(key)

    async def _on_thread(self, function: Callable[..., T], *arguments: object) -> T:
        if self._stopped:
            return function(*arguments)
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._threads, function, *arguments)


def windows(lengths: Mapping[str, int]) -> list[list[str]]:
    """Cut files into runs of at most `WINDOW_BYTES`, or of one that is longer."""
    cut: list[list[str]] = []
    taken = WINDOW_BYTES
    for key, length in lengths.items():
        if not cut or taken + length > WINDOW_BYTES:
            cut.append([])
            taken = 0
        cut[-1].append(key)
        taken += length
    return cut
