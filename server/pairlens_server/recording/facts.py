"""What methods may know of a model: counts and what it can give, no classes of timm."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor

from pairlens_server.models.loaded import TokenLayout


@dataclass(frozen=True, eq=False)
class ModelFacts:
    """Counts of a model, and a reason for everything that it cannot give.

    Attributes:
        layout: Grid, prefix and readout tokens.
        blocks, heads: Transformer blocks and heads per block; 0 for CNNs.
        classes: Outputs of the class head; 0 without one.
        embedding_constant: float32 [embedding_size] on the CPU: the part of every
            embedding that no token owns (the projection's bias, and the norm's where
            it follows the pooling).
        pooled: Indices of the tokens that are pooled; empty when `parts_refusal` is set.
        attention_refusal: Why there is no attention between all tokens, or "".
        parts_refusal: Why the embedding is no sum over tokens, or "".
        gradient_refusal: Why there is no class gradient at the feature map, or "".
    """

    layout: TokenLayout
    blocks: int
    heads: int
    classes: int
    embedding_constant: Tensor
    pooled: tuple[int, ...] = field(default=())
    attention_refusal: str = ""
    parts_refusal: str = ""
    gradient_refusal: str = ""
