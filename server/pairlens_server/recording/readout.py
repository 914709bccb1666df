"""From the last features of a network to logits, the embedding and its parts."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from pairlens_server.models.families import forward_features, forward_head
from pairlens_server.models.loaded import LoadedModel
from pairlens_server.recording import parts
from pairlens_server.recording.anatomy import Anatomy
from pairlens_server.recording.targets import ClassLogit, ScoreTarget, scores


class Readout:
    """The head of a model, its projection included, and what splits over its tokens.

    Attributes:
        constant: float32 [embedding_size] on the CPU; see `ModelFacts.embedding_constant`.
        pooled: Indices of the pooled tokens; empty where the embedding is no sum.
    """

    def __init__(self, model: LoadedModel, anatomy: Anatomy):
        self._network: Any = model.network
        self._projection = model.projection
        self._pooling = model.pooling
        self._norm = anatomy.pooled_norm
        self._first = model.projection_first
        self._channels_last = anatomy.channels_last
        self.constant = parts.embedding_constant(self._norm, model.projection, model.embedding_size)
        self.pooled = () if anatomy.no_parts else model.layout.readout
        self._tokens = model.layout.tokens

    def features(self, pixels: Tensor) -> Tensor:
        """Run the network up to its head."""
        return forward_features(self._network, pixels)

    def logits(self, features: Tensor) -> Tensor:
        """Logits [B, classes] in the network's dtype."""
        return forward_head(self._network, features)

    def pooled_features(self, features: Tensor) -> Tensor:
        """What the class head reads: [B, width] in the network's dtype."""
        return forward_head(self._network, features, pre_logits=True)

    def embedding(self, features: Tensor) -> Tensor:
        """Embedding: float32 [B, embedding_size], differentiable.

        Where it is a sum over tokens it is computed as that sum, in float32, so that the
        parts add up in half precision, too.
        """
        if self.pooled:
            return self.parts(features).sum(dim=1) + self.constant.to(features.device)
        pooled = self.pooled_features(features)
        projected: Tensor = pooled if self._projection is None else self._projection(pooled)
        return projected.float()

    def parts(self, features: Tensor) -> Tensor:
        """What each token adds to the embedding: float32 [B, tokens, embedding_size]."""
        tokens = self.tokens(features).float()
        chosen = list(self.pooled)
        take = tokens if len(chosen) == tokens.shape[1] else tokens[:, chosen]
        if self._first:
            take = parts.project(take, self._projection)
        split = parts.mean_parts(take) if self._pooling == "avg" else parts.max_parts(take)
        if self._norm is not None:
            split = parts.normed_parts(split, self._norm)
        if not self._first:
            split = parts.project(split, self._projection)
        if split.shape[1] == tokens.shape[1]:
            return split
        everywhere = split.new_zeros(len(split), tokens.shape[1], split.shape[2])
        everywhere[:, chosen] = split
        return everywhere

    def places(self, features: Tensor) -> Tensor:
        """Each token read alone: float32 [B, tokens, embedding_size]."""
        tokens = self.tokens(features).float()
        if self._norm is not None:
            norm = self._norm
            tokens = torch.nn.functional.layer_norm(
                tokens,
                tokens.shape[-1:],
                None if norm.weight is None else norm.weight.float(),
                None if norm.bias is None else norm.bias.float(),
                norm.eps,
            )
        projected = parts.project(tokens, self._projection)
        bias = None if self._projection is None else self._projection.bias
        return projected if bias is None else projected + bias.float()

    def tokens(self, features: Tensor) -> Tensor:
        """Lay features out as tokens: [B, tokens, width], prefix first, row by row."""
        if features.ndim == 3:
            return features[:, : self._tokens]
        if self._channels_last:
            return features.flatten(1, 2)
        return features.flatten(2).mT

    def scores(self, features: Tensor, targets: list[ScoreTarget]) -> Tensor:
        """Each picture's own score: float32 [B], differentiable."""
        by_class = [isinstance(target, ClassLogit) for target in targets]
        logits = self.logits(features) if any(by_class) else None
        embeddings = None if all(by_class) else self.embedding(features)
        return scores(targets, logits, embeddings)
