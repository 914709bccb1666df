"""The wall clock of server and caller jumps by hours, days and years, forward and back."""

import json
import os
import subprocess
import sys
import time
import urllib.request
from email.utils import parsedate_to_datetime
from pathlib import Path

import pytest

from pairlens import Client, DeadlineExceededError
from pairlens.options import Rendering
from tests.contract.support import png
from tests.deploy.running import ROOT
from tests.faults.calls import until
from tests.faults.sdk_load import PICTURES, sdk_load
from tests.redis_server import redis_server
from tests.server_process import server_process, write_models

FOLDERS = ("/usr/lib", "/usr/lib64", "/usr/local/lib")
# In seconds; the last one undoes all.
JUMPS = (5 * 3600, -5 * 3600, 1000 * 86400, -400 * 86400, 0)
TTL_S = 3600
SLOWEST_S = 15


def library():
    found = [path for folder in FOLDERS for path in Path(folder).rglob("libfaketimeMT.so.1")]
    if not found:
        pytest.skip("libfaketime is not installed")
    return str(found[0])


class Clock:
    """The wall clock of the processes that are started under it.

    The monotonic clock goes on as it does: no system lets that one jump.
    """

    def __init__(self, folder):
        self._file = folder / "clock"
        self.jump(0)
        self.environment = {
            "LD_PRELOAD": library(),
            "FAKETIME_TIMESTAMP_FILE": str(self._file),
            "FAKETIME_CACHE_DURATION": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
            "DONT_FAKE_MONOTONIC": "1",
        }

    def jump(self, seconds):
        """Be that far from the true time, in a second at most."""
        draft = self._file.with_suffix(".new")
        draft.write_text(f"{seconds:+d}\n")
        draft.replace(self._file)


@pytest.fixture(scope="module")
def shaken(tmp_path_factory):
    """A server under such a clock, its Redis under the true one."""
    folder = tmp_path_factory.mktemp("clock")
    clock = Clock(folder)
    models = write_models(folder, ["tiny-vit", "tiny-resnet"])
    with redis_server(folder / "redis") as redis, pytest.MonkeyPatch.context() as patch:
        for name, value in clock.environment.items():
            patch.setenv(name, value)
        flags = ("--metrics-listen", "127.0.0.1:0", "--cache-bytes", "0")
        flags += ("--redis-url", redis.url, "--redis-ttl-s", str(TTL_S))
        with server_process(models, folder / "log.txt", *flags) as server:
            patch.undo()
            server.listening()
            server.metrics_address()
            server.serving()
            yield server, clock, redis
            assert server.stop() == 0, server.read_log()
            assert "Traceback" not in server.read_log()


def ahead_s(server):
    """How far the server's clock is ahead, by the date of its answers."""
    with urllib.request.urlopen(f"http://{server.metrics}/livez") as answer:
        date = parsedate_to_datetime(answer.headers["Date"])
    return date.timestamp() - time.time()


def jump(clock, server, seconds):
    clock.jump(seconds)
    until(lambda: abs(ahead_s(server) - seconds) < 60, f"the clock jumps by {seconds} s")


def test_no_call_fails(shaken):
    server, clock, _ = shaken
    caller = subprocess.Popen(
        [sys.executable, "-m", "tests.faults.sdk_load", server.target],
        cwd=ROOT,
        env={**os.environ, **clock.environment},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with caller, sdk_load([server.target]) as (report,):
        for seconds in JUMPS:
            jump(clock, server, seconds)
            report.await_more(20)
        out, _ = caller.communicate()
        failures, calls, slowest_s = json.loads(out)
    assert not failures + report.failures, failures + report.failures
    assert calls > 50
    assert max(slowest_s, report.slowest_s()) < SLOWEST_S


def test_deadlines_are_those_of_the_caller(shaken):
    server, clock, _ = shaken
    large = [png(seed, 700, 700) for seed in range(30)]  # seconds of drawing
    with Client(server.target, cache="bypass") as client:
        for seconds in JUMPS:
            jump(clock, server, seconds)
            client.explain(PICTURES[0], model="tiny-vit", timeout=10)
            begun = time.monotonic()
            with pytest.raises(DeadlineExceededError):
                client.pair_similarity(
                    large[0], large[1:], model="tiny-vit", render=Rendering(), timeout=0.3
                )
            assert time.monotonic() - begun < 5


def test_what_is_kept_is_kept_for_as_long(shaken):
    server, clock, redis = shaken
    with Client(server.target) as client, redis.client() as store:
        redis.flush()
        client.explain(PICTURES[1], model="tiny-vit")
        until(store.dbsize, "it is written")
        for seconds in JUMPS[-3:]:
            jump(clock, server, seconds)
            again = client.explain(PICTURES[1], model="tiny-vit")
            assert again.timing.cached_images == 1
            client.explain(PICTURES[2], model="tiny-vit", cache="refresh")
            client.cache_stats()
        ttls_s = [store.ttl(key) for key in store.scan_iter()]
    assert ttls_s
    assert all(TTL_S - 300 < ttl_s <= TTL_S for ttl_s in ttls_s), ttls_s


def test_what_is_measured_is_sane(shaken):
    server, *_ = shaken
    assert server.get("/livez")[0] == server.get("/readyz")[0] == 200
    metrics = server.scrape()
    assert metrics.value("pairlens_rpc_duration_seconds_count") > 50
    for name in ("rpc_duration_seconds", "stage_duration_seconds", "event_loop_lag_seconds"):
        sums = metrics.series(f"pairlens_{name}_sum")
        assert sums
        assert all(0 <= seconds < 3600 for seconds in sums.values()), sums
