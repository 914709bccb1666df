"""Clients of redis-py, set up so that the time of a round trip can be bounded from outside."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Any

from redis.asyncio import ConnectionPool, Redis, RedisCluster, connection
from redis.asyncio.cluster import ClusterNode
from redis.asyncio.connection import Connection, SSLConnection, UnixDomainSocketConnection
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import Sentinel
from redis.backoff import NoBackoff

from pairlens_server.cache.redis_settings import Endpoint, RedisSettings, Topology

# A private name: without it redis-py chooses, and chooses the same where there is no hiredis.
_PARSER: Any = getattr(connection, "_AsyncRESP2Parser", None)

CONNECT_S = 1.0
"""Seconds that making a connection may take."""

Client = Redis | RedisCluster


def make_client(
    settings: RedisSettings, max_connections: int, replied: Callable[..., Any]
) -> Client:
    """A client that connects when it is first used.

    It does not retry, ping, announce its name or watch the clock but for making connections: each
    of these takes round trips, or time that the caller has not given. RESP2, since RESP3 costs a
    connection one more round trip and gives nothing here.

    Args:
        settings: Where Redis is.
        max_connections: To each server.
        replied: Called with each reply to GETRANGE and EXPIRE as it comes; gives the reply.
    """
    client = _make(settings, max_connections)
    for command in ("GETRANGE", "EXPIRE"):
        client.set_response_callback(command, replied)
    return client


def _make(settings: RedisSettings, max_connections: int) -> Client:
    endpoint = settings.endpoint
    options: dict[str, Any] = {
        "username": endpoint.username or settings.username,
        "password": endpoint.password or settings.password,
        **_transport(),
    }
    tls = _tls(endpoint, settings)
    if endpoint.topology is Topology.CLUSTER:
        nodes = [ClusterNode(host, port) for host, port in endpoint.hosts]
        cluster = RedisCluster(
            startup_nodes=nodes, max_connections=max_connections, ssl=endpoint.tls, **options, **tls
        )
        _parse_as_others(cluster)
        return cluster
    options |= {"db": endpoint.database, "max_connections": max_connections, **_parsing()}
    if endpoint.topology is Topology.SENTINEL:
        secure = {"ssl": True, **tls} if endpoint.tls else {}
        asked = {**_transport(), **secure}
        sentinel = Sentinel(  # type: ignore[no-untyped-call]
            endpoint.hosts, sentinel_kwargs=asked, **options, **secure
        )
        client: Redis = sentinel.master_for(endpoint.service)
        return client
    if endpoint.socket_path:
        kind: type[Any] = UnixDomainSocketConnection
        options["path"] = endpoint.socket_path
    else:
        kind = SSLConnection if endpoint.tls else Connection
        options["host"], options["port"] = endpoint.hosts[0]
    pool = ConnectionPool(connection_class=kind, **options, **tls)
    return Redis.from_pool(pool)


def _transport() -> dict[str, Any]:
    return {
        "socket_timeout": None,
        "socket_connect_timeout": CONNECT_S,
        "retry": Retry(NoBackoff(), 0),
        "health_check_interval": 0,
        "protocol": 2,
        "driver_info": None,
    }


def _parsing() -> dict[str, Any]:
    """Parse in Python, a third slower for large values, even where hiredis is installed.

    hiredis makes room for an array by the server's word: "*999999999" from something that is no
    Redis costs 8 GB, and with them the process.
    """
    return {"parser_class": _PARSER} if _PARSER else {}


def _parse_as_others(cluster: RedisCluster) -> None:
    """Have connections that a cluster's client will make parse as those of other clients do."""
    # It takes no such option; its servers, those known now and those found later, have dicts.
    with suppress(AttributeError):
        manager: Any = cluster.nodes_manager
        for holder in (manager, *manager.startup_nodes.values()):
            holder.connection_kwargs.update(_parsing())


def _tls(endpoint: Endpoint, settings: RedisSettings) -> dict[str, Any]:
    if not endpoint.tls:
        return {}
    return {"ssl_ca_certs": settings.ca_file, "ssl_cert_reqs": "required"}
