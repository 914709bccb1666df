"""The families of timm networks: what is alike in all of them, asked in one way."""

from __future__ import annotations

from typing import Any

import torch
from timm.models.coat import CoaT
from timm.models.convit import ConVit
from timm.models.convnext import ConvNeXt
from timm.models.deit import VisionTransformerDistilled
from timm.models.eva import Eva
from timm.models.pit import PoolingVisionTransformer
from timm.models.resnet import ResNet
from timm.models.resnetv2 import ResNetV2
from timm.models.swin_transformer import SwinTransformer
from timm.models.swin_transformer_v2 import SwinTransformerV2
from timm.models.twins import Twins
from timm.models.vision_transformer import VisionTransformer
from timm.models.xcit import Xcit
from torch import Tensor, nn

from pairlens_server.errors import ConfigurationError
from pairlens_server.models.loaded import Family

# Exact classes: a subclass may run another forward pass than the recorders split.
_FAMILIES: dict[type[nn.Module], Family] = {
    VisionTransformer: Family.VIT,
    VisionTransformerDistilled: Family.VIT,
    Eva: Family.EVA,
    SwinTransformer: Family.SWIN,
    SwinTransformerV2: Family.SWIN,
    PoolingVisionTransformer: Family.PIT,
    Twins: Family.TWINS,
    CoaT: Family.COAT,
    ConVit: Family.CONVIT,
    Xcit: Family.XCIT,
    ConvNeXt: Family.CONVNEXT,
    ResNet: Family.RESNET,
    ResNetV2: Family.RESNETV2,
}
# Families with timm's ClassifierHead or NormMlpClassifierHead, which pools.
_POOLING_HEADS = (Family.SWIN, Family.CONVNEXT, Family.RESNETV2)


def family_of(network: nn.Module) -> Family:
    """Return the network's family.

    Raises:
        ConfigurationError: It has none; the message names the class and what we take.
    """
    family = _FAMILIES.get(type(network))
    if family is None:
        taken = ", ".join(sorted(cls.__name__ for cls in _FAMILIES))
        raise ConfigurationError(
            f"timm's {type(network).__name__} is of no family that pairlens explains ({taken})"
        )
    return family


def classifier_name(network: nn.Module) -> str:
    """Return the name of the class head's linear layer.

    Of a distilled network it is the class token's; the distillation token's is `head_dist`.
    """
    family = family_of(network)
    if family in _POOLING_HEADS:
        return "head.fc"
    return "fc" if family is Family.RESNET else "head"


def pooling_of(network: Any) -> str:
    """Return timm's `global_pool` of a network as text.

    Raises:
        ConfigurationError: It has none, so that it gives no embedding.
    """
    layer = _pooling_layer(network)
    pooling = network.global_pool if layer is None else layer.pool_type
    if not pooling:
        raise ConfigurationError("the architecture has no pooling; set pooling")
    return str(pooling)


def pooled_width(network: Any) -> int:
    """Return the length of the pooled features, which the class head reads."""
    layer = _pooling_layer(network)
    if layer is None:
        return int(network.num_features)
    # A ConvNeXt may have a hidden layer between pooling and class head.
    hidden = getattr(getattr(network, "head", None), "hidden_size", None)
    # Not head_hidden_size, which leaves out catavgmax's two halves in older timm.
    return int(hidden or network.num_features * layer.feat_mult())


def norm_after_pooling(network: Any) -> nn.Module | None:
    """Return the norm between pooling and class head, or None where there is none."""
    norm = getattr(network, "fc_norm", None)
    if norm is None:
        norm = getattr(getattr(network, "head", None), "norm", None)
    return None if norm is None or isinstance(norm, nn.Identity) else norm


def _pooling_layer(network: Any) -> Any:
    family = family_of(network)
    if family in _POOLING_HEADS:
        return network.head.global_pool
    return network.global_pool if family is Family.RESNET else None


def blocks_and_heads(network: Any) -> tuple[int, int]:
    """Return the blocks whose attention between tokens can be read, and the heads per block.

    All blocks of a ViT, an Eva and a ConViT. Of a PiT those of the last stage, since the
    stages have different grids; of an XCiT its class attention, since the other blocks attend
    over channels. (0, 0) for CNNs and for Swin, Twins and CoaT, whose attention runs in
    windows, over a coarser grid or factorised.
    """
    family = family_of(network)
    if family in (Family.VIT, Family.EVA, Family.CONVIT):
        blocks = network.blocks
    elif family is Family.PIT:
        blocks = network.transformers[-1].blocks
    elif family is Family.XCIT:
        blocks = network.cls_attn_blocks
    else:
        return 0, 0
    modules = [module for block in blocks for module in block.modules()]
    heads = next((module.num_heads for module in modules if hasattr(module, "num_heads")), 0)
    return len(blocks), int(heads)


def forward_features(network: Any, pixels: Tensor) -> Tensor:
    """Return the last features as one tensor, whose places `TokenLayout` describes.

    They are timm's own but for two networks, whose pooled outputs stay timm's exactly:

    - PiT, of which timm gives the class tokens alone: here the patches of the last stage
      follow, normed by the same layer.
    - CoaT with parallel blocks, of which timm gives the tokens of three grids as a list: here
      they stand in one row, those of the last grid first.

    Args:
        network: Of a family of ours, in eval mode.
        pixels: [B, 3, H, W], in the network's dtype and on its device.

    Returns:
        [B, tokens, width] of a transformer, class and register tokens first;
        [B, rows, columns, width] of a Swin; [B, channels, rows, columns] of a CNN.
    """
    if isinstance(network, PoolingVisionTransformer):
        return _pit_tokens(network, pixels)
    features = network.forward_features(pixels)
    if isinstance(features, list):
        return torch.cat(features[::-1], dim=1)
    tokens: Tensor = features
    return tokens


def forward_head(network: Any, features: Tensor, *, pre_logits: bool = False) -> Tensor:
    """Return logits or pooled features of what `forward_features` returned.

    Args:
        network: Of a family of ours, in eval mode.
        features: As `forward_features` gives them, for any number of pictures.
        pre_logits: Stop before the class head.

    Returns:
        Logits [B, classes]; with `pre_logits`, or of a network without a class head, the
        pooled features [B, width]. Of a distilled DeiT or PiT the logits are the mean of its
        two heads', and the pooled features the mean of its two tokens.
    """
    given: Tensor | list[Tensor] = features
    if isinstance(network, CoaT) and network.aggregate is not None:
        embeds = (network.patch_embed4, network.patch_embed3, network.patch_embed2)
        lengths = [1 + int(embed.num_patches) for embed in embeds]
        given = list(torch.split(features, lengths, dim=1))[::-1]
    pooled: Tensor = network.forward_head(given, pre_logits=pre_logits)
    return pooled.flatten(1)


def _pit_tokens(network: Any, pixels: Tensor) -> Tensor:
    patches = network.pos_drop(network.patch_embed(pixels) + network.pos_embed)
    prefix = network.cls_token.expand(len(pixels), -1, -1)
    patches, prefix = network.transformers((patches, prefix))
    tokens: Tensor = network.norm(torch.cat((prefix, patches.flatten(2).mT), dim=1))
    return tokens
