"""Which thread computes with how many where models run on the CPU: theirs alone has a team.

OpenMP gives each thread that computes with several a team of its own, which stays. Once the teams
have more threads than there are cores, no thread waits for its mates on its core any more, even
where the other teams sleep, but goes to sleep at every step: a ViT-S/16 took one picture twice as
long on two cores, and batches of four a third longer.
"""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor

import torch


def pool(threads: int | None, name: str) -> ThreadPoolExecutor:
    """Make a pool whose threads compute as torch was told last.

    Args:
        threads: At most so many; None for as many as `asyncio.to_thread` has.
        name: Of the threads, before a number.
    """
    # torch tells a thread when it computes there for the first time, but not for matrix products.
    return ThreadPoolExecutor(threads, thread_name_prefix=name, initializer=torch.get_num_threads)


def compute_alone() -> int:
    """Have this thread compute alone, and all that are yet to begin.

    Returns:
        Threads that it would have computed with.
    """
    usual = torch.get_num_threads()
    torch.set_num_threads(1)
    return usual


def compute_together(threads: int, loop: asyncio.AbstractEventLoop) -> None:
    """Have this thread compute with so many, itself one of them, and all others alone.

    A thread that computes for the first time while `loop` has not come to its turn has a team, too.

    Args:
        threads: In the team.
        loop: Of another thread, on which `compute_alone` was called first.
    """
    # A thread takes over what torch was told last when it is first asked. If this one had not
    # been asked before the loop's turn, it would compute alone.
    torch.get_num_threads()
    torch.set_num_threads(threads)
    loop.call_soon_threadsafe(compute_alone)
