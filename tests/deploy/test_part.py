"""A process that is kept running, with cheap processes."""

import asyncio
import signal
import subprocess
import sys
import time
from contextlib import asynccontextmanager, suppress

import psutil
import pytest

from deploy.local.part import Part, PartError, Recipe
from tests.deploy.running import ROOT

SLEEPING = ("sleep", "600")


class Heard(list):
    def __call__(self, text):
        self.append(text)


def make(tmp_path, command=SLEEPING, is_ready=lambda: True, **fields):
    said, changes = Heard(), []
    recipe = Recipe("part", command, tmp_path / "part.log", is_ready, **fields)
    return Part(recipe, said, lambda: changes.append(None)), said, changes


async def until(is_so):
    end = time.monotonic() + 20
    while not is_so():
        assert time.monotonic() < end
        await asyncio.sleep(0.01)


@asynccontextmanager
async def kept(part):
    await part.start()
    keeping = asyncio.create_task(part.keep())
    try:
        yield
    finally:
        keeping.cancel()
        with suppress(asyncio.CancelledError):
            await keeping
        await part.stop()


async def test_what_dies_is_started_again(tmp_path):
    part, said, changes = make(tmp_path)
    async with kept(part):
        first = part.pid
        psutil.Process(first).kill()
        await until(lambda: len(changes) == 2)
        assert part.pid != first
        assert psutil.Process(part.pid).is_running()
        assert said[0] == "part ended (signal 9); it is started again now"
        await until(lambda: "part is ready again" in said)
    assert not psutil.pid_exists(part.pid)


async def test_pauses_grow_for_what_dies_at_once(tmp_path, monkeypatch):
    monkeypatch.setattr("deploy.local.part._FIRST_PAUSE_S", 0.01)
    part, said, _ = make(tmp_path, ("sh", "-c", "exit 3"))
    async with kept(part):
        await until(lambda: len(said) >= 8)
    told = [text for text in said if text.startswith("part ended (exit code 3);")]
    assert [text.rpartition(" again ")[2] for text in told[:4]] == [
        *("now", "in 0.01 s", "in 0.02 s", "in 0.04 s"),
    ]


async def test_a_restart_on_purpose_is_no_death(tmp_path):
    part, said, changes = make(tmp_path)
    async with kept(part):
        first = part.pid
        await part.restart()
        assert part.pid != first
        assert not psutil.pid_exists(first)
        await asyncio.sleep(0.1)
        assert psutil.Process(part.pid).is_running()
    assert (said, len(changes)) == ([], 2)


async def test_what_ends_before_it_is_ready_is_told_with_its_last_words(tmp_path):
    command = ("sh", "-c", "seq 20; echo this is why >&2; exit 2")
    part, _, changes = make(tmp_path, command, is_ready=lambda: False)
    with pytest.raises(PartError) as caught:
        await part.start()
    first, *rest = str(caught.value).splitlines()
    log = tmp_path / "part.log"
    assert first == f"part ended (exit code 2) before it was ready; its log, {log}, ends with:"
    assert rest == [*(f"  {number}" for number in range(12, 21)), "  this is why"]
    assert not changes


async def test_what_is_never_ready_is_ended(tmp_path):
    part, _, _ = make(tmp_path, is_ready=lambda: False, start_s=0.3)
    with pytest.raises(PartError, match=r"part was not ready within 0\.3 s"):
        await part.start()
    assert not psutil.pid_exists(part.pid)


def deaf(tmp_path, stop_s):
    """A process that does not end when it is told to."""
    command = ("sh", "-c", "trap '' TERM; echo deaf; while true; do sleep 0.1; done")
    log = tmp_path / "part.log"
    return make(tmp_path, command, lambda: log.read_text() == "deaf\n", stop_s=stop_s)


async def test_what_does_not_end_is_killed(tmp_path):
    part, said, _ = deaf(tmp_path, 0.3)
    await part.start()
    await part.stop()
    assert not psutil.pid_exists(part.pid)
    assert said == ["part did not end within 0.3 s; killed"]


async def test_nobody_has_to_wait_for_that(tmp_path):
    part, said, _ = deaf(tmp_path, 600)
    await part.start()
    stopping = asyncio.create_task(part.stop())
    await asyncio.sleep(0.1)
    assert not stopping.done()
    part.kill()
    await stopping
    assert not psutil.pid_exists(part.pid)
    assert not said


def test_it_ends_with_its_supervisor_however_that_ends(tmp_path):
    script = f"""
import asyncio, pathlib
from deploy.local.part import Part, Recipe
async def main():
    part = Part(Recipe("part", {SLEEPING!r}, pathlib.Path({str(tmp_path / "log")!r}), lambda: True),
                print, lambda: None)
    await part.start()
    print(part.pid, flush=True)
    await asyncio.sleep(600)
asyncio.run(main())
"""
    with subprocess.Popen(
        [sys.executable, "-c", script], cwd=ROOT, stdout=subprocess.PIPE, text=True
    ) as supervisor:
        pid = int(supervisor.stdout.readline())
        child = psutil.Process(pid)
        supervisor.send_signal(signal.SIGKILL)
    end = time.monotonic() + 20
    while child.is_running() and child.status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < end
        time.sleep(0.02)
