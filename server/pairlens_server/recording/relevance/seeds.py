"""What a map explains: a score to differentiate, and where relevance starts.

Both kinds of seed start from the tokens that the head reads, after the network's last norm.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from pairlens_server.recording.relevance.network import Dense, in_dtype
from pairlens_server.recording.relevance.rules import (
    safe_divide,
    through_linear,
    through_logit,
    through_pooling,
)


class Seed(Protocol):
    """A target per picture. B pictures, R tokens that are read out, C features."""

    def score(self, network: Any, tokens: Tensor) -> Tensor:
        """Differentiable score of each picture: [B] from normed tokens [B, R, C]."""
        ...

    def relevance(self, network: Any, tokens: Tensor) -> Tensor:
        """Relevance at the tokens, which sums to 1 per picture: [B, R, C] from [B, R, C]."""
        ...

    def reading(self, network: Any, tokens: Tensor) -> Tensor:
        """What the score is read off: logits [B, classes] or embedding [B, embedding_size]."""
        ...


def _pooled(network: Any, tokens: Tensor) -> Tensor:
    # Distilled DeiT has no norm after pooling but an identity.
    pooled = in_dtype(network.fc_norm, tokens.dtype)(tokens.mean(dim=1))
    assert isinstance(pooled, Tensor)
    return pooled


@dataclass(frozen=True, eq=False)
class ClassSeed:
    """A class per picture: its logit is the score, relevance starts as 1 at that logit.

    A distilled DeiT's logits are the mean of two heads: relevance starts as ½ at each (ours).

    Attributes:
        classes: int64 [B], on any device; -1 for the class with the largest logit.
    """

    classes: Tensor

    def score(self, network: Any, tokens: Tensor) -> Tensor:
        """See `Seed.score`."""
        logits = self._logits(network, tokens)
        return logits.gather(1, self._chosen(logits)[:, None]).squeeze(1)

    def relevance(self, network: Any, tokens: Tensor) -> Tensor:
        """See `Seed.relevance`."""
        heads = self._heads(network)
        chosen = self._chosen(self._logits(network, tokens))
        found = []
        for head, read in zip(heads, self._read(network, tokens), strict=True):
            weights = head.weight[chosen].to(tokens.dtype)
            found.append(through_logit(read, weights, 1 / len(heads)))
        if len(heads) == 1:
            return through_pooling(tokens, found[0])
        pairs = zip(tokens.unbind(dim=1), found, strict=True)
        return torch.cat([through_pooling(t.unsqueeze(1), part) for t, part in pairs], dim=1)

    def reading(self, network: Any, tokens: Tensor) -> Tensor:
        """See `Seed.reading`."""
        return self._logits(network, tokens)

    @staticmethod
    def _heads(network: Any) -> list[nn.Linear]:
        return [network.head] + ([network.head_dist] if hasattr(network, "head_dist") else [])

    @classmethod
    def _read(cls, network: Any, tokens: Tensor) -> list[Tensor]:
        """Return what each head reads: [B, C] for each."""
        if len(cls._heads(network)) == 1:
            return [_pooled(network, tokens)]
        return list(tokens.unbind(dim=1))

    @classmethod
    def _logits(cls, network: Any, tokens: Tensor) -> Tensor:
        pairs = zip(cls._heads(network), cls._read(network, tokens), strict=True)
        each = [Dense.of(head, tokens.dtype)(read) for head, read in pairs]
        return torch.stack(each).mean(dim=0)

    def _chosen(self, logits: Tensor) -> Tensor:
        classes = self.classes.to(logits.device)
        return torch.where(classes < 0, logits.argmax(dim=1), classes)


@dataclass(frozen=True, eq=False)
class SimilaritySeed:
    """A direction per picture: the score is f·u / ‖f‖, f the embedding (ours).

    Chefer et al. start at a class logit and say nothing of embeddings. Here relevance starts
    at the embedding as each feature's share of the score, f_d u_d / Σ f_d u_d, and goes
    through the projection by the rule of linear layers.

    Attributes:
        directions: u, [B, embedding_size], of unit length for a cosine similarity.
        projection: From pooled features to the embedding, or None.
    """

    directions: Tensor
    projection: nn.Linear | None

    def score(self, network: Any, tokens: Tensor) -> Tensor:
        """See `Seed.score`."""
        embedding = self._embedding(_pooled(network, tokens))
        products = embedding * self._along(tokens)
        lengths: Tensor = torch.linalg.vector_norm(embedding, dim=1)
        return products.sum(dim=1) / lengths

    def relevance(self, network: Any, tokens: Tensor) -> Tensor:
        """See `Seed.relevance`."""
        pooled = _pooled(network, tokens)
        embedding = self._embedding(pooled)
        products = embedding * self._along(tokens)
        relevance = safe_divide(products, products.sum(dim=1, keepdim=True))
        if self.projection is not None:
            layer = Dense.of(self.projection, tokens.dtype)
            relevance = through_linear(pooled, embedding, *layer, relevance)
        return through_pooling(tokens, relevance)

    def reading(self, network: Any, tokens: Tensor) -> Tensor:
        """See `Seed.reading`."""
        return self._embedding(_pooled(network, tokens))

    def _along(self, tokens: Tensor) -> Tensor:
        return self.directions.to(tokens)

    def _embedding(self, pooled: Tensor) -> Tensor:
        if self.projection is None:
            return pooled
        return Dense.of(self.projection, pooled.dtype)(pooled)
