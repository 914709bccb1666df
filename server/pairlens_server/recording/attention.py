"""Attention beside a fused forward pass.

timm computes attention with a fused kernel that never holds the matrix. The
matrix, or only the rows that a method needs, is recomputed here from what the
block's `qkv` layer gave out: a class-token row costs 0.01 % of a forward pass of
ViT-B/16, the head mean of all blocks 2 % (`2·L·N²·D` of `L·(24·N·D² + 4·N²·D)`).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def _take(tensor: Tensor, pictures: list[int]) -> Tensor:
    """Rows of a batch, without a copy when they are all of it (pictures ascend)."""
    return tensor if len(pictures) == len(tensor) else tensor[pictures]


class QueriesKeys:
    """Queries and keys of one attention layer, as its softmax sees them.

    Args:
        attention: timm's `Attention`: `qkv`, `q_norm`, `k_norm`, `scale`, `num_heads`.
        qkv: [B, T, 3·heads·head_dim], output of its `qkv` layer.
    """

    def __init__(self, attention: Any, qkv: Tensor):
        batch, tokens, _ = qkv.shape
        heads = attention.num_heads
        split = qkv.detach().view(batch, tokens, 3, heads, -1)
        queries, keys = split[:, :, 0].transpose(1, 2), split[:, :, 1].transpose(1, 2)
        self.queries = attention.q_norm(queries)  # [B, heads, T, head_dim]
        self.keys = attention.k_norm(keys)
        self.scale = float(attention.scale)

    def rows(self, indices: tuple[int, ...], pictures: list[int]) -> Tensor:
        """Mean over some query tokens of the post-softmax rows: float32 [len(pictures), heads, T].

        Args:
            indices: Query tokens to average over.
            pictures: Which of the batch.
        """
        queries = _take(self.queries, pictures)[:, :, list(indices)]
        keys = _take(self.keys, pictures)
        # Head by head: under mean pooling the rows are all of the matrix.
        return torch.stack(
            [self._weights(queries, keys, head).mean(dim=1) for head in range(keys.shape[1])], dim=1
        )

    def head_mean(self, pictures: list[int]) -> Tensor:
        """Post-softmax attention, mean over heads: float32 [len(pictures), T, T]."""
        queries, keys = _take(self.queries, pictures), _take(self.keys, pictures)
        batch, heads, tokens, _ = keys.shape
        mean = torch.zeros(batch, tokens, tokens, dtype=torch.float32, device=keys.device)
        # Head by head: holding all heads at once costs heads times the memory, and the
        # matrix of one head stays in the cache between the product and the softmax.
        for head in range(heads):
            mean += self._weights(queries, keys, head)
        return mean.div_(heads)

    def _weights(self, queries: Tensor, keys: Tensor, head: int) -> Tensor:
        scores = (queries[:, head].float() * self.scale) @ keys[:, head].float().mT
        return torch.softmax(scores, dim=-1)
