"""What methods may know of a model: counts and what it can give, no classes of timm."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from torch import Tensor

from pairlens_server.models.loaded import TokenLayout


@dataclass(frozen=True)
class Refusals:
    """Why a model cannot give something; "" for what it can.

    Attributes:
        readout: A row of attention of the readout.
        matrix: Attention between all tokens, for every block (rollout).
        classes: Logits.
        parts: The embedding as a sum over places.
        places: Places read alone.
        relevance: Gradients by attention in every block.
        attribution: Layer-wise relevance (TIBAV).
        layer_scores: A score of every block's own tokens (LeGrad).
        libra: LibraGrad's gradients.
        contributions: FullGrad.
        hidden: Hidden layers of MLPs.
    """

    readout: str = ""
    matrix: str = ""
    classes: str = ""
    parts: str = ""
    places: str = ""
    relevance: str = ""
    attribution: str = ""
    layer_scores: str = ""
    libra: str = ""
    contributions: str = ""
    hidden: str = ""


@dataclass(frozen=True)
class LayerGrid:
    """Where the places of a picture lie in a module's output [B, ...].

    Attributes:
        rows, columns: Of the grid.
        prefix: Tokens before the patches, for outputs [B, tokens, channels].
        channels: Features of each place.
        channels_last: [B, rows, columns, channels] rather than [B, channels, rows, columns],
            for outputs of four dimensions.
    """

    rows: int
    columns: int
    prefix: int
    channels: int
    channels_last: bool


@dataclass(frozen=True, eq=False)
class ModelFacts:
    """Counts of a model, and a reason for everything that it cannot give.

    Attributes:
        layout: Grid, prefix and readout tokens.
        blocks, heads: Transformer blocks whose attention can be read and heads of each; 0
            where there are none.
        classes: Outputs of the class head; 0 without one.
        embedding_size: Length of the embedding.
        embedding_constant: float32 [embedding_size] on the CPU: the part of every
            embedding that no token owns (the projection's bias, and the norm's where
            it follows the pooling).
        pooled: Indices of the tokens that are pooled; empty under `refusals.parts`.
        first_readout_block: First block in which the readout takes part (ConViT's class
            token joins late).
        cam_layer: The papers' default module for class activation maps.
        layers: Grid of every module whose output lies on one, by name.
        hidden_layers: Layer that reads each block's hidden units, in order; blocks of all
            stages whose tokens lie on a grid.
        hidden_units: Their number, for each of those.
        black: Black as the model's input has it, by channel.
        refusals: See there.
    """

    layout: TokenLayout
    blocks: int
    heads: int
    classes: int
    embedding_size: int
    embedding_constant: Tensor
    pooled: tuple[int, ...] = ()
    first_readout_block: int = 0
    cam_layer: str = ""
    layers: Mapping[str, LayerGrid] = field(default_factory=lambda: MappingProxyType({}))
    hidden_layers: tuple[str, ...] = ()
    hidden_units: tuple[int, ...] = ()
    black: tuple[float, float, float] = (0.0, 0.0, 0.0)
    refusals: Refusals = Refusals()
