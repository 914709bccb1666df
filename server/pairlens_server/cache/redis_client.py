"""Clients of redis-py, set up so that the time of a round trip can be bounded from outside."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from redis._parsers import _AsyncRESP2Parser
from redis.asyncio import ConnectionPool, Redis, RedisCluster
from redis.asyncio.cluster import ClusterNode
from redis.asyncio.connection import Connection, SSLConnection, UnixDomainSocketConnection
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import Sentinel
from redis.backoff import NoBackoff

from pairlens_server.cache.redis_settings import Endpoint, RedisSettings, Topology

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
        return RedisCluster(
            startup_nodes=nodes, max_connections=max_connections, ssl=endpoint.tls, **options, **tls
        )
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
    """Parse in Python, as fast for large values; a cluster's client cannot be told to.

    hiredis makes room for an array by the server's word: "*999999999" from something that is no
    Redis costs 8 GB, and with them the process.
    """
    return {"parser_class": _AsyncRESP2Parser}


def _tls(endpoint: Endpoint, settings: RedisSettings) -> dict[str, Any]:
    if not endpoint.tls:
        return {}
    return {"ssl_ca_certs": settings.ca_file, "ssl_cert_reqs": "required"}
