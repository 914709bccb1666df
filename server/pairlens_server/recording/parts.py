"""Splitting a pooled embedding into what each token or cell adds to it.

Pooling, an optional norm after it and an optional projection are all (given the
picture) affine, so embedding = Σ_x part_x + constant holds exactly. Cosine
similarity then splits over places: Black et al. 2022 for mean pooling, Stylianou
et al. 2019 for max pooling; the norm after pooling is our own exact split.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


def mean_parts(tokens: Tensor) -> Tensor:
    """Parts of the mean over tokens: [B, N, C] to [B, N, C]."""
    return tokens / tokens.shape[1]


def max_parts(tokens: Tensor) -> Tensor:
    """Parts of the channel-wise maximum over tokens: [B, N, C] to [B, N, C].

    A channel's maximum belongs to the tokens that reach it, in equal shares.
    """
    largest = tokens.amax(dim=1, keepdim=True)
    winners = tokens == largest
    return torch.where(winners, largest / winners.sum(dim=1, keepdim=True), 0.0)


def normed_parts(parts: Tensor, norm: nn.LayerNorm) -> Tensor:
    """Parts of LayerNorm(Σ_x part_x), less the norm's bias: [B, N, C] to [B, N, C].

    The norm is not linear, but for a given picture its scale is one number, taken from
    the pooled vector: g ⊙ (part_x - mean(part_x)) / σ(Σ_x part_x).
    """
    pooled = parts.sum(dim=1, keepdim=True)
    scale = torch.sqrt(pooled.var(dim=-1, unbiased=False, keepdim=True) + norm.eps)
    centred = (parts - parts.mean(dim=-1, keepdim=True)) / scale
    return centred if norm.weight is None else centred * norm.weight.float()


def embedding_constant(
    norm: nn.LayerNorm | None, projection: nn.Linear | None, size: int
) -> Tensor:
    """The part of the embedding that is the same for every picture: float32 [size] on the CPU."""
    constant = torch.zeros(size)
    if norm is not None and norm.bias is not None:
        bias = norm.bias.detach().float().cpu()
        constant = bias if projection is None else projection.weight.detach().float().cpu() @ bias
    if projection is not None and projection.bias is not None:
        constant = constant + projection.bias.detach().float().cpu()
    return constant


def project(parts: Tensor, projection: nn.Linear | None) -> Tensor:
    """Parts through the projection, without its bias: [B, N, C] to [B, N, embedding_size]."""
    return parts if projection is None else parts @ projection.weight.float().T
