"""Which modules give out features on a grid of places, found by running the network once."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from types import MappingProxyType
from typing import Any

import torch
from timm.layers import LayerNorm2d
from torch import Tensor, nn

from pairlens_server.recording.facts import LayerGrid

# Their outputs have four dimensions, two of which count tokens and no rows and columns.
_BETWEEN_TOKENS = (".attn_drop", ".pos_proj")


def find_layers(
    network: nn.Module,
    forward: Callable[[Tensor], object],
    pixels: Tensor,
    *,
    prefix: int,
    channels_last: bool,
) -> Mapping[str, LayerGrid]:
    """Grid of each module's output, by name, in the order of the forward pass.

    Args:
        network: In eval mode.
        forward: Runs it.
        pixels: At least two pictures, [B, 3, H, W]: outputs of another length belong to
            windows, or to positions whatever the picture.
        prefix: Class and register tokens, where outputs of three dimensions have them.
        channels_last: Whether outputs of four dimensions are [B, rows, columns, channels];
            layers that act on one dimension tell that themselves.
    """
    batch, size = len(pixels), (int(pixels.shape[2]), int(pixels.shape[3]))
    found: dict[str, LayerGrid] = {}
    ran: set[str] = set()
    with ExitStack() as stack, torch.no_grad():
        for name, module in network.named_modules():
            if not name or name.endswith(_BETWEEN_TOKENS):
                continue
            channels = _is_channels_last(network, name, module, channels_last)

            def look(
                _module: nn.Module,
                _inputs: object,
                output: Any,
                name: str = name,
                last: bool = channels,
            ) -> None:
                grid = grid_of(output, batch, size, prefix=prefix, channels_last=last)
                # A module that runs several times has no one output.
                if grid is None or name in ran:
                    found.pop(name, None)
                else:
                    found[name] = grid
                ran.add(name)

            stack.callback(module.register_forward_hook(look).remove)
        forward(pixels)
    return MappingProxyType(found)


def _is_channels_last(network: nn.Module, name: str, module: nn.Module, default: bool) -> bool:
    """Layout of a module's output, where that has four dimensions."""
    if isinstance(module, (nn.Conv2d, LayerNorm2d)):
        return False
    if isinstance(module, (nn.Linear, nn.LayerNorm)):
        return True
    # A ConvNeXt turns its features over for its MLPs of Linear layers.
    block, mlp, _ = f"{name}.".rpartition(".mlp.")
    second = getattr(network.get_submodule(f"{block}.mlp"), "fc2", None) if mlp else None
    return default or isinstance(second, nn.Linear)


def grid_of(
    output: object, batch: int, size: tuple[int, int], *, prefix: int, channels_last: bool
) -> LayerGrid | None:
    """The grid of an output; None when its places lie on none.

    Args:
        output: What a module gave out.
        batch: Pictures that it ran on.
        size: Height and width of the input.
        prefix: See `find_layers`.
        channels_last: See `find_layers`.
    """
    if not isinstance(output, Tensor) or not output.is_floating_point():
        return None
    if output.ndim not in (3, 4) or output.shape[0] != batch:
        return None
    if output.ndim == 4:
        _, first, second, third = output.shape
        rows, columns, channels = (
            (first, second, third) if channels_last else (second, third, first)
        )
        fits = rows > 1 < columns and _strides(size, rows, columns)
        return LayerGrid(rows, columns, 0, channels, channels_last) if fits else None
    tokens, channels = output.shape[1:]
    for rows, columns in _patch_grids(size):
        before = tokens - rows * columns
        if before in (0, prefix) and rows > 1 < columns:
            return LayerGrid(rows, columns, before, channels, channels_last=False)
    return None


def _patch_grids(size: tuple[int, int]) -> Iterator[tuple[int, int]]:
    """Grids of patches for every stride: whole patches, padded, and twice as large as the step."""
    height, width = size
    strides = range(1, min(size) + 1)
    yield from ((height // s, width // s) for s in strides)
    yield from (((height + s - 1) // s, (width + s - 1) // s) for s in strides)
    yield from ((height // s - 1, width // s - 1) for s in strides)


def _strides(size: tuple[int, int], rows: int, columns: int) -> bool:
    """Whether a grid is the input divided by one stride, rounded either way."""
    vertical, horizontal = size[0] / rows, size[1] / columns
    stride = max(1, round(math.sqrt(vertical * horizontal)))
    return abs(rows - size[0] / stride) <= 1 and abs(columns - size[1] / stride) <= 1


def as_maps(output: Tensor, grid: LayerGrid) -> Tensor:
    """Lay a module's output out: [B, ...] to float32 [B, channels, rows, columns]."""
    if output.ndim == 3:
        patches = output[:, grid.prefix :].float()
        return patches.mT.reshape(len(patches), -1, grid.rows, grid.columns)
    return (output.permute(0, 3, 1, 2) if grid.channels_last else output).float()
