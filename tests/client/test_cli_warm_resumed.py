"""`pairlens warm` that is killed, interrupted, or left by its server."""

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

from pairlens.v1 import explanation_service_pb2
from tests.client.conftest import Run
from tests.client.galleries import counts, hashes
from tests.client.scripted import Running, Scripted, fails

WARM = explanation_service_pb2.WarmRequest


def test_a_killed_run_goes_on(server: Running, service: Scripted, gallery: Path, tmp_path: Path):
    release = threading.Event()
    warms = []

    def arrived(_: object) -> None:
        if isinstance(service.calls[-1], WARM):
            warms.append(1)
            if len(warms) > 2:
                release.wait(20)

    service.limits.max_candidates = 2
    service.script.extend([arrived] * 100)
    command = [sys.executable, "-m", "pairlens", "warm", gallery, "--model", "vit"]
    command += ["--state", tmp_path / "state", "--concurrency", "1", "--server", server.target]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    finished = threading.Event()

    def watch() -> None:
        while len(warms) < 3:
            if finished.wait(0.01):
                return
        os.kill(process.pid, signal.SIGKILL)

    watcher = threading.Thread(target=watch)
    watcher.start()
    process.communicate(timeout=30)
    finished.set()
    watcher.join()
    release.set()
    assert process.returncode == -signal.SIGKILL
    state = tmp_path / "state"
    assert len(state.read_bytes().splitlines()) == 4
    state.write_bytes(state.read_bytes() + b'{"run": "torn, "pa')
    service.script.clear()
    service.calls.clear()
    command[-1] = server.target
    done = subprocess.run([*command, "--json"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert counts(done.stdout)["finished_before"] == 4
    assert sum(len(request.images) for request in service.requests(WARM)) == 6
    assert sorted({*service.warmed}) == hashes(*range(10))
    again = subprocess.run([*command, "--json"], capture_output=True, text=True, check=False)
    assert counts(again.stdout)["finished_before"] == 10
    assert "(10 from before)" in again.stderr


def test_an_interrupted_run_says_how_to_go_on(warm: Run, service: Scripted):
    service.limits.max_candidates = 2
    warms = []

    def arrived(_: object) -> None:
        if isinstance(service.calls[-1], WARM):
            warms.append(1)
            if len(warms) == 3:
                os.kill(os.getpid(), signal.SIGINT)

    service.script.extend([arrived] * 100)
    code, out, err = warm("--state", "state", "--json", "--concurrency", "1")
    service.script.clear()
    assert code == 130
    done = counts(out).get("computed", 0)
    assert 0 < done < 10
    assert f"interrupted with {10 - done} of 10 pictures left; the same command goes on" in err
    code, out, _ = warm("--state", "state", "--json")
    assert code == 0
    # The signal may have come between a group's writing and its counting.
    assert counts(out)["finished_before"] in (done, done + 2)


def test_a_server_that_goes_away_ends_it(run: Run, gallery: Path, monkeypatch):
    monkeypatch.setattr("pairlens.cli_warm._WAITS_S", (0.01,))
    running = Running()
    server, service = running.target, running.service
    service.limits.max_candidates = 2
    stopped = []

    def arrived(context: object) -> None:
        if isinstance(service.calls[-1], WARM):
            stopped.append(1)
            if len(stopped) > 2:
                fails("DRAINING", "the server stops")(context)

    service.script.extend([arrived] * 200)
    arguments = ("warm", gallery, "--model", "vit", "--state", "state", "--server", server)
    code, out, err = run(*arguments, "--concurrency", "1")
    assert (code, out) == (1, "")
    assert "what is done is kept; the same command goes on" in err
    assert err.endswith("pairlens: the server stops\n")
    service.script.clear()
    code, out, err = run(*arguments, "--json")
    running.stop()
    assert code == 0
    assert counts(out)["finished_before"] == 4
