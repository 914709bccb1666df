"""Learn the projection for retrieval by ProxyAnchor, from the discriminant that fit.py found.

The network stays as it is: the loss runs on pooled features that were computed once, so this takes
seconds. The 50 Caltech-101 classes are learned beside the 200 of Tiny ImageNet; learned alone they
pull the projection towards themselves and away from classes not seen (README.md has the numbers).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from pytorch_metric_learning.losses import ProxyAnchorLoss
from torch import Tensor, nn

BATCH = 180
MARGIN, ALPHA = 0.1, 32.0  # of Proxy Anchor (Kim et al. 2020)
PROXY_RATE = 10.0  # times the projection's


def class_means(embeddings: Tensor, labels: Tensor, classes: int) -> Tensor:
    """Return unit mean embeddings [classes, d] of embeddings [n, d] with labels [n]."""
    unit = F.normalize(embeddings, dim=1)
    sums = torch.zeros(classes, unit.shape[1]).index_add(0, labels, unit)
    return F.normalize(sums, dim=1)


@torch.enable_grad()
def learn_projection(
    projection: nn.Linear,
    features: Tensor,
    labels: Tensor,
    *,
    epochs: int = 5,
    rate: float = 3e-4,
    seed: int = 0,
) -> None:
    """Train `projection` in place on pooled features [n, C] with labels [n] from 0 on."""
    torch.manual_seed(seed)
    classes = int(labels.max()) + 1
    loss = ProxyAnchorLoss(classes, projection.out_features, margin=MARGIN, alpha=ALPHA)
    with torch.no_grad():
        loss.proxies.copy_(class_means(projection(features), labels, classes))
    projection.requires_grad_(True)
    optimizer = torch.optim.AdamW(
        [
            {"params": projection.parameters(), "lr": rate},
            {"params": loss.parameters(), "lr": PROXY_RATE * rate},
        ],
        weight_decay=0.0,
    )
    for _ in range(epochs):
        for chosen in torch.randperm(len(features)).split(BATCH):
            value = loss(projection(features[chosen]), labels[chosen])
            optimizer.zero_grad()
            value.backward()
            optimizer.step()
    projection.requires_grad_(False)
