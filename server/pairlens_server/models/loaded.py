"""A model that is ready to run, with the facts that methods and callers ask for."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum

import torch
from torch import nn

from pairlens_server.models.preprocessing import Preprocessing


class Family(str, Enum):
    """Kinds of timm models that have a recorder."""

    VIT = "vit"  # timm VisionTransformer and VisionTransformerDistilled
    EVA = "eva"  # timm Eva: EVA, EVA-02, DINOv3; rotary positions
    SWIN = "swin"  # timm SwinTransformer and SwinTransformerV2: attention in windows
    PIT = "pit"  # timm PoolingVisionTransformer: a ViT of several grids
    TWINS = "twins"  # timm Twins: PCPVT and SVT
    COAT = "coat"  # timm CoaT: factorised attention, with and without parallel blocks
    CONVIT = "convit"  # timm ConVit: gated positional attention, then a class token
    XCIT = "xcit"  # timm Xcit: attention over channels, then class attention
    CONVNEXT = "convnext"  # timm ConvNeXt, V2 included
    RESNET = "resnet"  # timm ResNet: post-activation
    RESNETV2 = "resnetv2"  # timm ResNetV2: pre-activation, BiT


@dataclass(frozen=True)
class TokenLayout:
    """Where the places of a picture lie among a model's tokens or cells.

    Attributes:
        rows, columns: The grid of the last features: patches of a ViT, cells of a CNN or of
            the last stage of a network with several grids (Swin, PiT, Twins, CoaT).
        prefix: Tokens before the patches (class, distillation, registers); 0 where the last
            features have none.
        readout: Indices of the tokens that the head reads: `(0,)` for a class token,
            `(0, 1)` for a distilled DeiT or PiT, all pooled tokens for mean or max pooling,
            none for attention pooling, which reads no token directly. Of a CoaT with parallel
            blocks, whose head reads three grids, those of the last one.
        unseen_bottom, unseen_right: Input pixels at those edges that no cell covers, where
            the input size is no multiple of the patch size.
    """

    rows: int
    columns: int
    prefix: int
    readout: tuple[int, ...]
    unseen_bottom: int = 0
    unseen_right: int = 0

    @property
    def cells(self) -> int:
        """Number of patches or cells."""
        return self.rows * self.columns

    @property
    def tokens(self) -> int:
        """Number of tokens, prefix included."""
        return self.prefix + self.cells


@dataclass(frozen=True, eq=False)
class LoadedModel:
    """One served model: frozen, in eval mode, on its device.

    Attributes:
        name: Name under which it is served.
        architecture: timm's name.
        family: Which recorder fits it.
        network: The timm model with its class head; parameters need no gradient.
        projection: Linear layer to the embedding, or None.
        projection_first: Whether it reads every token or cell, before the pooling, rather
            than the pooled features.
        pooling: timm's `global_pool` ("token", "avg", "max", ...).
        preprocessing: How pictures become inputs.
        layout: Grid, prefix and readout tokens.
        embedding_size: Length of the embedding, after the projection if there is one.
        blocks, heads: Transformer blocks whose attention between tokens can be read, and
            heads per block; 0 where there are none (see `families.blocks_and_heads`).
        classes: Outputs of the class head; 0 without one.
        labels: Name of each class, or empty.
        random_twin: Name of the served model that is this one with random weights, or empty.
        fingerprint: Hex hash of architecture, weights, preprocessing and dtype.
        device, dtype: Where and in what the network computes.
    """

    name: str
    architecture: str
    family: Family
    network: nn.Module
    projection: nn.Linear | None
    pooling: str
    preprocessing: Preprocessing
    layout: TokenLayout
    embedding_size: int
    blocks: int
    heads: int
    classes: int
    fingerprint: str
    device: torch.device
    dtype: torch.dtype
    labels: tuple[str, ...] = field(default=())
    projection_first: bool = False
    random_twin: str = ""
