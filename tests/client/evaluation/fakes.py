"""A protocol whose numbers follow from the names of its rows and cases."""

from __future__ import annotations

import hashlib
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from pairlens.evaluation.protocol import CurveInfo
from pairlens.evaluation.records import DrawnMap, Measure, Record, Row, Series, SkippedFile

GOOD = Measure("good", "Good", "A number in [0, 1].", higher_is_better=True, chance=0.5)
BAD = Measure("bad", "Bad", "A number that is undefined for a third.", higher_is_better=False)


def number(*parts: str) -> float:
    """A number in [0, 1) that looks like chance."""
    digest = hashlib.sha256("\0".join(parts).encode()).digest()
    return int.from_bytes(digest[:6], "big") / 2**48


class FakeProtocol:
    """Cases "a/0", "b/0", "a/1", ... of two classes; `before` may raise or wait."""

    name = "images"
    title = "A fake"
    measures = (GOOD, BAD)
    curves = (CurveInfo("fall", "Fall", "share erased", "probability", higher_is_better=False),)
    headline = "good"

    def __init__(
        self,
        count: int = 6,
        rows: tuple[Row, ...] = (Row("rollout"), Row("random", control=True)),
        before: Callable[[str, str], None] = lambda row, case: None,
        seed: int = 0,
    ) -> None:
        self.rows = rows
        self.root = Path("pictures")
        self.before = before
        self.seed = seed
        self.count = count
        self.contents: dict[str, str] = {}
        self.ran: list[tuple[str, str]] = []
        self._lock = threading.Lock()

    def settings(self):
        return {"seed": self.seed, "metrics": {"deletion": {"steps": 8}}}

    def cases(self):
        return [f"{'ab'[index % 2]}/{index // 2}" for index in range(self.count)]

    def content(self, case):
        return self.contents.get(case, "")

    def run(self, row, case):
        with self._lock:
            self.ran.append((row, case))
        self.before(row, case)
        bad = number(row, case, "bad")
        return Record(
            row,
            case,
            case[0],
            values={"good": number(row, case, "good"), "bad": None if bad < 1 / 3 else bad},
            curves={"fall": Series((0.0, 0.5, 1.0), (1.0, number(row, case), 0.0))},
            maps=(DrawnMap(case, "", np.full((2, 3), 0.1, np.float32), (0.0, 0.0, 30.0, 20.0)),),
            notes={"bad": "too small"} if bad < 1 / 3 else {},
        )

    def skipped(self):
        return (SkippedFile("a/notes.txt", "no picture"),)


if __name__ == "__main__":  # run by a test that kills it half way
    from pairlens.evaluation.runner import run_protocol

    run_protocol(
        FakeProtocol(40, before=lambda row, case: time.sleep(0.02)), sys.argv[1], progress=False
    )
