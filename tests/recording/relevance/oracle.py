"""TIBAV for one picture, slowly: every rule as it is printed, whole matrices, all tokens.

Written from Chefer et al. (CVPR 2021) and the behaviour of the authors' code; shares nothing with
the package but a timm network's weights. float64.
"""

from __future__ import annotations

import torch
from torch import Tensor

EPS = 1e-9


def sd(a: Tensor, b: Tensor) -> Tensor:
    shifted = b + EPS
    shifted = torch.where(shifted == 0, torch.full_like(shifted, EPS), shifted)
    return torch.where(b == 0, torch.zeros_like(shifted), a / shifted)


def linear(x: Tensor, weight: Tensor, relevance: Tensor) -> Tensor:
    """[T, in] from [T, in], [out, in] and [T, out]."""
    found = []
    for token, at_outputs in zip(x, relevance, strict=True):
        terms = token.clamp(min=0) * weight.clamp(min=0) + token.clamp(max=0) * weight.clamp(max=0)
        found.append((terms * sd(at_outputs, terms.sum(1))[:, None]).sum(0))
    return torch.stack(found)


def matmul(x: Tensor, y: Tensor, relevance: Tensor) -> tuple[Tensor, Tensor]:
    """[m, k] and [k, n] from those and [m, n]."""
    terms = x[:, :, None] * y[None] * sd(relevance, x @ y)[:, None, :]
    return terms.sum(2) / 2, terms.sum(0) / 2


def add(x0: Tensor, x1: Tensor, relevance: Tensor) -> tuple[Tensor, Tensor]:
    s = sd(relevance, x0 + x1)
    a, b = x0 * s, x1 * s
    both = a.sum().abs() + b.sum().abs()
    a_part = sd(a.sum().abs(), both) * relevance.sum()
    b_part = sd(b.sum().abs(), both) * relevance.sum()
    return a * sd(a_part, a.sum()), b * sd(b_part, b.sum())


def clone(x: Tensor, first: Tensor, second: Tensor) -> Tensor:
    return x * (sd(first, x) + sd(second, x))


def pool(x: Tensor, relevance: Tensor) -> Tensor:
    """[T, C] from [T, C] and [C]; with one token it is `IndexSelect`."""
    return x * sd(relevance, x.sum(0))


class Block:
    """One block of one picture: runs forward on [T, C], then takes relevance back."""

    def __init__(self, block):
        self.block = block

    def forward(self, x):
        block, attn = self.block, self.block.attn
        heads, size = attn.num_heads, attn.head_dim
        self.x, self.n1 = x, block.norm1(x)
        self.qkv = attn.qkv(self.n1).view(len(x), 3, heads, size).permute(1, 2, 0, 3)
        self.q, self.k, self.v = attn.q_norm(self.qkv[0]), attn.k_norm(self.qkv[1]), self.qkv[2]
        dots = torch.stack([q @ k.T for q, k in zip(self.q, self.k, strict=True)])
        self.a = (dots * size**-0.5).softmax(-1)
        self.o = torch.stack([a @ v for a, v in zip(self.a, self.v, strict=True)])
        self.merged = torch.cat(list(self.o), dim=1)
        self.p = block.ls1(attn.proj(self.merged))
        self.mid = x + self.p
        self.n2 = block.norm2(self.mid)
        self.active = block.mlp.act(block.mlp.fc1(self.n2))
        self.f = block.ls2(block.mlp.fc2(self.active))
        return self.mid + self.f

    def relprop(self, relevance):
        block, attn = self.block, self.block.attn
        stream, branch = add(self.mid, self.f, relevance)
        branch = linear(self.active, block.mlp.fc2.weight, branch)
        branch = linear(self.n2, block.mlp.fc1.weight, branch)
        relevance = clone(self.mid, stream, branch)
        stream, branch = add(self.x, self.p, relevance)
        branch = linear(self.merged, attn.proj.weight, branch)
        at_a, at_qkv = [], [[], [], []]
        for h, part in enumerate(branch.chunk(attn.num_heads, dim=1)):
            a, v = matmul(self.a[h], self.v[h], part)
            q, k = matmul(self.q[h], self.k[h].T, a)
            at_a.append(a)
            for which, found in enumerate((q, k.T, v)):
                at_qkv[which].append(found)
        self.at_a = torch.stack(at_a)
        flat = torch.cat([part for parts in at_qkv for part in parts], dim=1)
        return clone(self.x, stream, linear(self.n1, attn.qkv.weight, flat))


def explain(network, picture, start, *, target=None, direction=None, projection=None):
    """Readout's row of M_L ··· M_start and the sums of relevance at all blocks' outputs.

    `network` is in float64, `picture` [3, H, W]; either a class or a direction.
    """
    x = network.norm_pre(network._pos_embed(network.patch_embed(picture[None])))[0]
    x.requires_grad_()
    blocks = [Block(block) for block in network.blocks]
    for block in blocks:
        x = block.forward(x)
    final = network.norm(x)
    distilled = hasattr(network, "head_dist")
    if network.global_pool == "avg":
        read = list(range(0 if network.pool_include_prefix else network.num_prefix_tokens, len(x)))
    else:
        read = [0, 1] if distilled else [0]
    pooled = network.fc_norm(final[read].mean(0))
    if direction is None:
        score = network.forward_head(final[None])[0, target]
    else:
        embedding = pooled if projection is None else projection(pooled)
        score = embedding @ direction / embedding.norm()
    slopes = torch.autograd.grad(score, [block.a for block in blocks])
    with torch.no_grad():
        relevance = torch.zeros_like(final)
        if direction is not None:
            at_pooled = sd(embedding * direction, embedding @ direction)
            if projection is not None:
                at_pooled = linear(pooled[None], projection.weight, at_pooled[None])[0]
            relevance[read] = pool(final[read], at_pooled)
        elif distilled:
            for token, head in enumerate((network.head, network.head_dist)):
                seed = torch.zeros(1, network.num_classes, dtype=final.dtype)
                seed[0, target] = 0.5
                at_token = linear(final[token : token + 1], head.weight, seed)[0]
                relevance[token : token + 1] = pool(final[token : token + 1], at_token)
        else:
            seed = torch.zeros(1, network.num_classes, dtype=final.dtype)
            seed[0, target] = 1
            relevance[read] = pool(final[read], linear(pooled[None], network.head.weight, seed)[0])
        sums = []
        for block in reversed(blocks):
            sums.append(float(relevance.sum()))
            relevance = block.relprop(relevance)
        product = torch.eye(len(x), dtype=final.dtype)
        for block, slope in list(zip(blocks, slopes, strict=True))[start:]:
            contribution = (slope * block.at_a).clamp(min=0).mean(0)
            product = (contribution + torch.eye(len(x), dtype=final.dtype)) @ product
    return product[read].mean(0), sums[::-1]
