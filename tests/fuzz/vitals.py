"""What a server process holds, and whether it answers right."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import grpc
import psutil

from pairlens.v1 import common_pb2, explanation_service_pb2, explanation_service_pb2_grpc
from tests.fuzz.cases import DATA_TOKEN
from tests.fuzz.messages import MODELS
from tests.fuzz.pictures import whole
from tests.server_process import ServerProcess

_REST_S = 30.0
_SAMPLED_S, _CALM = 0.1, 5
_SHOWN = 20
_MORE_THREADS = 12
_MORE_MIB = 200.0  # allocators keep some, and caches fill
_LEAK_MIB, _SAMPLES = 30.0, 8


@dataclass(frozen=True)
class Vitals:
    """Of a process.

    Attributes:
        rss_mib: Memory that it occupies.
        descriptors: Open files and sockets.
        threads: Of it.
    """

    rss_mib: float
    descriptors: int
    threads: int

    def __str__(self) -> str:
        return f"{self.rss_mib:.0f} MiB, {self.descriptors} descriptors, {self.threads} threads"


def vitals_of(server: ServerProcess) -> Vitals:
    """What it holds now."""
    process = psutil.Process(server.process.pid)
    with process.oneshot():
        memory = process.memory_info().rss / 2**20
        return Vitals(memory, process.num_fds(), process.num_threads())


def peak_mib(server: ServerProcess) -> float:
    """The most memory that it has occupied so far."""
    status = Path(f"/proc/{server.process.pid}/status").read_text(encoding="ascii")
    (line,) = (line for line in status.splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) / 1024


def rested(server: ServerProcess, before: Vitals | None = None) -> Vitals:
    """What it holds once calls are over: no more files than before, and the same for a while."""
    end = time.monotonic() + _REST_S
    last, same = vitals_of(server), 0
    while True:
        time.sleep(_SAMPLED_S)
        now = vitals_of(server)
        same = same + 1 if now.descriptors == last.descriptors else 0
        calm = same >= _CALM and now.descriptors <= (before or now).descriptors
        if calm or time.monotonic() > end:
            return now
        last = now


def grown(before: Vitals, after: Vitals, samples: Sequence[float] = ()) -> list[str]:
    """What a server holds on to.

    Args:
        before: After some calls, at rest.
        after: After many more, at rest.
        samples: Its memory on the way, in MiB, evenly spread.
    """
    found = []
    if after.descriptors > before.descriptors:
        found.append(f"descriptors: {before.descriptors}, then {after.descriptors}")
    # Pools of gRPC grow to their bound with the calls under way.
    if after.threads > before.threads + _MORE_THREADS:
        found.append(f"threads: {before.threads}, then {after.threads}")
    if after.rss_mib > before.rss_mib + _MORE_MIB:
        found.append(f"memory: {before.rss_mib:.0f} MiB, then {after.rss_mib:.0f}")
    # What leaks goes on growing in the second half.
    half = len(samples) // 2
    if half >= _SAMPLES and min(samples[-half // 2 :]) > max(samples[: half + 1]) + _LEAK_MIB:
        found.append("memory grows: " + " ".join(f"{sample:.0f}" for sample in samples))
    return found


def log_problems(log: str) -> list[str]:
    """What does not belong into a log of JSON lines: bugs, and what libraries print past it."""
    found = []
    for line in log.splitlines():
        try:
            record = json.loads(line)
        except ValueError:
            found.append(f"not a line of the log: {line}")
            continue
        if "internal error" in record["message"]:
            found.append(line)
    return found[:_SHOWN]


def answers(target: str) -> list[bytes]:
    """Answers to fixed questions, computed anew, without what differs between two times."""
    with grpc.insecure_channel(target) as channel:
        stub = explanation_service_pb2_grpc.ExplanationServiceStub(channel)
        found = []
        for model in MODELS:
            request = explanation_service_pb2.ExplainRequest(
                model=model,
                image=common_pb2.Image(inline=whole()[0]),
                cache=common_pb2.CACHE_POLICY_BYPASS,
            )
            answer = stub.Explain(
                request, timeout=30, metadata=(("authorization", f"Bearer {DATA_TOKEN}"),)
            )
            answer.ClearField("timing")
            found.append(answer.SerializeToString(deterministic=True))
        return found
