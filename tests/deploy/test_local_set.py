"""The load-balanced set that one command starts, with all that it can have."""

import json
import signal
import socket
import subprocess
import urllib.error
import urllib.request
from pathlib import Path

import numpy as np
import psutil
import pytest

from deploy.local.haproxy import haproxy_configuration
from deploy.local.ports import HOST, PortError, Ports
from deploy.local.recipes import (
    MissingProgramError,
    Replica,
    find_redis,
    haproxy_recipe,
    prometheus_recipe,
    replica_recipe,
)
from pairlens import Client
from tests.deploy.running import ROOT, command, local_set
from tests.faults.calls import until
from tests.faults.sdk_load import sdk_load
from tests.server_process import write_models

ROLL_TIMEOUT_S = 180
PICTURE = np.random.default_rng(7).integers(0, 256, (40, 60, 3), dtype=np.uint8)


def installed(recipe, tmp_path):
    try:
        recipe(tmp_path, 1, [])
    except MissingProgramError:
        return False
    return True


@pytest.fixture(scope="module")
def tools(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tools")
    for name, recipe in (("haproxy", haproxy_recipe), ("prometheus", prometheus_recipe)):
        if not installed(recipe, folder):
            pytest.skip(f"{name} is not installed")


@pytest.fixture(scope="module")
def running(tools, tmp_path_factory):
    arguments = ("--replicas", "2", "--balancer", "haproxy", "--redis", "--prometheus")
    with local_set(tmp_path_factory.mktemp("set"), *arguments) as found:
        yield found


def test_it_says_what_runs(running):
    # It writes set.json, for which the fixture waits, before it says all this.
    until(lambda: "Stop:" in running.output, "it has said how to stop it")
    state = running.state
    assert [replica["name"] for replica in state["replicas"]] == ["replica-1", "replica-2"]
    for fact in (
        state["target"],
        state["redis"],
        state["prometheus"],
        f"kill -USR1 {state['pid']}",
    ):
        assert fact in running.output
    assert state["pid"] == running.process.pid
    for replica in state["replicas"]:
        assert psutil.pid_exists(replica["pid"])
        for page, start in (("readyz", "ok"), ("metrics", "# HELP")):
            with urllib.request.urlopen(f"http://{replica['metrics']}/{page}") as answer:
                assert answer.read().decode().startswith(start)


def test_haproxy_spreads_the_calls_of_one_client(running):
    before = handled(running)
    with Client(running.state["target"]) as client:
        for _ in range(20):
            client.list_models()
    assert (handled(running) - before).min() >= 5


def handled(running):
    """How many calls of ListModels each replica has answered."""
    return np.array(
        [
            running.scrape(place).value("pairlens_rpc_handled_total", rpc="ListModels")
            for place in range(2)
        ]
    )


def test_replicas_share_their_cache(running):
    first, second = running.addresses

    def warm_at(target):
        with Client(target) as client:
            return client.explain(PICTURE, model="tiny-vit").timing.cached_images == 1

    assert not warm_at(first)
    until(lambda: warm_at(second), "the second replica has it from the first")


def test_prometheus_scrapes_the_replicas(running):
    def healthy():
        url = f"{running.state['prometheus']}/api/v1/targets?state=active"
        try:
            with urllib.request.urlopen(url) as answer:
                targets = json.load(answer)["data"]["activeTargets"]
        except urllib.error.HTTPError:  # for some milliseconds after it has said that it is ready
            return set()
        return {target["labels"]["instance"] for target in targets if target["health"] == "up"}

    expected = {replica["metrics"] for replica in running.state["replicas"]}
    until(lambda: healthy() == expected, "both replicas are up")


def test_a_rolling_restart_fails_no_call(running):
    before, rolled = running.pids, running.state["rolling_restarts"]
    targets = [running.direct_target, running.state["target"]]
    with sdk_load(targets) as reports:
        for report in reports:
            report.await_more(10)
        running.process.send_signal(signal.SIGUSR1)
        running.until(lambda state: state["rolling_restarts"] > rolled, ROLL_TIMEOUT_S)
        for report in reports:
            report.await_more(10)
    assert not set(before) & set(running.pids)
    for report in reports:
        assert not report.failures, report.failures
        assert len(report.calls) > 100
        assert report.slowest_s() < 15
    until(lambda: "all replicas have been started anew" in running.output, "it says so")


def test_what_dies_starts_again(running):
    redis = next(child for child in running.children() if "redis" in child.name())
    redis.kill()
    until(lambda: "redis is ready again" in running.output, "Redis is back")
    assert "redis ended (signal 9)" in running.output


# The last one of this set.
def test_ctrl_c_drains_everything(running):
    children = running.children()
    assert len(children) == 5
    assert running.stop() == 0, running.output
    assert not [child for child in children if child.is_running()]
    assert running.output.rstrip().endswith("All has ended.")
    for word in ("Traceback", "killed", "cutting off"):
        assert word not in running.logs() + running.output


def run(*arguments):
    return subprocess.run(arguments, cwd=ROOT, capture_output=True, text=True, timeout=120)


def test_a_replica_that_cannot_start_is_told(tmp_path):
    models = tmp_path / "models.yaml"
    models.write_text("models: [{name: m, architecture: resnet10t, checkpoint: gone.pth}]\n")
    done = run(*command(tmp_path, "--replicas", "1", "--no-redis", "--models", str(models)))
    assert done.returncode == 2
    assert "replica-1 ended (exit code 2) before it was ready" in done.stderr
    assert "model 'm': gone.pth" in done.stderr


def test_a_taken_port_is_told(tmp_path):
    with socket.create_server((HOST, 0)) as taken:
        port = taken.getsockname()[1]
        models = write_models(tmp_path, ["tiny-vit"])
        arguments = ("--replicas", "1", "--models", str(models), "--port", str(port))
        done = run(*command(tmp_path, "--no-redis", *arguments))
    assert done.returncode == 2
    assert done.stderr == (
        f"deploy.local: port {port} is taken or does not exist; 0 takes free ones\n"
    )


def test_free_ports_are_distinct_and_not_those_of_outgoing_connections():
    ports = Ports()
    found = [*ports.take(0, 20), *ports.take(0, 20)]
    assert len(set(found)) == 40
    outgoing = Path("/proc/sys/net/ipv4/ip_local_port_range").read_text()
    assert max(found) < int(outgoing.split()[0])
    with pytest.raises(PortError):
        ports.take(found[0], 1)
    with pytest.raises(PortError):
        ports.take(65_535, 2)


def test_haproxy_takes_the_configuration_without_a_warning(tools, tmp_path):
    path = tmp_path / "haproxy.cfg"
    servers = [("replica-1", "127.0.0.1:50051", 9464), ("replica-2", "127.0.0.1:50052", 9465)]
    path.write_text(haproxy_configuration("127.0.0.1:50050", servers))
    executable, *_ = haproxy_recipe(tmp_path, 50050, []).command
    done = run(executable, "-c", "-f", str(path))
    assert done.returncode == 0, done.stderr
    assert "WARNING" not in done.stderr


@pytest.mark.parametrize(("visible", "expected"), [("4,6", ["4", "6", "4"]), ("", [None] * 3)])
def test_replicas_take_the_visible_gpus_in_turn(visible, expected, tmp_path, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    replica = Replica("replica-1", 50051, 9464)
    found = [replica_recipe(tmp_path, replica, place, [], None) for place in range(3)]
    assert [recipe.environment.get("CUDA_VISIBLE_DEVICES") for recipe in found] == expected


def test_a_redis_is_found():
    assert "redis" in run(find_redis(), "--version").stdout.lower()
