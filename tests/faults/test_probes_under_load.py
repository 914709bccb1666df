"""A server with a full queue is busy, not dead: a probe that it refused would have it restarted."""

from __future__ import annotations

import time
from collections import Counter
from typing import Any

import grpc
import yaml
from grpc_health.v1 import health_pb2

from tests.faults.calls import Caller, until
from tests.faults.conftest import _SLOW, QUEUE
from tests.faults.open_services import health
from tests.faults.test_overload import SLOW
from tests.server_process import server_process

PROBES = 20
# What the manifests give a probe.
PROBE_TIMEOUT_S = 5.0


class Flood:
    """Twice as many calls as the queue takes, topped up whenever some have ended.

    Attributes:
        ended: How many, by their codes.
    """

    def __init__(self, caller: Caller):
        self.ended: Counter[grpc.StatusCode] = Counter()
        self._caller = caller
        self._under_way: list[Any] = []

    def is_refused(self) -> bool:
        """Whether some more calls have found no room."""
        done = [future for future in self._under_way if future.done()]
        self.ended.update(future.code() for future in done)
        self._under_way = [future for future in self._under_way if future not in done]
        missing = 2 * QUEUE - len(self._under_way)
        self._under_way += [self._caller.begin(SLOW) for _ in range(missing)]
        return any(future.code() is grpc.StatusCode.RESOURCE_EXHAUSTED for future in done)

    def stop(self) -> None:
        for future in self._under_way:
            future.cancel()


def test_health_and_probes_answer_while_calls_are_refused(tmp_path):
    models = tmp_path / "models.yaml"
    models.write_text(yaml.safe_dump({"models": [_SLOW]}), encoding="utf-8")
    flags = ("--metrics-listen", "127.0.0.1:0", "--max-queued", str(QUEUE), "--max-batch", "4")
    with server_process(models, tmp_path / "log.txt", *flags) as server:
        target = server.listening()
        server.metrics_address()
        server.serving()
        with Caller(target) as caller, grpc.insecure_channel(target) as channel:
            flood = Flood(caller)
            for _ in range(PROBES):
                until(flood.is_refused, "calls are refused")
                begun = time.monotonic()
                assert health(channel) == health_pb2.HealthCheckResponse.SERVING
                assert server.get("/livez")[0] == server.get("/readyz")[0] == 200
                assert time.monotonic() - begun < 3 * PROBE_TIMEOUT_S
            flood.stop()
        assert flood.ended.keys() <= {grpc.StatusCode.OK, grpc.StatusCode.RESOURCE_EXHAUSTED}
        assert server.stop() == 0
