"""How the process begins; `contract/test_lifecycle.py` has the rest of its life."""

import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

_WAIT_S = 120
# As in a container, where signals that a process does not handle are lost on it.
_AS_PROCESS_1 = ("unshare", "--pid", "--fork", "--kill-child", "--mount-proc")


@contextmanager
def importing_torch(prefix: Sequence[str]) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """A server that imports torch at this moment, and its process id.

    Left alone, it ends with code 2 some seconds later, since its models file is not there.
    """
    command = [*prefix, sys.executable, "-m", "pairlens_server", "--models", "gone.yaml"]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            yield process, _importing_torch(process)
        finally:
            process.kill()


def _importing_torch(process: subprocess.Popen[str]) -> int:
    end_s = time.monotonic() + _WAIT_S
    while time.monotonic() < end_s and process.poll() is None:
        for found in (psutil.Process(process.pid), *psutil.Process(process.pid).children()):
            if "libtorch" in _maps(found.pid):
                return found.pid
        time.sleep(0.01)
    raise AssertionError("it does not import torch")


def _maps(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/maps").read_text(encoding="utf-8")
    except OSError:
        return ""


def test_without_the_extra_it_says_how_to_install_it():
    # As where only the client was installed.
    code = """
import sys
sys.modules["yaml"] = None
from pairlens_server.app import main
sys.exit(main([]))
"""
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("pairlens-server: yaml is not installed")
    assert done.stderr.count("\n") == 1


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="needs Linux's /proc")
@pytest.mark.parametrize(
    ("prefix", "signals"),
    [
        ((), [signal.SIGTERM]),
        ((), [signal.SIGINT]),
        # The first asks for what the server is about to do anyway.
        ((), [signal.SIGHUP, signal.SIGTERM]),
        (_AS_PROCESS_1, [signal.SIGTERM]),
    ],
)
def test_signals_while_it_imports_are_heeded(prefix, signals):
    if prefix and (
        shutil.which(prefix[0]) is None
        or subprocess.run([*prefix, "true"], capture_output=True, check=False).returncode
    ):
        pytest.skip("process 1 of a namespace needs unshare, and root")
    with importing_torch(prefix) as (process, pid):
        for number in signals:
            psutil.Process(pid).send_signal(number)
        said = process.communicate(timeout=_WAIT_S)
    assert (process.returncode, said) == (0, ("", ""))
