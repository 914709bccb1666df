"""Fit the projection in closed form: a linear discriminant of many classes (LDA).

The directions kept are those along which classes differ most for how much they vary within.
Where classes are many and differ (the 200 of Tiny ImageNet beside those of Caltech-101), such
directions also serve classes never seen. See README.md for what it was chosen over.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from augment import Strength, crop_views
from data import ImageSet
from nets import CLASSES, EMBEDDING, INPUT_SIZE, DemoNet, normalise
from torch import Tensor

MILD = Strength(least_area=0.7, stretch=1.1, degrees=0.0)


@torch.no_grad()
def fit_projection(
    net: DemoNet,
    tiny: ImageSet,
    caltech: ImageSet,
    *,
    count: int,
    shrink: float,
    centre: bool,
    seed: int = 0,
) -> tuple[Tensor, Tensor]:
    """Set `net.projection` from `count` pictures of Tiny ImageNet and all of Caltech-101's.

    Returns the pooled features [n, C] and labels [n] that it was fitted on, for learn.py.

    `shrink` is the share of the mean variance that is added to each direction's variance within
    classes, which keeps poorly known directions from being blown up. With `centre` the bias takes
    the mean embedding to zero; without, the bias is zero, so that places where nothing fires stay
    near zero in maps.
    """
    gen = torch.Generator().manual_seed(seed)
    chosen = torch.randperm(len(tiny), generator=gen)[:count]
    features = [pooled(net, part, gen) for part in (tiny.images[chosen], caltech.images)]
    features = torch.cat(features)
    labels = torch.cat([tiny.labels[chosen], caltech.labels + CLASSES])
    weight, bias = discriminant(features, labels, shrink)
    net.projection.weight.copy_(weight)
    net.projection.bias.copy_(bias if centre else torch.zeros_like(bias))
    return features, labels


def pooled(net: DemoNet, images: Tensor, gen: torch.Generator, batch: int = 100) -> Tensor:
    """Return pooled features [n, C] of mild random crops at 128 pixels of uint8 images."""
    net.eval()
    features = []
    for part in images.split(batch):
        views = normalise(crop_views(part, INPUT_SIZE, gen, MILD))
        with torch.autocast("cpu", torch.bfloat16):
            features.append(net.tokens(views).float().mean(1))
    return torch.cat(features)


def discriminant(features: Tensor, labels: Tensor, shrink: float) -> tuple[Tensor, Tensor]:
    """Return weight [128, C] and bias [128] of the discriminant of features [n, C]."""
    centre = features.mean(0)
    one_hot = F.one_hot(labels).to(features.dtype)
    one_hot = one_hot[:, one_hot.any(0)]
    means = (one_hot.T @ features) / one_hot.sum(0)[:, None]
    inner = features - one_hot @ means
    within = inner.T @ inner / len(features)
    between = torch.cov(means.T)
    within += shrink * within.diagonal().mean() * torch.eye(len(within))
    lower = torch.linalg.cholesky(within)
    whitened = torch.linalg.solve_triangular(lower, between, upper=False)
    whitened = torch.linalg.solve_triangular(lower, whitened.T, upper=False)
    directions = torch.linalg.eigh(whitened).eigenvectors[:, -EMBEDDING:]
    weight = torch.linalg.solve_triangular(lower.T, directions, upper=True).T
    weight = weight / (features - centre).matmul(weight.T).pow(2).mean().sqrt()
    return weight, -weight @ centre
