from pathlib import Path

import pytest

from pairlens_server.cache.redis_settings import RedisSettings, Topology, parse_url
from pairlens_server.errors import ConfigurationError


@pytest.mark.parametrize(
    ("url", "topology", "tls", "hosts", "database"),
    [
        ("redis://cache", Topology.SINGLE, False, (("cache", 6379),), 0),
        ("redis://cache:7000/3", Topology.SINGLE, False, (("cache", 7000),), 3),
        ("rediss://10.0.0.1/0", Topology.SINGLE, True, (("10.0.0.1", 6379),), 0),
        ("redis://[::1]:7000", Topology.SINGLE, False, (("::1", 7000),), 0),
        (
            "redis+cluster://a:1,b,[::1]:3",
            Topology.CLUSTER,
            False,
            (("a", 1), ("b", 6379), ("::1", 3)),
            0,
        ),
        ("rediss+cluster://a/", Topology.CLUSTER, True, (("a", 6379),), 0),
        ("redis+sentinel://a,b:5/main", Topology.SENTINEL, False, (("a", 26379), ("b", 5)), 0),
        ("rediss+sentinel://a/main/2", Topology.SENTINEL, True, (("a", 26379),), 2),
    ],
)
def test_addresses(url: str, topology: Topology, tls: bool, hosts, database: int):
    endpoint = parse_url(url)
    assert (endpoint.topology, endpoint.tls) == (topology, tls)
    assert (endpoint.hosts, endpoint.database) == (hosts, database)
    assert endpoint.service == ("main" if topology is Topology.SENTINEL else "")
    assert endpoint.username is endpoint.password is None


def test_a_unix_socket():
    endpoint = parse_url("unix:///run/a%20b/redis.sock?db=4")
    assert endpoint.socket_path == "/run/a b/redis.sock" == str(endpoint)
    assert (endpoint.hosts, endpoint.database, endpoint.tls) == ((), 4, False)


@pytest.mark.parametrize(
    ("credentials", "username", "password"),
    [("me:secret", "me", "secret"), (":a%40b%2Fc", None, "a@b/c"), ("me", "me", None)],
)
@pytest.mark.parametrize(
    "rest",
    ["redis://{}@h:1", "unix://{}@/s", "redis+cluster://{}@h:1,i:2", "redis+sentinel://{}@h/m"],
)
def test_credentials(credentials: str, username: str | None, password: str | None, rest: str):
    endpoint = parse_url(rest.format(credentials))
    assert (endpoint.username, endpoint.password) == (username, password)


@pytest.mark.parametrize(
    ("url", "complaint"),
    [
        ("", "begin with one of redis://"),
        ("localhost:6379", "begin with one of redis://"),
        ("http://:secret@h", "begin with one of redis://"),
        ("redis://", "HOST:PORT is expected"),
        ("redis://:secret@", "HOST:PORT is expected"),
        ("redis://:secret@h:port", "HOST:PORT is expected"),
        ("redis://:secret@h:0", "HOST:PORT is expected"),
        ("redis://:secret@h:65536", "HOST:PORT is expected"),
        ("redis://:secret@[::1", "redis_url: "),
        ("redis://u:secret\uff1axy@h:1", "this is no address; percent-encode"),
        ("redis://u:secret\u2100@h:1", "this is no address; percent-encode"),
        ("redis+cluster://u:secret\uff1axy@h:1,i", "this is no address; percent-encode"),
        ("redis://u:[secret@h:1", "this is no address; percent-encode"),
        ("redis://:secret@h/" + "1" * 5000, "this is no address; percent-encode"),
        ("redis://:secret@h:1,i:2", r"several hosts are a redis\+cluster"),
        ("redis://:secret@h/db", "the database is a number"),
        ("redis://:secret@h/0/1", "the database is a number"),
        ("redis://:secret@h/-1", "the database is a number"),
        ("redis://:secret@h?timeout=5", "nothing may follow"),
        ("redis://:secret@h#x", "nothing may follow"),
        ("unix://:secret@", "unix:///PATH"),
        ("unix://host/path", "unix:///PATH"),
        ("unix:///path?db=x", "the database is a number"),
        ("redis+cluster://:secret@h/1", "a cluster has no databases"),
        ("redis+cluster://:secret@h,", "HOST:PORT is expected"),
        ("redis+sentinel://:secret@h", "the service is missing"),
    ],
)
def test_what_is_no_address_is_refused_without_showing_secrets(url: str, complaint: str):
    with pytest.raises(ConfigurationError, match=complaint) as caught:
        RedisSettings(url)
    assert str(caught.value).startswith("redis_url: ")
    assert "secret" not in str(caught.value)
    assert caught.value.__suppress_context__


def test_secrets_are_not_shown():
    settings = RedisSettings("redis://me:secret1@h", password="secret2")
    for text in (repr(settings), repr(settings.endpoint), str(settings.endpoint)):
        assert "secret" not in text


def test_the_file_of_certificates_is_looked_for(tmp_path: Path):
    with pytest.raises(ConfigurationError, match=r"redis_ca_file: .*nowhere is no file"):
        RedisSettings("rediss://h", ca_file=str(tmp_path / "nowhere"))
    (tmp_path / "ca.pem").touch()
    with pytest.raises(ConfigurationError, match="redis_ca_file: redis_url is not encrypted"):
        RedisSettings("redis://h", ca_file=str(tmp_path / "ca.pem"))
    RedisSettings("rediss://h", ca_file=str(tmp_path / "ca.pem"))
