"""Whatever happens to Redis: no call fails for it, is wrong, or takes long."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.contract.support import decomposition, png, unseen
from tests.faults.calls import Caller, Embed, Explain, Pair, by_digest, inline, until
from tests.faults.conftest import Fleet
from tests.faults.impostors import passing_on
from tests.faults.load import Case, Report, all_warm, answered, load
from tests.faults.redis_faults import AWAY, THERE, Fault, full, replaced, stopped
from tests.redis_server import RedisProcess, redis_server
from tests.server_process import ServerProcess

SLOWEST_S = 3.0
"""Of any call on a busy machine. Nothing here takes 0.1 s while Redis is well."""

CACHE_S = 1.0
"""Of what a call waits for Redis: its time-out is 0.05 s for a value, 0.1 s for 16, and no call
of these asks more than three times."""

FAULT_S = 0.6
"""That a fault lasts at least, and until so many calls were answered meanwhile:"""

CALLS = 30


def cases(pictures: list[bytes]) -> list[Case]:
    """Calls of all kinds about some pictures, the last of which are sent by digest."""
    images = [*map(inline, pictures[:4]), *map(by_digest, pictures[4:])]
    vit, cls, resnet = "tiny-vit", "tiny-vit-cls", "tiny-resnet"
    drawn = {"overlay": True, "max_side": 40}
    requests = [
        *(Explain(model=cls, image=image, method={"rollout": {}}) for image in images),
        *(Explain(model=resnet, image=image, method={"grad_cam": {}}) for image in images),
        Explain(model=cls, image=images[1], method={"raw_attention": {}}, rendering=drawn),
        Explain(model=resnet, image=images[5], method={"full_grad": {}}, rendering=drawn),
        Pair(model=vit, query=images[0], candidates=images[1:6]),
        Pair(model=vit, query=images[5], candidates=images[2:4], rendering=drawn),
        Pair(
            model=vit,
            query=images[4],
            candidates=images,
            method=decomposition(redistribution="REDISTRIBUTION_ROLLOUT"),
        ),
        Embed(model=resnet, images=images),
        Embed(model=vit, images=images[3:]),
    ]
    return [Case(f"{type(r).__name__} {i}", r) for i, r in enumerate(requests)]


@dataclass(frozen=True)
class Shaken:
    """A server that had no Redis when it started, which it has now.

    Attributes:
        caller: Of it.
        server: Its process.
        redis: Its Redis, well.
        cases: Calls and their right answers.
        absent: What calls came to before Redis was there.
    """

    caller: Caller
    server: ServerProcess
    redis: RedisProcess
    cases: list[Case]
    absent: Report

    @property
    def target(self) -> str:
        return self.server.target

    def virtual_bytes(self) -> int:
        """The most address space that the server has had; 0 where that cannot be told."""
        status = Path(f"/proc/{self.server.process.pid}/status")
        if not status.exists():
            return 0
        lines = status.read_text(encoding="ascii").splitlines()
        (line,) = [line for line in lines if line.startswith("VmPeak:")]
        return 1024 * int(line.split()[1])

    def recovered(self) -> None:
        """Wait until nothing is computed any more: Redis is used, and holds all."""
        until(self.caller.redis_is_up, "Redis is up")
        until(lambda: all_warm(self.caller, self.cases), "everything comes from Redis")


@pytest.fixture(scope="module")
def shaken(fleet: Fleet) -> Iterator[Shaken]:
    with Caller(fleet.shaken.target) as caller:
        assert not caller.redis_is_up()
        pictures = [unseen() for _ in range(6)]
        caller.upload(*pictures[4:])
        known = answered(caller, cases(pictures))
        with load(fleet.shaken.target, known) as absent:
            go_on(absent)
        assert not caller.redis_is_up()
        fleet.shaken_redis.start()
        made = Shaken(caller, fleet.shaken, fleet.shaken_redis, known, absent)
        made.recovered()
        yield made


def test_absent_at_the_start(shaken):
    shaken.absent.check(slowest_s=SLOWEST_S)
    assert shaken.absent.warm == 0
    # Once it was found to be away, nobody waits for it.
    assert shaken.absent.median_cache_s < 0.01
    shaken.recovered()


def go_on(report: Report) -> None:
    """Let calls under load go on for a while."""
    time.sleep(FAULT_S)
    until(lambda: len(report.seconds) + len(report.failures) >= CALLS, "calls are answered")


def shake(shaken: Shaken, fault: Fault, *, warm: bool) -> tuple[Report, bool]:
    """Load before, while and after a fault; what calls came to in it, and if Redis was up.

    Args:
        shaken: What is shaken.
        fault: By what.
        warm: Whether to wait for a call in it that finds all in Redis.
    """
    shaken.recovered()
    with load(shaken.target, shaken.cases) as around:
        time.sleep(0.1)
        with fault(shaken.redis):
            with load(shaken.target, shaken.cases, seed=1) as during:
                go_on(during)
                until(lambda: during.warm > 0 or not warm, "Redis is used")
            # Asking is not slow either.
            begun = time.monotonic()
            up = shaken.caller.redis_is_up()
            assert time.monotonic() - begun < SLOWEST_S
        hits = shaken.caller.redis_count("hits")
        until(shaken.caller.redis_is_up, "Redis is up")
        until(lambda: shaken.caller.redis_count("hits") > hits, "Redis is read again")
    for report in (around, during):
        report.check(slowest_s=SLOWEST_S)
        assert report.slowest_cache_s < CACHE_S
    shaken.recovered()
    return during, up


@pytest.mark.parametrize("name", AWAY)
def test_redis_is_away(shaken, name):
    before = shaken.virtual_bytes()
    during, up = shake(shaken, AWAY[name], warm=False)
    assert not up
    # Nobody's word is taken for how much memory an answer needs.
    assert shaken.virtual_bytes() - before < 500e6
    # A few calls find out, and the others do not wait.
    assert during.median_cache_s < 0.025


@pytest.mark.parametrize("name", THERE)
def test_redis_is_there(shaken, name):
    during, up = shake(shaken, THERE[name], warm=True)
    assert up
    assert during.warm > 0


def test_a_full_redis_is_read(shaken):
    shaken.recovered()
    with full(shaken.redis):
        with load(shaken.target, shaken.cases) as during:
            go_on(during)
        assert all_warm(shaken.caller, shaken.cases)
        assert shaken.caller.redis_is_up()
        # What is new is not taken, and is not waited for.
        before = shaken.caller.redis_count("dropped")
        new = Explain(model="tiny-vit-cls", image=inline(unseen()), method={"rollout": {}})
        for _ in range(2):
            assert shaken.caller.send(new).timing.cached_images == 0
        until(lambda: shaken.caller.redis_count("dropped") > before, "the new one is dropped")
    during.check(slowest_s=SLOWEST_S)


def test_foreign_values_are_overwritten(shaken):
    """Values under our keys that are not ours."""
    shaken.recovered()
    damage = random.Random(2)
    with shaken.redis.client() as client:
        keys = sorted(client.keys("*"))
        before = shaken.caller.redis_count("corrupt")
        for key in keys:
            value = client.get(key)
            damaged = [
                b"hello",
                value[: damage.randrange(len(value))],
                value + b"\0",
                bytes([value[0] ^ 1]) + value[1:],
                value[:-1] + bytes([value[-1] ^ 0x80]),
                # Whole and sound, but of another key.
                client.get(damage.choice([other for other in keys if other != key])),
            ]
            client.set(key, damage.choice(damaged))
        (wrong_type,) = damage.sample(keys, 1)
        client.delete(wrong_type)
        client.rpush(wrong_type, "a list")
    with load(shaken.target, shaken.cases) as during:
        go_on(during)
    during.check(slowest_s=SLOWEST_S)
    assert shaken.caller.redis_is_up()
    assert shaken.caller.redis_count("corrupt") >= before + len(keys) / 2
    shaken.recovered()


def test_a_repeated_reply_is_nobody_elses(shaken):
    """Replies that come twice must not be taken for those of later questions."""
    twice = []

    def doubled(connection):
        inner = passing_on(behind_it.port, delay_s=0.0)
        twice.append(connection)
        inner(_Doubling(connection))

    shaken.recovered()
    folder = shaken.redis.folder.with_name("doubled-redis")
    with (
        redis_server(folder) as behind_it,
        replaced(doubled, shaken.redis),
        load(shaken.target, shaken.cases) as during,
    ):
        go_on(during)
    assert twice
    during.check(slowest_s=SLOWEST_S)
    shaken.recovered()


class _Doubling:
    """A connection that says everything twice."""

    def __init__(self, connection):
        self._connection = connection

    def sendall(self, data):
        self._connection.sendall(data + data)

    def __getattr__(self, name):
        return getattr(self._connection, name)


def test_pictures_are_found_by_digest_without_redis(shaken):
    picture = png(123456)
    shaken.caller.upload(picture)
    with stopped(shaken.redis):
        assert shaken.caller.missing(picture) == 0
        answer = shaken.caller.send(Explain(model="tiny-vit-cls", image=by_digest(picture)))
        assert answer.heatmap.values.data
    shaken.recovered()
