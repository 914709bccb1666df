"""Where Redis is and how it is used."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit

from pairlens_server.errors import ConfigurationError

_HOST_AND_PORT = re.compile(r"(?P<host>\[[0-9a-fA-F:.]+\]|[^:\[\]\s]+)(:(?P<port>[0-9]{1,5}))?")
_PORT = 6379
_SENTINEL_PORT = 26379


class Topology(str, Enum):
    """What stands behind an address."""

    SINGLE = "single"
    CLUSTER = "cluster"
    SENTINEL = "sentinel"


_SCHEMES = {
    "redis": (Topology.SINGLE, False),
    "rediss": (Topology.SINGLE, True),
    "unix": (Topology.SINGLE, False),
    "redis+cluster": (Topology.CLUSTER, False),
    "rediss+cluster": (Topology.CLUSTER, True),
    "redis+sentinel": (Topology.SENTINEL, False),
    "rediss+sentinel": (Topology.SENTINEL, True),
}


class _NoAddressError(Exception):
    """What is wrong with an address, in words that hold nothing of it."""


@dataclass(frozen=True)
class Endpoint:
    """A parsed address.

    Attributes:
        hosts: Host and port: one, or several of a cluster or of sentinels; none of a Unix socket.
        socket_path: Of a Unix socket, else "".
        service: Name under which sentinels know the primary, else "".
        username, password: As the address gives them, or None.
    """

    topology: Topology
    tls: bool
    hosts: tuple[tuple[str, int], ...]
    socket_path: str
    service: str
    database: int
    username: str | None
    password: str | None = field(repr=False)

    def __str__(self) -> str:
        return self.socket_path or ",".join(f"{host}:{port}" for host, port in self.hosts)


@dataclass(frozen=True)
class RedisSettings:
    """Settings of the shared tier.

    Attributes:
        url: `redis://HOST:PORT/DB`, `rediss://` for TLS, `unix:///PATH?db=DB`,
            `redis+cluster://HOST:PORT,HOST:PORT`, `redis+sentinel://HOST:PORT,HOST:PORT/SERVICE/DB`;
            `rediss+cluster://` and `rediss+sentinel://` for TLS. `USER:PASSWORD@` may stand before
            the hosts; special characters are percent-encoded. Sentinels are asked without.
        username: ACL user; one in the address goes before it.
        password: Likewise.
        ca_file: Certificates that the server's is checked against; None: those of the system.
        prefix: Stands before all keys, for a Redis that others use too.
        ttl_s: Seconds after which a value that was not written again goes.
        timeout_s: Seconds that Redis may be silent while it is waited for; more for many values.
        max_value_bytes: Larger values are neither written nor read.
        max_queued_bytes: Of values that wait to be written; beyond, they are dropped.

    Raises:
        ConfigurationError: The address cannot be, or the file of certificates is not there.
    """

    url: str = field(repr=False)
    username: str | None = None
    password: str | None = field(default=None, repr=False)
    ca_file: str | None = None
    prefix: str = "pairlens"
    ttl_s: int = 7 * 24 * 3600
    timeout_s: float = 0.05
    max_value_bytes: int = 32 * 2**20
    max_queued_bytes: int = 64 * 2**20

    def __post_init__(self) -> None:
        tls = self.endpoint.tls
        if self.ca_file and not tls:
            raise ConfigurationError("redis_ca_file: redis_url is not encrypted (rediss://)")
        if self.ca_file and not Path(self.ca_file).is_file():
            raise ConfigurationError(f"redis_ca_file: {self.ca_file} is no file")

    @property
    def endpoint(self) -> Endpoint:
        """The address, parsed."""
        return parse_url(self.url)


def parse_url(url: str) -> Endpoint:
    """Parse an address as `RedisSettings` describes it.

    Raises:
        ConfigurationError: It is none; the message holds nothing of it that may be secret.
    """
    try:
        parts = urlsplit(url)
        if parts.scheme not in _SCHEMES:
            raise _NoAddressError(f"begin with one of {', '.join(f'{s}://' for s in _SCHEMES)}")
        return _endpoint(parts)
    except _NoAddressError as error:
        raise ConfigurationError(f"redis_url: {error}") from None
    except ValueError:
        # What the standard library complains about quotes what it was given.
        raise ConfigurationError(
            "redis_url: this is no address; percent-encode special characters of user and password"
        ) from None


def _endpoint(parts: SplitResult) -> Endpoint:
    topology, tls = _SCHEMES[parts.scheme]
    credentials, _, hosts = parts.netloc.rpartition("@")
    username, _, password = credentials.partition(":")
    service, database = "", ""
    query = dict(parse_qsl(parts.query, keep_blank_values=True))
    path = parts.path.strip("/")
    if parts.scheme == "unix":
        if hosts or not path:
            raise _NoAddressError("a Unix socket is written unix:///PATH")
        database = query.pop("db", "")
    elif topology is Topology.SENTINEL:
        service, _, database = path.partition("/")
        if not service:
            raise _NoAddressError("the service is missing: redis+sentinel://HOST:PORT/SERVICE")
    else:
        database = path
    if query or parts.fragment:
        raise _NoAddressError("nothing may follow a '?' or '#' but ?db=DB of a Unix socket")
    return Endpoint(
        topology=topology,
        tls=tls,
        hosts=() if parts.scheme == "unix" else _hosts(hosts, topology),
        socket_path=unquote(parts.path) if parts.scheme == "unix" else "",
        service=unquote(service),
        database=_database(database, topology),
        username=unquote(username) or None,
        password=unquote(password) or None,
    )


def _hosts(text: str, topology: Topology) -> tuple[tuple[str, int], ...]:
    hosts = []
    for part in text.split(","):
        match = _HOST_AND_PORT.fullmatch(part)
        default = _SENTINEL_PORT if topology is Topology.SENTINEL else _PORT
        port = int((match and match["port"]) or default)
        if match is None or not 0 < port < 65536:
            raise _NoAddressError("HOST:PORT is expected, with brackets around an IPv6 address")
        hosts.append((match["host"].strip("[]"), port))
    if len(hosts) > 1 and topology is Topology.SINGLE:
        raise _NoAddressError("several hosts are a redis+cluster:// or redis+sentinel://")
    return tuple(hosts)


def _database(text: str, topology: Topology) -> int:
    if text and not text.isdecimal():
        raise _NoAddressError("the database is a number")
    if int(text or 0) and topology is Topology.CLUSTER:
        raise _NoAddressError("a cluster has no databases")
    return int(text or 0)
