"""What is done to a whole Redis, and not for a call: removing values, looking at its memory."""

from __future__ import annotations

import re
from collections.abc import Sequence

from redis.asyncio import RedisCluster

from pairlens_server.cache.redis_client import Client

_KEYS = 1000  # looked at, or removed, in one go


def beginning_with(prefix: str) -> str:
    """The pattern of keys that begin so."""
    return re.sub(r"([*?\[\]\\])", r"\\\1", prefix) + "*"


async def remove(client: Client, patterns: Sequence[str]) -> int:
    """Remove all keys that match; how many there were."""
    removed = 0
    for pattern in patterns:
        batch: list[bytes] = []
        async for key in client.scan_iter(match=pattern, count=_KEYS):
            batch.append(key)
            if len(batch) == _KEYS:
                removed += await _unlink(client, batch)
                batch = []
        removed += await _unlink(client, batch)
    return removed


async def _unlink(client: Client, keys: Sequence[bytes]) -> int:
    pipeline = client.pipeline(transaction=False)
    for key in keys:
        pipeline.execute_command("UNLINK", key)
    return sum(await pipeline.execute()) if keys else 0


async def memory(client: Client) -> tuple[int, int]:
    """Bytes used and bound of all servers."""
    if isinstance(client, RedisCluster):
        found = await client.info("memory", target_nodes=RedisCluster.PRIMARIES)
        servers = list(found.values()) if "used_memory" not in found else [found]
    else:
        servers = [await client.info("memory")]
    return sum(s["used_memory"] for s in servers), sum(s.get("maxmemory", 0) for s in servers)
