"""How a set starts and fails to, with cheap processes in the place of replicas."""

import asyncio
import json
import time

import psutil
import pytest

from deploy.local import recipes
from deploy.local.local_set import STATE_FILE, LocalSet, SetOptions
from deploy.local.part import PartError, Recipe

SLEEPING = ("sleep", "600")
LIMIT_S = 20


@pytest.fixture
def make(tmp_path, monkeypatch):
    """Makes a set of replicas, of each a command and the file that says that it is ready."""

    def made(*commands):
        def recipe(folder, replica, place, flags, redis_url):
            ready = (folder / f"ready-{place}").exists
            return Recipe(replica.name, commands[place], folder / f"{replica.name}.log", ready)

        monkeypatch.setattr(recipes, "replica_recipe", recipe)
        options = SetOptions(len(commands), [], "client", False, False, 0, 0, 0, tmp_path)
        return LocalSet(options, lambda text: None)

    return made


def children():
    return [child.pid for child in psutil.Process().children() if child.status() != "zombie"]


async def until(is_so):
    end = time.monotonic() + LIMIT_S
    while not is_so():
        assert time.monotonic() < end
        await asyncio.sleep(0.01)


async def test_one_that_fails_has_nobody_wait_for_the_others(make):
    local_set = make(("sh", "-c", "exit 2"), SLEEPING)
    before = children()
    with pytest.raises(PartError, match=r"replica-1 ended \(exit code 2\)"):
        await asyncio.wait_for(local_set.start(), LIMIT_S)
    await asyncio.wait_for(local_set.stop(), LIMIT_S)
    assert children() == before


async def test_scripts_are_told_when_all_are_ready(make, tmp_path):
    state = tmp_path / STATE_FILE
    state.write_text("of an earlier set")
    local_set = make(SLEEPING, SLEEPING)
    before = len(children())
    starting = asyncio.create_task(local_set.start())
    try:
        (tmp_path / "ready-0").touch()
        await until(lambda: len(children()) == before + 2)
        await asyncio.sleep(0.5)  # in which the first is seen to be ready
        assert not state.exists()
        (tmp_path / "ready-1").touch()
        await asyncio.wait_for(starting, LIMIT_S)
        found = json.loads(state.read_text())
        assert [psutil.pid_exists(replica["pid"]) for replica in found["replicas"]] == [True, True]
    finally:
        starting.cancel()
        await local_set.stop()
