"""The set of `python -m deploy.local` in a process of its own, with small models."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from tests.server_process import START_TIMEOUT_S, STOP_TIMEOUT_S, Metrics, write_models

ROOT = Path(__file__).parents[2]


@dataclass
class RunningSet:
    """A set under test.

    Attributes:
        process: The supervisor.
        folder: Of its logs and of set.json.
    """

    process: subprocess.Popen[str]
    folder: Path

    @property
    def state(self) -> dict[str, Any]:
        """What set.json says now."""
        found: dict[str, Any] = json.loads((self.folder / "set.json").read_text(encoding="utf-8"))
        return found

    @property
    def addresses(self) -> list[str]:
        """HOST:PORT of gRPC of each replica."""
        return [replica["address"] for replica in self.state["replicas"]]

    @property
    def direct_target(self) -> str:
        """All replicas, for a client that spreads its calls itself."""
        return "ipv4:" + ",".join(self.addresses)

    @property
    def pids(self) -> list[int]:
        """Of each replica."""
        return [replica["pid"] for replica in self.state["replicas"]]

    @property
    def output(self) -> str:
        """What the supervisor has said so far."""
        return (self.folder / "output.txt").read_text(encoding="utf-8")

    def scrape(self, place: int) -> Metrics:
        """What /metrics of a replica says now."""
        url = f"http://{self.state['replicas'][place]['metrics']}/metrics"
        with urllib.request.urlopen(url) as answer:
            return Metrics(answer.read().decode())

    def logs(self) -> str:
        """What all replicas have written."""
        return "\n".join(
            Path(replica["log"]).read_text(encoding="utf-8") for replica in self.state["replicas"]
        )

    def until(self, is_so: Callable[[dict[str, Any]], bool], timeout_s: float) -> None:
        """Wait until set.json says so."""
        end = time.monotonic() + timeout_s
        while not ((self.folder / "set.json").exists() and is_so(self.state)):
            assert self.process.poll() is None, self.output
            assert time.monotonic() < end, self.output
            time.sleep(0.05)

    def children(self) -> list[psutil.Process]:
        """All processes of the set but the supervisor."""
        return psutil.Process(self.process.pid).children(recursive=True)

    def stop(self) -> int:
        """End it as Ctrl-C does; its exit code."""
        self.process.send_signal(signal.SIGINT)
        return self.process.wait(STOP_TIMEOUT_S)


def command(folder: Path, *arguments: str) -> list[str]:
    """The command line of a set on free ports."""
    ports = ["--port", "0", "--metrics-port", "0", "--prometheus-port", "0"]
    return [
        *(sys.executable, "-m", "deploy.local", "--folder", str(folder)),
        *(*ports, *arguments),
    ]


@contextmanager
def local_set(
    folder: Path, *arguments: str, models: Sequence[str] = ("tiny-vit", "tiny-resnet")
) -> Iterator[RunningSet]:
    """Start a set and wait until all of it is ready; nothing of it is left at the end.

    Args:
        folder: Of its logs, and of its models file `models.yaml`.
        arguments: Of the command line.
        models: Of `tests.server_process.MODELS`.
    """
    path = write_models(folder, models)
    with (folder / "output.txt").open("w", encoding="utf-8") as output:
        process = subprocess.Popen(
            command(folder, "--models", str(path), *arguments),
            cwd=ROOT,
            stdout=output,
            stderr=output,
            text=True,
        )
    running = RunningSet(process, folder)
    try:
        running.until(lambda state: True, START_TIMEOUT_S)
        yield running
    finally:
        if process.poll() is None:
            children = running.children()
            process.kill()
            process.wait()
            for child in children:
                child.kill()
            psutil.wait_procs(children, STOP_TIMEOUT_S)
