"""Data-parallel training on the CPU: one single-threaded process a core.

Processes meet once a step, to average gradients. Two threads of one process meet at the end of
every operation instead, and lose most of their speed where other programs share the cores.
"""

from __future__ import annotations

import argparse
import os
import socket
from collections.abc import Callable

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor, nn


def launch(train: Callable[[argparse.Namespace], None], options: argparse.Namespace) -> None:
    """Run `train(options)` in `options.workers` processes, which rank() tells apart."""
    if options.workers == 1:
        train(options)
        return
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    mp.spawn(_start, (train, options, port), nprocs=options.workers)


def _start(place: int, train, options: argparse.Namespace, port: int) -> None:
    torch.set_num_threads(max(1, (os.cpu_count() or 1) // options.workers))
    dist.init_process_group(
        "gloo", f"tcp://127.0.0.1:{port}", rank=place, world_size=options.workers
    )
    try:
        train(options)
    finally:
        dist.destroy_process_group()


def rank() -> int:
    """Return the number of this process, from 0."""
    return dist.get_rank() if dist.is_initialized() else 0


def workers() -> int:
    """Return how many processes train together."""
    return dist.get_world_size() if dist.is_initialized() else 1


def mine(rows: Tensor) -> Tensor:
    """Return this process's share of a batch of row numbers."""
    return rows[rank() :: workers()]


def average_gradients(module: nn.Module) -> None:
    """Replace each gradient by its mean over the processes."""
    if workers() == 1:
        return
    gradients = [p.grad for p in module.parameters() if p.grad is not None]
    flat = torch.cat([g.flatten() for g in gradients])
    dist.all_reduce(flat)
    flat /= workers()
    for gradient, part in zip(gradients, flat.split([g.numel() for g in gradients]), strict=True):
        gradient.copy_(part.view_as(gradient))
