"""Networks that lose every packet, without a word to either side."""

import subprocess
import time
from contextlib import contextmanager

import pytest
import redis

from tests.faults.calls import Caller, until
from tests.faults.holdings import gives_back
from tests.faults.namespaces import namespace
from tests.faults.sdk_load import sdk_load
from tests.redis_server import redis_executable
from tests.server_process import server_process, write_models

# The SDK gives up a connection on which something was sent and nothing came for 10 s (its keepalive
# timeout, which is the connection's TCP_USER_TIMEOUT too), and pings one that is idle after 12 s.
NOTICED_S = 22


@pytest.fixture
def models(tmp_path):
    return write_models(tmp_path, ["tiny-vit", "tiny-resnet"])


@contextmanager
def redis_in(place, folder):
    command = [*place.prefix, redis_executable(), "--bind", place.host, "--port", "6379"]
    command += ["--protected-mode", "no", "--save", "", "--dir", str(folder)]
    with (folder / "redis.txt").open("w") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        with redis.Redis(place.host) as client:

            def answers():
                try:
                    return client.ping()
                except redis.ConnectionError:
                    return False

            until(answers, "Redis answers")
        yield f"redis://{place.host}:6379"
    finally:
        process.kill()
        process.wait()


def test_between_server_and_redis(models, tmp_path):
    flags = ("--cache-bytes", "0")
    with (
        namespace() as place,
        redis_in(place, tmp_path) as url,
        server_process(models, tmp_path / "log.txt", *flags, "--redis-url", url) as server,
    ):
        server.listening()
        server.serving()
        with sdk_load([server.target]) as (warm_up,):
            warm_up.await_more(100)
        with (
            gives_back(server.process.pid),
            Caller(server.target) as caller,
            sdk_load([server.target]) as (report,),
        ):
            until(lambda: caller.redis_count("hits") > 20, "Redis is used")
            place.cut()
            cut = time.monotonic()
            until(lambda: not caller.redis_is_up(), "Redis is given up")
            given_up = time.monotonic()
            report.await_more(50)
            assert not caller.redis_is_up()
            place.heal()
            until(caller.redis_is_up, "Redis is used again")
            hits = caller.redis_count("hits")
            until(lambda: caller.redis_count("hits") > hits + 20, "Redis has what is asked for")
        assert not report.failures, report.failures
        # While Redis is waited for, and while it is not.
        assert report.slowest_s(cut) < 5
        assert given_up - cut < 10
        assert server.stop() == 0
        assert "Traceback" not in server.read_log()


def handled(server):
    """Calls that a replica has answered."""
    return server.scrape().value("pairlens_rpc_handled_total")


def test_between_client_and_one_replica(models, tmp_path):
    with namespace() as place:
        flags = ("--listen", f"{place.host}:50051")
        flags += ("--metrics-listen", f"{place.host}:9464")
        with (
            server_process(models, tmp_path / "far.txt", *flags, prefix=place.prefix) as far,
            server_process(models, tmp_path / "near.txt") as near,
        ):
            for server in (far, near):
                server.listening()
            far.metrics_address()
            for server in (far, near):
                server.serving()
            with sdk_load([f"ipv4:{far.target},{near.target}"], threads=4) as (report,):
                report.await_more(40)
                assert handled(far) > 10
                place.cut()
                cut = time.monotonic()
                # All threads sooner or later wait for the replica that is gone.
                until(
                    lambda: report.slowest_s(cut - 1) > 1, "a call has been repeated", NOTICED_S + 8
                )
                report.await_more(200)
                noticed_s = report.slowest_s(cut - 1)
                place.heal()
                before = handled(far)
                until(lambda: handled(far) > before + 20, "the replica is used again", 60)
            assert not report.failures, report.failures
            assert noticed_s < NOTICED_S + 5
            for server in (far, near):
                assert server.stop() == 0
                assert "Traceback" not in server.read_log()
