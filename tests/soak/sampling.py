"""What processes hold: memory, descriptors and threads, over time."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from statistics import median

import psutil


@dataclass(frozen=True)
class Sample:
    """One process at one time.

    Attributes:
        at_s: Seconds since the load began.
        rss: Resident memory, in MiB.
        fds: Open descriptors.
        threads: Of the process.
    """

    at_s: float
    rss: float
    fds: int
    threads: int


@dataclass(frozen=True)
class Bound:
    """How much a quantity may grow between the third and the last quarter of a run.

    Attributes:
        share: Of what it was.
        absolute: And so much beside, in the quantity's unit.
    """

    share: float
    absolute: float

    def of(self, before: float) -> float:
        """The largest growth from there."""
        return self.share * before + self.absolute


# Caches are full and every code path has run by half-time. In an hour, of which a quarter is 15
# minutes, this finds what loses 4 MiB a minute in a process of 900 MiB, and a descriptor that is
# lost once in 4 minutes; gRPC's own threads come and go.
BOUNDS: Mapping[str, Bound] = {
    "rss": Bound(0.05, 16),
    "fds": Bound(0.0, 4),
    "threads": Bound(0.0, 4),
}


@dataclass(frozen=True)
class Growth:
    """One quantity of one process.

    Attributes:
        process, quantity: Whose and what.
        before, after: Medians of the third and of the last quarter of the run.
        bound: The largest growth that is taken.
        course: All values, in the order of time.
    """

    process: str
    quantity: str
    before: float
    after: float
    bound: float
    course: tuple[float, ...] = field(repr=False)

    @property
    def holds(self) -> bool:
        """Whether it grew no more than it may."""
        return self.after - self.before <= self.bound


class Sampler:
    """Looks at processes again and again."""

    def __init__(self, pids: Mapping[str, int]):
        self._processes = {name: psutil.Process(pid) for name, pid in pids.items()}
        self.samples: dict[str, list[Sample]] = {name: [] for name in pids}

    def take(self, at_s: float) -> list[str]:
        """Look once.

        Returns:
            The processes that are no more.
        """
        gone = []
        for name, process in self._processes.items():
            try:
                with process.oneshot():
                    rss = process.memory_info().rss / 2**20
                    sample = Sample(at_s, rss, process.num_fds(), process.num_threads())
            except psutil.NoSuchProcess:
                gone.append(name)
                continue
            self.samples[name].append(sample)
        return gone

    def latest(self) -> str:
        """Memory of each, in words."""
        return ", ".join(
            f"{name} {samples[-1].rss:.0f} MiB" for name, samples in self.samples.items() if samples
        )

    def growths(self) -> list[Growth]:
        """What grew, and what did not."""
        return [
            _growth(name, quantity, [float(asdict(sample)[quantity]) for sample in samples])
            for name, samples in self.samples.items()
            for quantity in BOUNDS
        ]


def _growth(process: str, quantity: str, course: list[float]) -> Growth:
    quarter = max(1, len(course) // 4)
    before, after = median(course[-2 * quarter : -quarter] or course), median(course[-quarter:])
    return Growth(process, quantity, before, after, BOUNDS[quantity].of(before), tuple(course))
