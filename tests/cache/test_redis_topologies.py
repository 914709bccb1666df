"""The ways to reach a Redis: Unix socket, users, TLS, cluster and sentinels."""

from __future__ import annotations

import shutil
import ssl
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from redis.asyncio import RedisCluster

from pairlens_server.cache.keys import model_prefix
from pairlens_server.cache.redis_client import make_client
from pairlens_server.cache.redis_settings import RedisSettings
from pairlens_server.cache.redis_tier import RedisTier
from pairlens_server.cache.stats import RedisState
from tests.cache.conftest import MakeTier
from tests.cache.redis_support import key, number, timed, until, value, written
from tests.redis_server import RedisProcess, RedisProxy, redis_server

VALUES = {key(n): value(n) for n in range(65)}


async def works(tier: RedisTier) -> None:
    """Start, write, read, look, count and clear."""
    await tier.start()
    status = await tier.stats()
    assert (status.state, status.errors) == (RedisState.UP, 0)
    assert status.used_bytes > 0
    await written(tier, {**VALUES, key(0, "aa"): value(0)})
    found = await tier.get([*VALUES, key("nothing")])
    assert {name: number(v) for name, v in found.items()} == {key(n): n for n in range(65)}
    assert await tier.present([*VALUES, key("nothing")]) == VALUES.keys()
    assert await tier.clear([model_prefix("ff")]) == 65
    assert await tier.get(list(VALUES)) == {}
    assert (await tier.get([key(0, "aa")])).keys() == {key(0, "aa")}
    assert (await tier.stats()).errors == 0


async def test_a_database_of_a_server(redis: RedisProcess, make_tier: MakeTier):
    await works(make_tier(f"{redis.url}/3"))
    with redis.client() as client:
        assert client.info("keyspace") == {"db3": client.info("keyspace")["db3"]}


@pytest.mark.parametrize("database", [0, 5])
async def test_a_unix_socket(redis: RedisProcess, make_tier: MakeTier, database: int):
    await works(make_tier(f"unix://{redis.unix_socket}?db={database}"))
    with redis.client() as client:
        assert list(client.info("keyspace")) == [f"db{database}"]


async def test_a_password(tmp_path: Path, make_tier: MakeTier):
    with redis_server(tmp_path / "redis", auth=":p@ss") as server:
        await works(make_tier(f"redis://:p%40ss@{server.address}"))
        await works(make_tier(f"redis://{server.address}", password="p@ss"))
        await works(make_tier(f"unix://:p%40ss@{server.unix_socket}"))


async def test_a_user_who_may_do_no_more_than_is_needed(tmp_path: Path, make_tier: MakeTier):
    rules = "+getrange +set +expire +unlink +scan +info ~pairlens:*"
    config = f"user lens on >secret {rules}"
    with redis_server(tmp_path / "redis", auth="boss:x", config=config) as server:
        await works(make_tier(f"redis://lens:secret@{server.address}"))
        await works(make_tier(f"redis://{server.address}", username="lens", password="secret"))
        with server.client() as client:
            assert client.acl_log() == []


@contextmanager
def certificate(folder: Path) -> Iterator[Path]:
    """A key and a certificate of 127.0.0.1, signed by itself, in one file."""
    path = folder / "server.pem"
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"]
    command += ["-nodes", "-subj", "/CN=test", "-addext", "subjectAltName=IP:127.0.0.1"]
    command += ["-keyout", str(folder / "key.pem"), "-out", str(folder / "cert.pem")]
    subprocess.run(command, check=True, capture_output=True)
    path.write_bytes((folder / "key.pem").read_bytes() + (folder / "cert.pem").read_bytes())
    yield path


@pytest.mark.skipif(not shutil.which("openssl"), reason="needs openssl for a certificate")
async def test_tls(redis: RedisProcess, tmp_path: Path, make_tier: MakeTier):
    with certificate(tmp_path) as pem:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(pem)
        with RedisProxy(redis.port, tls=context) as proxy:
            await works(make_tier(proxy.url, ca_file=str(tmp_path / "cert.pem"), timeout_s=1))
            stranger = make_tier(proxy.url)
            await stranger.start()
            assert (await stranger.stats()).state is RedisState.UNAVAILABLE
            assert await stranger.get([key(0, "aa")]) == {}


@contextmanager
def cluster(folder: Path, size: int) -> Iterator[Sequence[RedisProcess]]:
    """Servers that share the slots evenly, and know each other."""
    flags = ("--cluster-enabled", "yes", "--cluster-node-timeout", "1000")
    flags += ("--cluster-require-full-coverage", "no")
    with ExitStack() as stack:
        nodes = [stack.enter_context(redis_server(folder / str(i), *flags)) for i in range(size)]
        clients = [stack.enter_context(node.client()) for node in nodes]
        bounds = [16384 * i // size for i in range(size + 1)]
        for i, client in enumerate(clients):
            client.execute_command("CLUSTER ADDSLOTS", *range(bounds[i], bounds[i + 1]))
            client.execute_command("CLUSTER SET-CONFIG-EPOCH", i + 1)
            client.execute_command("CLUSTER MEET", "127.0.0.1", nodes[0].port)
        yield nodes


def agreed(nodes: Sequence[RedisProcess]) -> bool:
    """Whether every server knows of every slot."""
    for node in nodes:
        with node.client() as client:
            state = client.execute_command("CLUSTER INFO")
            if state["cluster_state"] != "ok" or state["cluster_slots_ok"] != "16384":
                return False
    return True


async def test_a_cluster(tmp_path: Path, make_tier: MakeTier):
    with cluster(tmp_path, 3) as nodes:

        async def formed() -> bool:
            return agreed(nodes)

        await until(formed)
        for hosts in (nodes[1].address, ",".join(node.address for node in nodes)):
            await works(make_tier(f"redis+cluster://{hosts}"))
        tier = make_tier(f"redis+cluster://{nodes[1].address},{nodes[2].address}")
        await tier.start()
        await written(tier, VALUES)
        for node in nodes:
            with node.client() as client:
                assert client.dbsize() > 10
        # Without one of them, what the others have is found, and nothing takes long or raises.
        nodes[0].stop()
        assert await timed(tier.get(list(VALUES))) < 1
        for _ in range(10):
            assert await timed(tier.get(list(VALUES))) < 1
            tier.put(VALUES)
        nodes[0].start()
        with nodes[0].client() as client:
            client.execute_command("CLUSTER MEET", "127.0.0.1", nodes[1].port)

        async def hit() -> bool:
            await written(tier, VALUES)
            return (await tier.get(list(VALUES))).keys() == VALUES.keys()

        await until(hit, 20)


async def test_a_cluster_that_comes_later(tmp_path: Path, make_tier: MakeTier):
    with cluster(tmp_path, 1) as nodes:
        nodes[0].stop()
        tier = make_tier(f"redis+cluster://{nodes[0].address}")
        assert await timed(tier.start()) < 1.5
        assert await tier.get(list(VALUES)) == {}
        nodes[0].start()  # it has its slots from its file

        async def hit() -> bool:
            await written(tier, VALUES)
            return (await tier.get(list(VALUES))).keys() == VALUES.keys()

        await until(hit, 20)


async def test_sentinels(redis: RedisProcess, tmp_path: Path, make_tier: MakeTier):
    watched = f"sentinel monitor main 127.0.0.1 {redis.port} 1"
    with redis_server(tmp_path / "sentinel", "--sentinel", config=watched) as watcher:
        await works(make_tier(f"redis+sentinel://{watcher.address}/main/1"))
        with redis.client() as client:
            assert list(client.info("keyspace")) == ["db1"]
        lost = make_tier(f"redis+sentinel://{watcher.address}/other")
        await lost.start()
        assert (await lost.stats()).state is RedisState.UNAVAILABLE


@pytest.mark.parametrize("url", ["redis://h", "redis+cluster://h,i", "unix:///s"])
def test_replies_are_parsed_in_python_even_where_hiredis_is(url: str):
    # hiredis allocates by the word of whoever answers.
    client = make_client(RedisSettings(url), 4, lambda reply: reply)
    if isinstance(client, RedisCluster):
        made = [
            node.connection_class(**node.connection_kwargs)
            for node in client.nodes_manager.startup_nodes.values()
        ]
        assert len(made) == 2
        kwargs = client.nodes_manager.connection_kwargs  # of servers found later
        assert kwargs["parser_class"] is type(made[0]._parser)
    else:
        made = [client.connection_pool.make_connection()]
    assert {type(connection._parser).__name__ for connection in made} == {"_AsyncRESP2Parser"}
