"""Start a ViT from weights shaped like those of a trained one (Trockman and Kolter 2023).

A small ViT on little data spends much of its training on finding local attention. Here queries
and keys start nearly equal, values and their projection nearly opposite, and the positions are
sines, so that patches attend to their neighbours from the first step.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

QUERY_KEY = (0.7, 0.7)  # (noise, identity), the paper's values for small data sets
VALUE_OUT = (0.4, -0.4)


@torch.no_grad()
def start_mimetic(vit: nn.Module) -> None:
    """Set the attention weights and `pos_embed` of a timm VisionTransformer in place."""
    side = int(vit.pos_embed.shape[1] ** 0.5)
    vit.pos_embed.copy_(sine_positions(side, vit.embed_dim).unsqueeze(0))
    for block in vit.blocks:
        attention = block.attn
        width, heads = vit.embed_dim, attention.num_heads
        rows = width // heads
        query, key, value = attention.qkv.weight.split(width)
        for head in range(heads):
            left, right = _factors(width, *QUERY_KEY)
            query[head * rows : (head + 1) * rows] = left[:, :rows].T
            key[head * rows : (head + 1) * rows] = right[:rows]
        left, right = _factors(width, *VALUE_OUT)
        value.copy_(left.T)
        attention.proj.weight.copy_(right.T)


def sine_positions(side: int, width: int) -> Tensor:
    """Return [side * side, width]: sines and cosines of the row and of the column."""
    quarter = width // 4
    frequency = 1 / 10_000 ** (torch.arange(quarter) / quarter)
    angle = torch.arange(side)[:, None] * frequency
    line = torch.cat([angle.sin(), angle.cos()], dim=1)
    rows = line[:, None].expand(side, side, -1)
    columns = line[None, :].expand(side, side, -1)
    return torch.cat([rows, columns], dim=-1).reshape(side * side, width)


def _factors(width: int, noise: float, identity: float) -> tuple[Tensor, Tensor]:
    """Return balanced factors [width, width] each, whose product is noise plus identity."""
    product = noise * torch.randn(width, width) / width**0.5 + identity * torch.eye(width)
    u, s, v = torch.linalg.svd(product)
    return u * s.sqrt(), s.sqrt()[:, None] * v
