"""Two servers behind one name, as users of the SDK meet them while one of them stops."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from pairlens import Client, PairlensError
from tests.contract.support import png
from tests.server_process import ServerProcess, server_process, write_models

MODEL = "tiny-vit"
LIMIT_S = 30
PICTURES = [png(seed) for seed in range(3)]


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[tuple[ServerProcess, ServerProcess]]:
    models = write_models(tmp_path, [MODEL])
    with ExitStack() as stack:
        first, second = (
            stack.enter_context(
                server_process(models, tmp_path / f"{name}.txt", "--drain-delay-s", "0.5")
            )
            for name in ("first", "second")
        )
        for server in (first, second):
            server.listening()
            server.serving()
        yield first, second


class Load:
    """Calls without pause from a few threads over one client.

    Attributes:
        done: Calls that were answered.
        failures: Those that were not.
    """

    def __init__(self, client: Client) -> None:
        self.done, self.failures = 0, list[PairlensError]()
        self._client, self._stop = client, threading.Event()
        self._threads = [threading.Thread(target=self._call, args=(data,)) for data in PICTURES]

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _call(self, picture: bytes) -> None:
        while not self._stop.is_set():
            try:
                self._client.explain(picture, model=MODEL)
                self.done += 1
            except PairlensError as error:  # noqa: PERF203 - calls fail one by one
                self.failures.append(error)

    def more(self, calls: int) -> None:
        """Wait until so many more are answered."""
        wanted, end = self.done + calls, time.monotonic() + LIMIT_S
        while self.done < wanted and not self.failures:
            assert time.monotonic() < end
            time.sleep(0.01)


def asked(server: ServerProcess) -> int:
    """Times that a server's cache was asked, as each call of the load does."""
    with Client(server.target) as client:
        return sum(kind.hits + kind.misses for kind in client.cache_stats().memory)


def test_no_call_fails_while_one_of_two_stops(pair: tuple[ServerProcess, ServerProcess]):
    first, second = pair
    with Client(f"ipv4:{first.target},{second.target}") as client, Load(client) as load:
        load.more(50)
        assert asked(first) > 0
        assert asked(second) > 0
        assert first.stop() == 0
        load.more(50)
    assert load.failures == []
