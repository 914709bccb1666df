"""Threads that call through the SDK again and again, as its users do."""

from __future__ import annotations

import json
import random
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field

import numpy as np

from pairlens import Client, PairlensError
from pairlens.options import CachePolicy
from tests.faults.calls import until
from tests.faults.load import beside

_REST_S = 0.02
_MODELS = ("tiny-vit", "tiny-resnet")
_POLICIES: tuple[CachePolicy, ...] = ("default", "bypass")
PICTURES = tuple(
    np.random.default_rng(seed).integers(0, 256, (40, 60, 3), dtype=np.uint8) for seed in range(12)
)


@dataclass
class SdkReport:
    """What calls came to.

    Attributes:
        failures: Of each failed call what was asked, how long it took and the error.
        calls: When each successful call began, by the monotonic clock, and the seconds it took.
    """

    failures: list[str] = field(default_factory=list)
    calls: list[tuple[float, float]] = field(default_factory=list)

    def slowest_s(self, since: float = 0.0) -> float:
        """Of the calls that began since then."""
        return max(seconds for begun, seconds in self.calls if begun >= since)

    def await_more(self, count: int, timeout_s: float = 60.0) -> None:
        """Wait until that many more calls have ended well."""
        wanted = len(self.calls) + count
        until(lambda: len(self.calls) >= wanted, f"{count} more calls", timeout_s)


def _explain(client: Client, choose: random.Random) -> object:
    model = choose.choice(_MODELS)
    method = choose.choice(("grad_cam", "full_grad"))
    policy = choose.choice(_POLICIES)
    return client.explain(choose.choice(PICTURES), model=model, method=method, cache=policy)


def _pair(client: Client, choose: random.Random) -> object:
    query, *others = choose.sample(PICTURES, 4)
    return client.pair_similarity(query, others, model=choose.choice(_MODELS))


def _embed(client: Client, choose: random.Random) -> object:
    return client.embed(choose.sample(PICTURES, 3), model=choose.choice(_MODELS))


_CALLS: tuple[Callable[[Client, random.Random], object], ...] = (_explain, _pair, _embed)


@contextmanager
def sdk_load(targets: Sequence[str], threads: int = 2) -> Iterator[list[SdkReport]]:
    """Call through one client for each target, on some threads each, until the block ends.

    Yields:
        A report for each target, whole at the end of the block.
    """
    reports = [SdkReport() for _ in targets]
    stop = threading.Event()

    def work(client: Client, report: SdkReport, seed: int) -> None:
        choose = random.Random(seed)
        # With rests, so that servers that start meanwhile have something of the processor.
        while not stop.wait(_REST_S):
            call, begun = choose.choice(_CALLS), time.monotonic()
            try:
                call(client, choose)
            except PairlensError as error:
                seconds = time.monotonic() - begun
                report.failures.append(f"{call.__name__} after {seconds:.2f} s: {error!r}")
            else:
                report.calls.append((begun, time.monotonic() - begun))

    with ExitStack() as stack:
        workers = []
        for place, (target, report) in enumerate(zip(targets, reports, strict=True)):
            client = stack.enter_context(Client(target, name=f"load-{place}"))
            workers += [
                lambda c=client, r=report, s=100 * place + number: work(c, r, s)
                for number in range(threads)
            ]
        with beside(workers):
            try:
                yield reports
            finally:
                stop.set()


def main(target: str) -> None:
    """Call until standard input ends, then print the failures, the calls and the slowest one."""
    with sdk_load([target]) as (report,):
        sys.stdin.read()
    outcome = [report.failures, len(report.calls), report.slowest_s()]
    sys.stdout.write(json.dumps(outcome) + "\n")


if __name__ == "__main__":
    main(sys.argv[1])
