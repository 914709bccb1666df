"""Counted in a process of its own, of whose threads OpenMP's alone are unknown to Python."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

_SCRIPT = """
import asyncio, os, sys, threading
import torch
from pairlens_server import torch_threads

matrix = torch.ones(600, 600)

def compute():
    "A product by a library with threads of its own, and a sum by torch's."
    matrix @ matrix
    (matrix.repeat(9, 1) + 1).sum()
    return torch.get_num_threads()

def helpers():
    return len(os.listdir("/proc/self/task")) - threading.active_count()

async def main():
    loop = asyncio.get_running_loop()
    before = helpers()
    usual = torch_threads.compute_alone()
    loop.set_default_executor(torch_threads.pool(None, "asyncio"))
    early = torch_threads.pool(1, "early")
    numbers = [usual, compute(), await loop.run_in_executor(early, compute)]
    device = torch_threads.pool(1, "device")
    await loop.run_in_executor(device, torch_threads.compute_together, int(sys.argv[1]), loop)
    for pool in (device, torch_threads.pool(1, "late"), None, early, device):
        numbers.append(await loop.run_in_executor(pool, compute))
    print(*numbers, compute(), helpers() - before)

asyncio.run(main())
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="counts threads in /proc")
@pytest.mark.parametrize("threads", [1, 3])
def test_one_thread_alone_has_a_team(threads):
    done = subprocess.run(
        [sys.executable, "-c", _SCRIPT, str(threads)],
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    usual, *numbers, helpers = map(int, done.stdout.split())
    assert usual == torch.get_num_threads()
    assert numbers == [1, 1, threads, 1, 1, 1, threads, 1]
    assert helpers == threads - 1
