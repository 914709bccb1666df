"""What is differentiated, or read off a changed picture: one number per picture."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor


@dataclass(frozen=True)
class ClassLogit:
    """The logit of a class, before the softmax; None for the class with the largest."""

    class_index: int | None = None

    @property
    def key(self) -> str:
        """Stable text form, part of cache keys."""
        return f"class {'predicted' if self.class_index is None else self.class_index}"


@dataclass(frozen=True)
class Similarity:
    """Summed cosine similarity to fixed embeddings e_j: f·u / ‖f‖ with u = Σ_j e_j / ‖e_j‖.

    Linear in u, so one picture or a whole gallery costs the same (Black et al. 2022,
    section 4.2).

    Attributes:
        direction: u as float32 [embedding_size], little-endian bytes.
    """

    direction: bytes

    @classmethod
    def to(cls, embeddings: Tensor) -> Similarity:
        """To all of some embeddings: float32 [count, embedding_size], none of them zero."""
        total = torch.zeros(embeddings.shape[1], dtype=torch.float64)
        # In slices: float64 copies of a whole gallery would be twice its size.
        for rows in torch.split(embeddings, _SLICE):
            total += (rows.double() / rows.double().norm(dim=-1, keepdim=True)).sum(dim=0).cpu()
        direction = total.float().contiguous()
        return cls(direction.numpy().astype("<f4").tobytes())

    @cached_property
    def key(self) -> str:
        """Stable text form, part of cache keys."""
        return f"similarity {hashlib.sha256(self.direction).hexdigest()}"

    @cached_property
    def vector(self) -> Tensor:
        """U as float32 [embedding_size] on the CPU."""
        return torch.frombuffer(bytearray(self.direction), dtype=torch.float32)


_SLICE = 4096
_SHORTEST = 1e-30  # an emptied picture of a probe may have no embedding at all


def cosines(embedding: Tensor, others: Tensor) -> Tensor:
    """Cosine similarity to each of some embeddings, of any length but zero: float64 [count].

    Args:
        embedding: [embedding_size].
        others: [count, embedding_size].
    """
    unit = embedding.double() / embedding.double().norm()
    return torch.cat(
        [rows.double() @ unit / rows.double().norm(dim=-1) for rows in torch.split(others, _SLICE)]
    )


ScoreTarget = ClassLogit | Similarity


def class_indices(classes: Sequence[int | None], logits: Tensor) -> Tensor:
    """Resolve None to the class with the largest logit: int64 [B] from logits [B, classes]."""
    given = torch.tensor([-1 if c is None else c for c in classes], device=logits.device)
    return torch.where(given < 0, logits.argmax(dim=1), given)


def scores(
    targets: Sequence[ScoreTarget], logits: Tensor | None, embeddings: Tensor | None
) -> Tensor:
    """Each picture's own score: [B], differentiable; 0 for a similarity of a zero embedding.

    Args:
        targets: One for each picture.
        logits: [B, classes]; needed by `ClassLogit`.
        embeddings: [B, embedding_size]; needed by `Similarity`.
    """
    found: list[Tensor] = []
    for row, target in enumerate(targets):
        if isinstance(target, ClassLogit):
            assert logits is not None
            chosen = class_indices([target.class_index], logits[row : row + 1])
            found.append(logits[row].float()[chosen[0]])
        else:
            assert embeddings is not None
            direction = target.vector.to(embeddings.device)
            found.append(similarities(embeddings[row : row + 1].float(), direction)[0])
    return torch.stack(found)


def similarities(embeddings: Tensor, direction: Tensor) -> Tensor:
    """Summed cosine similarity of each embedding: [B], 0 for an embedding of zero.

    Args:
        embeddings: float32 [B, embedding_size].
        direction: float32 [embedding_size], u of `Similarity`.
    """
    found: Tensor = embeddings @ direction / embeddings.norm(dim=-1).clamp(min=_SHORTEST)
    return found
