"""What the training scripts share: options, schedule, progress, and checkpoints to resume from."""

from __future__ import annotations

import argparse
import math
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import torch
from parallel import rank
from torch import Tensor, nn


def base_parser(
    description: str, *, epochs: int, batch: int, rate: float
) -> argparse.ArgumentParser:
    """Return a parser with the options of every training script."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument(
        "--data", type=Path, required=True, help="folder of tiny-imagenet/ and caltech101/"
    )
    parser.add_argument("--out", type=Path, required=True, help="folder for caches and checkpoints")
    parser.add_argument("--epochs", type=int, default=epochs, help="passes over the pictures")
    parser.add_argument("--batch", type=int, default=batch, help="pictures a step")
    parser.add_argument("--rate", type=float, default=rate, help="peak learning rate")
    parser.add_argument("--workers", type=int, default=1, help="processes that share each batch")
    parser.add_argument("--seed", type=int, default=0, help="seed of weights, order and views")
    return parser


def say(line: str) -> None:
    """Write a line to the console at once, from the first process alone."""
    if rank():
        return
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def epoch_batches(count: int, batch: int, gen: torch.Generator) -> Iterator[Tensor]:
    """Yield index tensors of `batch` in a random order, the incomplete last one left out."""
    order = torch.randperm(count, generator=gen)
    for start in range(0, count - batch + 1, batch):
        yield order[start : start + batch]


def one_cycle(step: int, total: int, warm: float = 0.1, floor: float = 0.01) -> float:
    """Return the share of the peak rate at `step`: a linear warm-up, then half a cosine."""
    place = step / max(1, total)
    if place < warm:
        return floor + (1 - floor) * place / warm
    return floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * (place - warm) / (1 - warm)))


def set_rate(optimizer: torch.optim.Optimizer, share: float) -> None:
    """Set each group's rate to `share` of its `peak` (kept in the group when it was made)."""
    for group in optimizer.param_groups:
        group["lr"] = group["peak"] * share


def adamw(
    parts: list[tuple[nn.Module, float]], weight_decay: float, betas: tuple[float, float]
) -> torch.optim.AdamW:
    """Return AdamW over (module, peak rate) parts; vectors and positions do not decay."""
    groups = []
    for module, rate in parts:
        named = list(module.named_parameters())
        plain = [p for n, p in named if p.ndim < 2 or "pos_embed" in n]
        decayed = [p for n, p in named if not (p.ndim < 2 or "pos_embed" in n)]
        groups.append({"params": decayed, "peak": rate, "weight_decay": weight_decay})
        groups.append({"params": plain, "peak": rate, "weight_decay": 0.0})
    return torch.optim.AdamW([g for g in groups if g["params"]], lr=0.0, betas=betas, fused=True)


class Average:
    """A moving average of a network's state, which is what gets measured and shipped."""

    def __init__(self, net: nn.Module, decay: float) -> None:
        """Start from a copy of `net`; `decay` is the longest memory, reached after a ramp."""
        self.state = {k: v.detach().clone() for k, v in net.state_dict().items()}
        self.decay = decay
        self.steps = 0

    @torch.no_grad()
    def update(self, net: nn.Module) -> None:
        """Move towards `net`; integer buffers are copied."""
        self.steps += 1
        keep = min(self.decay, (1 + self.steps) / (10 + self.steps))
        for key, value in net.state_dict().items():
            if value.is_floating_point():
                self.state[key].lerp_(value.detach(), 1 - keep)
            else:
                self.state[key].copy_(value)


class Progress:
    """Prints mean losses, pictures a second and the time left, every `every` steps."""

    def __init__(self, total: int, done: int = 0, every: int = 50) -> None:
        """Expect `total` steps, of which `done` are behind."""
        self.total, self.step, self.every = total, done, every
        self._mark = time.monotonic()
        self._sums: dict[str, float] = {}
        self._pictures = 0

    def add(self, pictures: int, **losses: float) -> None:
        """Count a step over `pictures` with its `losses`."""
        self.step += 1
        self._pictures += pictures
        for name, value in losses.items():
            self._sums[name] = self._sums.get(name, 0.0) + value
        if self.step % self.every and self.step != self.total:
            return
        steps = self.every if self.step % self.every == 0 else self.step % self.every
        spent = time.monotonic() - self._mark
        left = (self.total - self.step) * spent / steps
        shown = " ".join(f"{k} {v / steps:.3f}" for k, v in self._sums.items())
        rate = self._pictures / spent
        say(f"{self.step}/{self.total} {shown} | {rate:.0f}/s, {left / 60:.1f} min left")
        self._mark, self._sums, self._pictures = time.monotonic(), {}, 0


def save_checkpoint(path: Path, **parts: object) -> None:
    """Write atomically, so that an interruption leaves the previous checkpoint whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    torch.save(parts, part)
    part.replace(path)


def load_checkpoint(path: Path) -> dict | None:
    """Return what `save_checkpoint` wrote, or None where there is nothing."""
    return torch.load(path, weights_only=True) if path.exists() else None
