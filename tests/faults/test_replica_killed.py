"""One of three replicas dies without a word while calls are under way on it."""

import time
from concurrent.futures import ThreadPoolExecutor

import grpc
import numpy as np
import psutil
import pytest

from pairlens import Client
from pairlens.options import Rendering
from pairlens.v1 import explanation_service_pb2
from tests.contract.support import png
from tests.deploy.running import local_set
from tests.faults.calls import BYPASS, Caller, inline, until
from tests.faults.sdk_load import sdk_load
from tests.server_process import START_TIMEOUT_S

# A call is repeated 0.1 s after the connection broke, and takes some tens of milliseconds.
SLOWEST_S = 15
LONG = 12
LASTING_S = 4


@pytest.fixture(scope="module")
def three(tmp_path_factory):
    folder = tmp_path_factory.mktemp("three")
    with local_set(folder, "--replicas", "3", "--no-redis") as found:
        yield found
        assert found.stop() == 0, found.output


def kill_first(three):
    """Kill the first replica; returns when, by the monotonic clock."""
    psutil.Process(three.pids[0]).kill()
    return time.monotonic()


def until_back(three, victim):
    three.until(lambda state: state["replicas"][0]["pid"] != victim, START_TIMEOUT_S)


def test_sdk_users_do_not_notice(three):
    victim, *others = three.pids
    with sdk_load([three.direct_target], threads=4) as (report,):
        report.await_more(30)
        killed = kill_first(three)
        report.await_more(60)
        until_back(three, victim)
        report.await_more(30)
    assert not report.failures, report.failures
    assert report.slowest_s(killed - 1) < SLOWEST_S
    assert three.pids[1:] == others
    assert "replica-1 ended (signal 9); it is started again now" in three.output


def test_calls_that_had_reached_it_are_repeated_elsewhere(three):
    victim = three.pids[0]
    rng = np.random.default_rng(3)
    pictures = [rng.integers(0, 256, (500, 500, 3), dtype=np.uint8) for _ in range(LONG)]

    def call(client):
        return client.pair_similarity(
            pictures[0], pictures[1:], model="tiny-vit", render=Rendering(overlay=True)
        )

    with Client(three.direct_target) as client, ThreadPoolExecutor(6) as pool:
        client.list_models()
        calls = [pool.submit(call, client) for _ in range(6)]
        until(
            lambda: three.scrape(0).value("pairlens_rpcs_in_flight") >= 1,
            "a call is under way there",
        )
        kill_first(three)
        for done in calls:
            assert len(done.result().matches) == LONG - 1
    until_back(three, victim)


def test_only_calls_under_way_on_it_fail(three):
    request = explanation_service_pb2.EmbedRequest(
        model="tiny-vit", images=[inline(png(seed)) for seed in range(8)], cache=BYPASS
    )
    victim = three.pids[0]
    begun = time.monotonic()

    def work(address):
        # Without the repetitions of the SDK.
        with Caller(address) as caller:
            try:
                while time.monotonic() < begun + LASTING_S:
                    caller.send(request)
            except grpc.RpcError as error:
                return error.code()
        return None

    with ThreadPoolExecutor(3) as pool:
        outcomes = [pool.submit(work, address) for address in three.addresses]
        time.sleep(1)
        killed = kill_first(three)
        first, *others = [outcome.result() for outcome in outcomes]
        assert first is grpc.StatusCode.UNAVAILABLE
        assert time.monotonic() < killed + SLOWEST_S
    assert others == [None, None]
    until_back(three, victim)
