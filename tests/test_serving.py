"""The pieces of a server's life; `faults/test_draining.py` lives through it."""

import asyncio
import subprocess
import sys
import time

import pytest

from pairlens_server.serving import first_of


@pytest.mark.parametrize("which", [0, 1])
async def test_the_first_event_ends_the_wait(which):
    events = asyncio.Event(), asyncio.Event()
    waiting = asyncio.create_task(first_of(*events))
    await asyncio.sleep(0.05)
    assert not waiting.done()
    events[which].set()
    for _ in range(10):  # turns of the loop, without any time
        await asyncio.sleep(0)
    assert waiting.done()


async def test_a_task_ends_the_wait_and_is_left_alone():
    task = asyncio.create_task(asyncio.sleep(3600))
    event = asyncio.Event()
    event.set()
    await first_of(event, task)
    assert not task.cancelled()
    task.cancel()
    await first_of(asyncio.Event(), task)


STUCK = """
import threading
from pairlens_server.serving import _given_up_after
with _given_up_after({seconds}, 3):
    threading.Event().wait({stuck})
print("went on")
"""


def test_what_is_stuck_at_the_end_does_not_keep_the_process():
    begun = time.monotonic()
    command = [sys.executable, "-c", STUCK.format(seconds=0.2, stuck=100)]
    found = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (found.returncode, found.stdout) == (3, "")
    assert time.monotonic() - begun < 90


def test_what_ends_in_time_is_left_alone():
    command = [sys.executable, "-c", STUCK.format(seconds=60, stuck=0.01)]
    found = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (found.returncode, found.stdout) == (0, "went on\n")
