"""Threads of processes of their own are counted: those of OpenMP are unknown to Python."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.contract.support import decomposition, png
from tests.faults.calls import Caller, Explain, Pair, inline
from tests.server_process import MODELS, server_process, write_models

_SCRIPT = """
import asyncio, os, sys, threading
from types import SimpleNamespace
import torch
from pairlens_server import torch_threads
from pairlens_server.serving import _share_threads

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
    before, usual = helpers(), torch.get_num_threads()
    models = [SimpleNamespace(device=device) for device in sys.argv[2:]]
    prepare_device = _share_threads(int(sys.argv[1]) or None, models)
    early = torch_threads.pool(1, "early")
    numbers = [compute(), await loop.run_in_executor(early, compute)]
    device = torch_threads.pool(1, "device")
    await loop.run_in_executor(device, prepare_device)
    for pool in (device, torch_threads.pool(1, "late"), None, early, device):
        numbers.append(await loop.run_in_executor(pool, compute))
    print(usual, *numbers, compute(), helpers() - before)

asyncio.run(main())
"""


def _counted(threads: int, *devices: str) -> list[int]:
    done = subprocess.run(
        [sys.executable, "-c", _SCRIPT, str(threads), *devices],
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    return [int(number) for number in done.stdout.split()]


in_linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="counts in /proc")


@in_linux
@pytest.mark.parametrize("setting", [0, 1, 3])
def test_one_thread_alone_has_a_team_where_a_model_is_on_the_cpu(setting):
    usual, *numbers, helpers = _counted(setting, "cuda", "cpu")
    team = setting or usual
    assert numbers == [1, 1, team, 1, 1, 1, team, 1]
    assert helpers == team - 1


@in_linux
@pytest.mark.parametrize("setting", [0, 3])
def test_threads_are_left_alone_where_all_models_are_on_gpus(setting):
    usual, loop, early, device, *_ = _counted(setting, "cuda:0", "cuda")
    assert (loop, early, device) == (usual, usual, setting or usual)


def _threads(folder: Path, usual: int) -> int:
    """Threads of a server that has computed at all places where it does.

    Args:
        folder: For its files.
        usual: What its model computes with, and what whoever is told nothing would.
    """
    size = [224, 224]
    wide = {"projection": {"size": 256}}  # so that products of maps are worth a team
    fields = {"preprocessing": {"size": size, "resize": "stretch"}, **wide}
    model = {**next(m for m in MODELS if m["name"] == "tiny-vit"), **fields}
    environment = ("env", f"OMP_NUM_THREADS={usual}", "OPENBLAS_NUM_THREADS=1")
    folder.mkdir()
    flags = ("--torch-threads", str(usual))
    models = write_models(folder, [], also=[model])
    with server_process(models, folder / "log", *flags, prefix=environment) as server:
        server.listening()
        server.serving()
        pair = Pair(
            model="tiny-vit",
            query=inline(png(0, *size)),
            candidates=[inline(png(seed, *size)) for seed in range(1, 9)],
            method=decomposition(match_matrix=True),
        )
        with Caller(server.target) as caller:
            # Together, so that batches are prepared while others run.
            explains = [
                caller.begin(Explain(model="tiny-vit", image=inline(png(seed, *size))))
                for seed in range(20, 40)
            ]
            for call in [*explains, caller.begin(pair)]:
                assert call.result() is not None
        return len(list(Path(f"/proc/{server.process.pid}/task").iterdir()))


@in_linux
def test_the_model_of_a_server_has_the_only_team(tmp_path):
    """A few threads more or less are those that calls were shared out to."""
    more = _threads(tmp_path / "team", usual=25) - _threads(tmp_path / "alone", usual=1)
    assert 12 < more < 36
