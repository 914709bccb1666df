"""What a process holds before a fault and after it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import psutil

from tests.faults.calls import until

_MORE_FDS, _MORE_THREADS, _MORE_BYTES = 2, 4, 96 * 2**20


@contextmanager
def gives_back(pid: int) -> Iterator[None]:
    """At the end of the block the process holds no more than at its begin, or soon after.

    It should have answered each kind of call before: the first ones make pools of threads and of
    memory that stay.
    """
    process = psutil.Process(pid)
    fds, threads = process.num_fds(), process.num_threads()
    memory = process.memory_info().rss
    yield
    until(lambda: process.num_fds() <= fds + _MORE_FDS, "descriptors are closed")
    until(lambda: process.num_threads() <= threads + _MORE_THREADS, "threads end")
    until(lambda: process.memory_info().rss <= memory + _MORE_BYTES, "memory is given back")
