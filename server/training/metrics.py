"""Retrieval metrics: each picture queries all the others by cosine similarity."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def retrieval(embeddings: Tensor, labels: Tensor) -> tuple[float, float]:
    """Return R@1 and mAP@R of [n, d] embeddings with [n] labels, means over all queries.

    mAP@R (Musgrave, Belongie, Lim 2020) looks at the R nearest pictures only, R being how many
    others share the query's class: the sum over ranks i <= R of P(i), where rank i is right,
    divided by R. A query alone in its class has no right answer and is left out.
    """
    unit = F.normalize(embeddings.float(), dim=1)
    similarity = unit @ unit.T
    similarity.fill_diagonal_(-torch.inf)
    same = labels[:, None] == labels[None, :]
    relevant = same.sum(1) - 1
    deepest = int(relevant.max())
    nearest = similarity.topk(deepest, dim=1).indices
    right = same.gather(1, nearest).float()
    rank = torch.arange(1, deepest + 1)
    precision = right.cumsum(1) / rank
    within = rank[None, :] <= relevant[:, None]
    average = (precision * right * within).sum(1) / relevant.clamp(min=1)
    asked = relevant > 0
    return right[asked, 0].mean().item(), average[asked].mean().item()


def pointing(maps: Tensor, boxes: Tensor) -> float:
    """Return the share of maps [n, h, w] whose highest cell has its centre in the box.

    `boxes` [n, 4] are x0, y0, x1, y1 in 0..1 of each side (the pointing game of Zhang et al. 2018).
    """
    rows, columns = maps.shape[1:]
    place = maps.flatten(1).argmax(1)
    x = (place % columns + 0.5) / columns
    y = (place // columns + 0.5) / rows
    x0, y0, x1, y1 = boxes.unbind(1)
    return ((x >= x0) & (x < x1) & (y >= y0) & (y < y1)).float().mean().item()


def top1(logits: Tensor, labels: Tensor) -> float:
    """Return the share of [n, k] logits whose largest is at the label."""
    return (logits.argmax(1) == labels).float().mean().item()
