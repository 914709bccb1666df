"""Counted in a process of its own, whose malloc nobody else has told anything."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

_SCRIPT = """
import resource, sys, threading
import psutil, timm, torch
from pairlens_server import allocator

if sys.argv[1] == "keep":
    assert allocator.keep_freed_memory()
model = timm.create_model("resnet18").eval()
pictures = torch.zeros(8, 3, 224, 224)

@torch.inference_mode()
def passes():
    for _ in range(3):
        model(pictures)

def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

def measure():
    passes()
    before = faults()
    passes()
    print(faults() - before)
    held = psutil.Process().memory_info().rss
    allocator.give_back_freed_memory()
    print(held - psutil.Process().memory_info().rss)

# As models run: on a thread of their own.
thread = threading.Thread(target=measure)
thread.start()
thread.join()
"""


def _measured(choice: str) -> tuple[int, int]:
    command = [sys.executable, "-c", _SCRIPT, choice]
    # malloc's own default, which it otherwise raises while it runs, by what happens to be freed.
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "131072"}
    done = subprocess.run(
        command, capture_output=True, text=True, check=True, timeout=120, env=environment
    )
    faults, returned = done.stdout.split()
    return int(faults), int(returned)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc's malloc")
def test_kept_memory_is_not_touched_anew_and_is_given_back_on_request():
    kept_faults, kept_returned = _measured("keep")
    plain_faults, _ = _measured("plain")
    assert plain_faults > 3000
    assert kept_faults < plain_faults / 10
    assert kept_returned > 8 * 2**20
