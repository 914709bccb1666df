"""Mixed pictures whose parts are described apart: CutMix with pooling over each part's tokens.

Pooling over the whole picture lets a token carry evidence of things that lie elsewhere, which
spoils maps. When a rectangle of another picture is pasted in, and the tokens within and without
must each describe their own source, a token has to speak for its own place.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

CELL = 16  # pixels; rectangles are laid on cells that the patches of both networks divide


@dataclass(frozen=True)
class Mixed:
    """A batch whose pictures each hold a rectangle of another picture of the batch."""

    images: Tensor
    """[B, 3, H, W]"""
    inside: Tensor
    """bool [B, H / 16, W / 16]: the cells that were pasted"""
    source: Tensor
    """int64 [B]: where in the batch the pasted part comes from"""


def mix(images: Tensor, gen: torch.Generator) -> Mixed:
    """Paste into each picture the same rectangle, half to three quarters a side, of another."""
    count, _, height, _ = images.shape
    units = height // CELL
    source = torch.randperm(count, generator=gen)
    sides = torch.randint(units // 2, units * 3 // 4 + 1, (2, count, 1), generator=gen)
    starts = (torch.rand((2, count, 1), generator=gen) * (units - sides + 1)).long()
    cells = torch.arange(units)
    rows, columns = (cells >= starts) & (cells < starts + sides)
    inside = rows[:, :, None] & columns[:, None, :]
    pixels = enlarge(inside.unsqueeze(1), height)
    return Mixed(torch.where(pixels, images[source], images), inside, source)


def enlarge(cells: Tensor, side: int) -> Tensor:
    """Repeat the cells of a square grid [..., h, h] up to [..., side, side]."""
    scale = side // cells.shape[-1]
    return cells.repeat_interleave(scale, -2).repeat_interleave(scale, -1)


def pool(tokens: Tensor, inside: Tensor | None) -> Tensor:
    """Return the mean token of each part: [B, C], or [2B, C] of mixed pictures.

    `inside` is bool [B, N], the pasted tokens of [B, N, C]. The first B rows stand for what lies
    outside the pasted rectangles, the last for the inside.
    """
    if inside is None:
        return tokens.mean(1)
    masks = torch.cat([~inside, inside]).to(tokens.dtype).unsqueeze(-1)
    return (tokens.repeat(2, 1, 1) * masks).sum(1) / masks.sum(1).clamp(min=1)
