"""What a server answers in time when calls arrive faster than it can work.

Calls arrive at random, as a Poisson process, whatever became of those before (an open loop), each
with a deadline. Goodput is what is answered within it, per second.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from itertools import count

import numpy as np

from tests.benchmark.measure import Row
from tests.benchmark.served import CallerProcess, calling, serving, vit_entry

MODEL = vit_entry("vit-tiny", "vit_tiny_patch16_224")
LOADS = (0.5, 1.0, 2.0, 4.0)
DEADLINE_S = 1.0
GOODPUT_AIM = 0.9

_CLIENTS = 8
_AT_ONCE = 32  # in the closed loop that finds the capacity: enough for full batches
_LEAD_S = 2 * DEADLINE_S  # for the queue to become what it is under this load
FAILED_AIM = 0.01
"""What makes the 99th percentile of the calls that were taken on less than their deadline."""

REFUSED_WITHIN_S = 0.25 * DEADLINE_S
"""A refusal comes at once. What fails later was taken on, and its caller waited for nothing."""


@dataclass
class Answers:
    """What came of the calls at one load.

    Attributes:
        seconds: In which they ended.
        good_s: Latency of each that was answered in time.
        failed_s: Of each that was taken on and not answered in time.
        refused_s: Of each that was refused.
        late_s: The worst 99th percentile of how late calls were sent.
        cpu: The largest share of a core that the clients took.
    """

    seconds: float = 0.0
    good_s: list[float] = field(default_factory=list)
    failed_s: list[float] = field(default_factory=list)
    refused_s: list[float] = field(default_factory=list)
    late_s: float = 0.0
    cpu: float = 0.0

    def add(self, status: str, seconds: float) -> None:
        """Count one call."""
        if status not in ("OK", "RESOURCE_EXHAUSTED", "DEADLINE_EXCEEDED"):
            raise RuntimeError(f"a call ended with {status}")
        if status == "OK" and seconds <= DEADLINE_S:
            self.good_s.append(seconds)
        elif status != "OK" and seconds <= REFUSED_WITHIN_S:
            self.refused_s.append(seconds)
        else:
            self.failed_s.append(seconds)

    @property
    def goodput(self) -> float:
        """Answers in time, per second."""
        return len(self.good_s) / self.seconds

    @property
    def admitted_s(self) -> list[float]:
        """How long each call lasted that was taken on, whatever became of it."""
        return self.good_s + self.failed_s

    @property
    def failed_share(self) -> float:
        """Of the calls that were taken on, those that were not answered in time."""
        return len(self.failed_s) / max(1, len(self.admitted_s))


def load_rows(quick: bool) -> list[Row]:
    """Goodput and latency at loads up to four times the capacity."""
    rounds, seconds = (1, 4.0) if quick else (4, 10.0)
    # One core is left for the event loop, decoding and the clients, where there are two.
    threads = max(1, (os.cpu_count() or 2) - 1)
    with serving(MODEL, threads=threads) as server:
        with calling(server.target, _AT_ONCE) as clients:
            capacity = _capacity(clients, seconds)
        with calling(server.target, _CLIENTS) as clients:
            found = _at_loads(clients, capacity, rounds, seconds)
    return _rows(capacity, found, f"{rounds * seconds:g} s a load")


def _capacity(clients: CallerProcess, seconds: float) -> float:
    """Answers per second when there is always work and never too much."""
    # Numbers far from those of the loads: no picture is met twice.
    numbers = count(10_000_000, 1_000_000)
    model, pictures = MODEL["name"], 4 * _AT_ONCE
    took = clients.do("explain", model=model, first=next(numbers), count=pictures)["seconds"]
    pictures = max(pictures, int(pictures / took * seconds))
    took = clients.do("explain", model=model, first=next(numbers), count=pictures)["seconds"]
    return pictures / float(took)


def _at_loads(
    clients: CallerProcess, capacity: float, rounds: int, seconds: float
) -> dict[float, Answers]:
    found = {load: Answers() for load in LOADS}
    numbers = count(0, 1_000_000)
    for turn in range(rounds):
        # There and back, so that drifts of the machine meet all loads alike.
        for load in LOADS[:: -1 if turn % 2 else 1]:
            first = next(numbers)
            report = clients.do(
                "arrive",
                model=MODEL["name"],
                first=first,
                rate=load * capacity,
                lead_s=_LEAD_S,
                seconds=seconds,
                deadline_s=DEADLINE_S,
                seed=first,
            )
            answers = found[load]
            answers.seconds += seconds
            answers.late_s = max(answers.late_s, report["late_s"])
            answers.cpu = max(answers.cpu, report["cpu"])
            for status, latency in report["outcomes"]:
                answers.add(status, latency)
    return found


def _rows(capacity: float, found: dict[float, Answers], effort: str) -> list[Row]:
    overload = found[max(LOADS)]
    goodputs = ", ".join(f"{answers.goodput:.1f} at {load:g}" for load, answers in found.items())
    sending = (
        f"clients used {100 * overload.cpu:.0f} % of a core, "
        f"99 % of calls left within {1000 * overload.late_s:.0f} ms of their moment"
    )
    title = f"open-loop Explain(rollout), ViT-Ti/16, {DEADLINE_S:g} s deadline, {effort}"
    best = max(answers.goodput for answers in found.values())
    slowest = max(_p99(answers.admitted_s) for answers in found.values())
    failed = max(answers.failed_share for answers in found.values())
    return [
        Row(
            name=f"{title}: goodput at 4 times capacity vs the best",
            ours=overload.goodput,
            baseline=best,
            unit="answers/s",
            ratio=overload.goodput / best,
            aim=GOODPUT_AIM,
            better="higher",
            note=f"capacity {capacity:.1f}; goodput {goodputs} times capacity; {sending}",
        ),
        Row(
            name=f"{title}: p99 of calls taken on, at the worst load, vs the deadline",
            ours=slowest,
            baseline=DEADLINE_S,
            unit="s",
            ratio=slowest / DEADLINE_S,
            aim=1.0,
            better="lower",
            note=f"at 4 times capacity {len(overload.refused_s)} were refused, "
            f"99 % of them within {1000 * _p99(overload.refused_s):.0f} ms",
        ),
        Row(
            name=f"{title}: share of calls taken on that were not answered in time, at the "
            "worst load",
            ours=failed,
            baseline=FAILED_AIM,
            unit="",
            ratio=failed,
            aim=FAILED_AIM,
            better="lower",
            note=", ".join(
                f"{len(a.failed_s)} of {len(a.admitted_s)} at {load:g}" for load, a in found.items()
            ),
        ),
    ]


def _p99(seconds: list[float]) -> float:
    return float(np.percentile(seconds, 99)) if seconds else 0.0
