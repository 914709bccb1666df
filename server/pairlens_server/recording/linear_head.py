"""Gradients at the last feature map without a backward pass, where the head is linear."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from pairlens_server.models.loaded import Family, LoadedModel
from pairlens_server.recording.primitives import GradientRule
from pairlens_server.recording.readout import Readout
from pairlens_server.recording.targets import ClassLogit, ScoreTarget, class_indices

_POOLS_ITS_CAM_LAYER = (Family.RESNET, Family.RESNETV2, Family.SWIN, Family.TWINS)


@dataclass(frozen=True, eq=False)
class LinearHead:
    """Average pooling and a linear head over the cells of the default CAM layer.

    The gradient of a logit is then the class's row over the number of cells, in every
    cell; that of a cosine goes through the projection's rows.

    Attributes:
        class_rows: float32 [classes, channels], or None without a class head.
        projection_rows: float32 [embedding_size, channels], or None without a projection.
        readout: Of the model.
    """

    class_rows: Tensor | None
    projection_rows: Tensor | None
    readout: Readout

    @torch.no_grad()
    def gradients(self, features: Tensor, target: ScoreTarget, rule: GradientRule) -> Tensor:
        """Gradient of each picture's score: float32 [B, channels, 1, 1], the same in every cell.

        Args:
            features: [B, ...] as the network gives them.
            target: One for all.
            rule: Under LIBRA the length of the embedding counts as a constant.
        """
        cells = self.readout.tokens(features).shape[1]
        if isinstance(target, ClassLogit):
            assert self.class_rows is not None
            logits = self.readout.logits(features)
            chosen = class_indices([target.class_index] * len(logits), logits)
            slopes = self.class_rows[chosen]
        else:
            embedding = self.readout.embedding(features)
            length = embedding.norm(dim=1, keepdim=True)
            along = target.vector.to(embedding.device)
            slopes = (along / length).expand_as(embedding)
            if rule is GradientRule.PLAIN:
                cosine = embedding @ along[:, None] / length
                slopes = slopes - cosine * embedding / length**2
            if self.projection_rows is not None:
                slopes = slopes @ self.projection_rows
        return (slopes / cells)[:, :, None, None]


def linear_head_of(model: LoadedModel, readout: Readout) -> LinearHead | None:
    """The closed form of a model's head, or None where it has none."""
    network: Any = model.network
    if model.family not in _POOLS_ITS_CAM_LAYER or model.pooling != "avg":
        return None
    head = network.get_classifier() if model.classes else None
    if head is not None and not isinstance(head, (nn.Linear, nn.Conv2d)):
        return None
    projection = model.projection
    return LinearHead(
        class_rows=None if head is None else head.weight.detach().flatten(1).float(),
        projection_rows=None if projection is None else projection.weight.detach().float(),
        readout=readout,
    )
