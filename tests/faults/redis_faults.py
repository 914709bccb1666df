"""What can go wrong with a Redis, each as a block in which it is so; it is well afterwards."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial

from tests.faults.impostors import Serve, listener, passing_on, saying
from tests.redis_server import RedisProcess, redis_server

Fault = Callable[[RedisProcess], AbstractContextManager[object]]


@contextmanager
def stopped(redis: RedisProcess) -> Iterator[None]:
    redis.stop()
    yield
    redis.start()


@contextmanager
def restarted(redis: RedisProcess) -> Iterator[None]:
    redis.restart()
    yield


@contextmanager
def flapping(redis: RedisProcess) -> Iterator[None]:
    for _ in range(3):
        redis.restart()
        time.sleep(0.1)
    yield


@contextmanager
def frozen(redis: RedisProcess) -> Iterator[None]:
    redis.freeze()
    yield
    redis.thaw()


@contextmanager
def full(redis: RedisProcess) -> Iterator[None]:
    redis.fill()
    yield
    redis.drain()


@contextmanager
def flushed(redis: RedisProcess) -> Iterator[None]:
    redis.flush()
    yield


@contextmanager
def replaced(serve: Serve, redis: RedisProcess) -> Iterator[None]:
    redis.stop()
    with listener(redis.port, serve):
        yield
    redis.start()


@contextmanager
def behind(delay_s: float, at_once: int, redis: RedisProcess) -> Iterator[None]:
    """The same server on the same port, with something slow in between."""
    folder = redis.folder.with_name("slow-redis")
    with redis_server(folder) as slow:
        serve = passing_on(slow.port, delay_s=delay_s, at_once=at_once)
        with replaced(serve, redis):
            yield


HTTP = b"HTTP/1.1 400 Bad Request\r\nContent-Type: text/plain\r\nConnection: close\r\n\r\nno\r\n"
FOREIGN = b"$5\r\nhello\r\n" * 64

AWAY: dict[str, Fault] = {
    "stopped": stopped,
    "frozen": frozen,
    "slow": partial(behind, 0.3, 65536),
    "dripping": partial(behind, 0.02, 1),
    "random bytes": partial(replaced, saying(random.Random(1).randbytes(4096))),
    "HTTP": partial(replaced, saying(HTTP)),
    "a huge string": partial(replaced, saying(b"$99999999999\r\nabc")),
    "a huge array": partial(replaced, saying(b"*99999999\r\n")),
    "errors": partial(replaced, saying(b"-ERR no\r\n" * 64)),
    "silence": partial(replaced, saying(b"")),
}
"""Faults while which nothing comes from Redis."""

THERE: dict[str, Fault] = {
    "restarted": restarted,
    "flapping": flapping,
    "full": full,
    "flushed": flushed,
    "somewhat slow": partial(behind, 0.01, 65536),
}
"""Faults that Redis goes on under."""
