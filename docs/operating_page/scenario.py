"""Ten minutes in the life of two replicas: calm, overload, Redis away, a replica drained."""

from __future__ import annotations

import json
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from docs.operating_page.load import Callers, Flood, gallery
from pairlens_server.demo.pairs import MODELS_FILE
from tests.prometheus_server import PrometheusProcess, prometheus_server
from tests.redis_server import RedisProcess, free_port, redis_server
from tests.server_process import ServerProcess, server_process

PROMETHEUS = Path(__file__).resolve().parents[2] / "deploy" / "prometheus" / "prometheus.yaml"
SCRAPED_S = 2.0
MAX_QUEUED = 96
"""Work that may wait; small, so that overload is one within seconds."""

_CALLS_PER_S, _THREADS = 8.0, 12
_FLOOD_CALLS_PER_S, _FLOOD_THREADS = 100.0, 64
_FIRES_S = 330.0  # of Redis being away, after which its alert fires


@dataclass(frozen=True)
class Phase:
    """What went on for a while.

    Attributes:
        name: Of it, for the pictures.
        start_s, end_s: Unix time.
    """

    name: str
    start_s: float
    end_s: float


class Replica:
    """A server on ports that stay, so that it can be started anew in its place."""

    def __init__(self, stack: ExitStack, folder: Path, redis: RedisProcess):
        self.address, self.metrics = (f"127.0.0.1:{free_port()}" for _ in range(2))
        self._stack, self._log = stack, folder
        self._flags = (
            *("--listen", self.address, "--metrics-listen", self.metrics),
            *("--max-queued", str(MAX_QUEUED), "--redis-url", redis.url),
            *("--drain-delay-s", "8", "--log-format", "json"),
        )
        self._server: ServerProcess | None = None

    def start(self) -> None:
        """Start it, without waiting until it serves."""
        server = server_process(MODELS_FILE, self._log, *self._flags)
        self._server = self._stack.enter_context(server)

    def serving(self) -> None:
        """Wait until it does."""
        assert self._server is not None
        self._server.listening()
        self._server.serving()

    def drain(self) -> None:
        """End it as an orchestrator does."""
        assert self._server is not None
        self._server.process.send_signal(signal.SIGTERM)
        self._server.process.wait()


class Scenario:
    """Runs the phases and writes down when they were."""

    def __init__(self, prometheus: PrometheusProcess, redis: RedisProcess, replicas: list[Replica]):
        self.phases: list[Phase] = []
        self._prometheus, self._redis, self._replicas = prometheus, redis, replicas

    def run(self, target: str) -> None:
        """All phases that the pictures show."""
        files = gallery(seed=1)
        callers = Callers(target, files, "search", _CALLS_PER_S)
        flood = Flood(target, gallery(seed=2), "flood", _FLOOD_CALLS_PER_S)
        with callers.calling(_THREADS):
            self._phase("calm", 120)
            with flood.calling(_FLOOD_THREADS):
                self._phase("overload", 60)
            self._phase("calm", 60)
            self._redis.stop()
            self._phase("Redis away", 60)
            self._redis.start()
            self._phase("calm", 60)
            self._phase("replica drained", 60, self._restart_last)
        sys.stdout.write(f"search: {dict(callers.outcomes)}\nflood: {dict(flood.outcomes)}\n")

    def fire(self, target: str) -> None:
        """Redis is away until its alert fires."""
        self._redis.stop()
        callers = Callers(target, gallery(seed=3), "search", _CALLS_PER_S / 4)
        with callers.calling(_THREADS):
            firing = 'ALERTS{alertname="PairlensRedisDown",alertstate="firing"}'
            self._prometheus.wait_for(firing, 2 * _FIRES_S)

    def _phase(self, name: str, seconds: float, work: Callable[[], None] = lambda: None) -> None:
        sys.stdout.write(f"{name}\n")
        start_s = time.time()
        work()
        time.sleep(max(0.0, start_s + seconds - time.time()))
        self.phases.append(Phase(name, start_s, time.time()))

    def _restart_last(self) -> None:
        replica = self._replicas[-1]
        replica.drain()
        time.sleep(3 * SCRAPED_S)
        replica.start()
        replica.serving()


@contextmanager
def played(folder: Path) -> Iterator[PrometheusProcess]:
    """Run the scenario; the Prometheus that watched it, with an alert firing.

    Args:
        folder: Where its data and the phases are left.
    """
    with ExitStack() as stack:
        redis = stack.enter_context(redis_server(folder / "redis"))
        replicas = [Replica(stack, folder / f"replica-{n}.txt", redis) for n in range(2)]
        metrics = [replica.metrics for replica in replicas]
        for replica in replicas:
            replica.start()
        for replica in replicas:
            replica.serving()
        prometheus = stack.enter_context(
            prometheus_server(folder / "prometheus", PROMETHEUS, metrics, SCRAPED_S)
        )
        target = "ipv4:" + ",".join(replica.address for replica in replicas)
        scenario = Scenario(prometheus, redis, replicas)
        prometheus.wait_for("count(pairlens_ready == 1) == 2")
        scenario.run(target)
        phases = [asdict(phase) for phase in scenario.phases]
        (folder / "phases.json").write_text(json.dumps(phases, indent=1), encoding="utf-8")
        scenario.fire(target)
        yield prometheus


@contextmanager
def played_before(folder: Path) -> Iterator[PrometheusProcess]:
    """A Prometheus with the data that an earlier run left; it scrapes nothing."""
    with prometheus_server(folder / "prometheus", PROMETHEUS, [], SCRAPED_S) as prometheus:
        yield prometheus


def phases_of(folder: Path) -> list[Phase]:
    """When what went on."""
    written = json.loads((folder / "phases.json").read_text(encoding="utf-8"))
    return [Phase(**phase) for phase in written]
