"""Where the places of a picture lie among a network's last features."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from timm.models.convit import GPSA
from torch import Tensor

from pairlens_server.errors import ConfigurationError
from pairlens_server.models.families import family_of, pooling_of
from pairlens_server.models.loaded import Family, TokenLayout
from pairlens_server.models.preprocessing import Preprocessing

_Size = tuple[int, int]
# timm's attention poolings: a learned query reads the tokens.
_ATTENTION_POOLINGS = ("map", "prr")


def token_layout(network: Any, preprocessing: Preprocessing, features: Tensor) -> TokenLayout:
    """Find the grid, the prefix and the tokens that the head reads.

    Args:
        network: In eval mode.
        preprocessing: Gives the input size.
        features: Of an input of that size, from `families.forward_features`.

    Raises:
        ConfigurationError: The features have another number of tokens than the grid, as when
            an option keeps the class token from being added.
    """
    family, size = family_of(network), (preprocessing.height, preprocessing.width)
    (rows, columns), (bottom, right) = _GRIDS[family](network, size, features)
    prefix = _prefix(network, family)
    found = features.shape[1] if features.ndim == 3 else rows * columns
    parallel = family is Family.COAT and network.aggregate is not None
    if not parallel and found != prefix + rows * columns:
        raise ConfigurationError(
            f"the network gives {found} tokens, not {prefix} and a grid of {rows} x {columns}"
        )
    readout = _readout(network, prefix, rows * columns)
    return TokenLayout(rows, columns, prefix, readout, unseen_bottom=bottom, unseen_right=right)


def check_grid(network: Any, height: int, width: int) -> None:
    """Refuse an input size on which timm would run and compute something else.

    ConViT's gated attention takes the square root of the number of patches for the side of
    their grid, so that 2 x 8 patches would be attended as 4 x 4.

    Args:
        network: Just built for that size.
        height: Input height in pixels.
        width: Input width in pixels.

    Raises:
        ConfigurationError: The network has such attention and the grid is no square.
    """
    if family_of(network) is not Family.CONVIT:
        return
    rows, columns = network.patch_embed.grid_size
    if rows != columns and any(isinstance(block.attn, GPSA) for block in network.blocks):
        raise ConfigurationError(
            f"field preprocessing.size: ConViT needs a square grid of patches, and "
            f"{height} x {width} pixels give {rows} x {columns}"
        )


def _prefix(network: Any, family: Family) -> int:
    if family is Family.PIT:
        return int(network.num_tokens)
    # Older timm does not count it.
    if family in (Family.COAT, Family.CONVIT, Family.XCIT):
        return 1
    return int(getattr(network, "num_prefix_tokens", 0))


def _readout(network: Any, prefix: int, cells: int) -> tuple[int, ...]:
    pooling = pooling_of(network)
    if getattr(network, "head_dist", None) is not None:
        return (0, 1)
    if pooling == "token":
        return (0,)
    if pooling in _ATTENTION_POOLINGS:
        return ()
    first = 0 if getattr(network, "pool_include_prefix", False) else prefix
    return tuple(range(first, prefix + cells))


# Each of these returns the grid and the input pixels below and right of what it covers.


def _of_patches(network: Any, size: _Size, _: Tensor) -> tuple[_Size, _Size]:
    # Not grid_size, which stays that of the pretrained input where timm takes any size.
    rows, columns = network.patch_embed.dynamic_feat_size(size)
    return (int(rows), int(columns)), _rest(network, size)


def _of_windows(network: Any, size: _Size, features: Tensor) -> tuple[_Size, _Size]:
    # Merging pads an odd grid, so that the last cells reach beyond the picture.
    return (features.shape[1], features.shape[2]), _rest(network, size)


def _rest(network: Any, size: _Size) -> _Size:
    rows, columns = network.patch_embed.dynamic_feat_size(size)
    # Not patch_size, which in a hybrid counts cells of its CNN.
    patch_height, patch_width = network.patch_embed.feat_ratio(as_scalar=False)
    return size[0] - int(rows) * patch_height, size[1] - int(columns) * patch_width


def _of_pit(network: Any, size: _Size, _: Tensor) -> tuple[_Size, _Size]:
    embed = network.patch_embed
    rows, columns = embed.grid_size
    for stage in network.transformers:
        if stage.pool is not None:  # a convolution of stride 2, padded at both edges
            rows, columns = -(-rows // 2), -(-columns // 2)
    # Patches overlap: what is left over is less than one step.
    patch, step = embed.patch_size, embed.conv.stride
    rest = ((size[0] - patch[0]) % step[0], (size[1] - patch[1]) % step[1])
    return (rows, columns), rest


def _of_twins(network: Any, _size: _Size, _: Tensor) -> tuple[_Size, _Size]:
    # timm refuses a size that any of its embeddings does not divide.
    last = network.patch_embeds[-1]
    return (last.H, last.W), (0, 0)


def _of_coat(network: Any, size: _Size, _: Tensor) -> tuple[_Size, _Size]:
    embeds = [getattr(network, f"patch_embed{scale}") for scale in (1, 2, 3, 4)]
    grid = embeds[-1].grid_size
    return grid, _beyond(grid, size, math.prod(embed.patch_size[0] for embed in embeds))


def _of_xcit(network: Any, size: _Size, _: Tensor) -> tuple[_Size, _Size]:
    # Convolutions of stride 2, padded at both edges.
    step = network.patch_embed.patch_size
    return (-(-size[0] // step), -(-size[1] // step)), (0, 0)


def _of_convnext(network: Any, size: _Size, features: Tensor) -> tuple[_Size, _Size]:
    grid = (features.shape[2], features.shape[3])
    return grid, _beyond(grid, size, int(network.feature_info[-1]["reduction"]))


def _of_resnet(_network: Any, _size: _Size, features: Tensor) -> tuple[_Size, _Size]:
    return (features.shape[2], features.shape[3]), (0, 0)


def _beyond(grid: _Size, size: _Size, step: int) -> _Size:
    return max(0, size[0] - grid[0] * step), max(0, size[1] - grid[1] * step)


_GRIDS: dict[Family, Callable[[Any, _Size, Tensor], tuple[_Size, _Size]]] = {
    Family.VIT: _of_patches,
    Family.EVA: _of_patches,
    Family.CONVIT: _of_patches,
    Family.SWIN: _of_windows,
    Family.PIT: _of_pit,
    Family.TWINS: _of_twins,
    Family.COAT: _of_coat,
    Family.XCIT: _of_xcit,
    Family.CONVNEXT: _of_convnext,
    Family.RESNET: _of_resnet,
    Family.RESNETV2: _of_resnet,
}
