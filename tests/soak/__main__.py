"""Call two replicas and their Redis in every way for a while; do they grow, does anything fail?"""

from __future__ import annotations

import argparse
import os
import sys
import threading
import time
from collections import Counter
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from pairlens import Client
from tests.deploy.running import RunningSet, local_set
from tests.faults.load import beside
from tests.soak.disturbances import NAMES, Disturbances
from tests.soak.report import Outcome, show, write
from tests.soak.sampling import Sampler
from tests.soak.work import Worker, choices_of

_SAMPLED_S = 5.0
_DISTURBED_S = 15.0
_REST_S = 0.01
_THREADS = 4
# Small, so that they are full, and evict, in the first minutes.
_FLAGS = ("--cache-bytes", str(8 * 2**20), "--image-cache-bytes", str(8 * 2**20))


class Soak:
    """One run.

    Args:
        running: The set.
        minutes: How long.
        console: For progress.
    """

    def __init__(self, running: RunningSet, minutes: float, console: Console):
        self._running = running
        self._minutes = minutes
        self._console = console
        self._lock = threading.Lock()
        self._over = threading.Event()
        self._calls: Counter[str] = Counter()
        self._expected: Counter[str] = Counter()
        self._unexpected: Counter[str] = Counter()

    def run(self) -> Outcome:
        """Call until the time is over."""
        pids = {f"replica-{number}": pid for number, pid in enumerate(self._running.pids, 1)}
        sampler = Sampler({**pids, "callers": os.getpid()})
        with Client(self._running.direct_target, name="soak") as client:
            choices = choices_of(client)
            addresses = self._running.addresses
            workers = [
                Worker(client, addresses[seed % len(addresses)], choices, seed)
                for seed in range(_THREADS)
            ]
            disturbances = Disturbances(self._running, self._running.folder / "models.yaml", client)
            with beside([partial(self._work, worker) for worker in workers]):
                try:
                    gone = self._watch(sampler, disturbances)
                finally:
                    self._over.set()
        return Outcome(
            self._minutes,
            self._calls,
            self._expected,
            self._unexpected,
            disturbances.made,
            gone,
            sampler.growths(),
            sampler.samples,
        )

    def _work(self, worker: Worker) -> None:
        try:
            while not self._over.wait(_REST_S):
                call = worker.choose()
                try:
                    call.make()
                    if call.always:
                        self._count(self._unexpected, f"{call.name}: no error")
                except call.expected as error:
                    self._count(self._expected, f"{call.name}: {type(error).__name__}")
                except Exception as error:  # whatever it is, the others go on
                    self._count(self._unexpected, f"{call.name}: {error!r}")
                self._count(self._calls, call.name)
        finally:
            worker.close()

    def _count(self, counts: Counter[str], key: str) -> None:
        with self._lock:
            counts[key] += 1

    def _watch(self, sampler: Sampler, disturbances: Disturbances) -> list[str]:
        """Sample and disturb until the time is over; the processes that ended meanwhile."""
        seconds, begun = 60 * self._minutes, time.monotonic()
        gone: list[str] = []
        turn, disturbed_s = 1, 0.0
        columns = (BarColumn(20), TimeRemainingColumn(), TextColumn("{task.description}"))
        with Progress(*columns, console=self._console) as progress:
            task = progress.add_task("", total=seconds)
            while (at_s := time.monotonic() - begun) < seconds and not gone:
                gone = sampler.take(at_s)
                if at_s - disturbed_s >= _DISTURBED_S:
                    disturbances.next()
                    disturbed_s = at_s
                calls, failures = self._calls.total(), self._unexpected.total()
                told = f"{calls} calls, {calls / max(at_s, 1):.0f} a second, {failures} failed"
                progress.update(task, completed=at_s, description=f"{told}; {sampler.latest()}")
                time.sleep(max(0.0, begun + turn * _SAMPLED_S - time.monotonic()))
                turn += 1
        return gone


def main() -> int:
    """Command line: `python -m tests.soak [--minutes N] [--out FILE]`."""
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=60, help="how long (default %(default)s)")
    parser.add_argument("--out", type=Path, default=Path("soak-results.json"))
    arguments = parser.parse_args()
    console = Console()
    with TemporaryDirectory() as folder:
        flags = ("--replicas", "2", "--redis", "--", *_FLAGS, "--log-calls", "failed")
        with local_set(Path(folder), *flags, models=NAMES) as running:
            outcome = Soak(running, arguments.minutes, Console(stderr=True)).run()
            if running.stop() != 0:
                outcome.gone.append("the set, when it was to stop,")
            if tracebacks := running.logs().count("Traceback"):
                outcome.unexpected["log: Traceback"] = tracebacks
    show(outcome, console)
    write(outcome, arguments.out)
    return 0 if outcome.holds else 1


if __name__ == "__main__":
    sys.exit(main())
