"""Where the rows of window-shaped tensors lie on their map (Swin, Twins)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from timm.models.swin_transformer import SwinTransformerBlock, window_partition
from timm.models.swin_transformer_v2 import SwinTransformerV2Block
from timm.models.twins import LocallyGroupedAttn
from torch import Tensor, nn


@dataclass(frozen=True, eq=False)
class Windows:
    """How windows were cut from a map.

    Attributes:
        grid: Rows and columns of the map.
        index: int64 [places in all windows]: place on the map row by row, -1 for padding.
        dimensions: Of tensors so shaped, without their channels.
    """

    grid: tuple[int, int]
    index: Tensor
    dimensions: int

    def unfolded(self, values: Tensor) -> tuple[Tensor, Tensor]:
        """Lay values [B, places in all windows] out: the map [B, rows, columns], the padding's."""
        inside = self.index >= 0
        rows, columns = self.grid
        flat = values.new_zeros(len(values), rows * columns)
        flat = flat.index_copy(1, self.index[inside], values[:, inside])
        return flat.view(-1, rows, columns), values[:, ~inside]


def window_hooks(network: nn.Module, announce: Callable[[Windows | None], None]) -> Iterator[Any]:
    """Hook the layers that attend in windows; yields the handles.

    Args:
        network: Of a family of ours.
        announce: Called with the windows when such a layer begins, and with None when it ends.
    """

    def leave(*_: object) -> None:
        announce(None)

    for module in network.modules():
        if isinstance(module, (SwinTransformerBlock, SwinTransformerV2Block)):
            block = _Block(module, announce)
            yield module.register_forward_pre_hook(block.enter)
            yield module.attn.register_forward_pre_hook(block.attend)
            yield module.attn.register_forward_hook(leave, always_call=True)
        elif isinstance(module, LocallyGroupedAttn):
            yield module.register_forward_pre_hook(_grouped(announce))
            yield module.register_forward_hook(leave, always_call=True)


class _Block:
    """A Swin block: it knows the map, its attention only sees the windows."""

    def __init__(self, block: Any, announce: Callable[[Windows | None], None]):
        self._block = block
        self._announce = announce
        self._grid = (0, 0)

    def enter(self, _block: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        _, rows, columns, _ = inputs[0].shape
        self._grid = (rows, columns)

    def attend(self, _attention: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        places = _places(self._grid, inputs[0].device)
        shift = self._block.shift_size
        places = torch.roll(places, (-shift[0], -shift[1]), (1, 2))
        places = _padded(places, self._block.window_size)
        index = window_partition(places, self._block.window_size).flatten()
        self._announce(Windows(self._grid, index, dimensions=2))


def _grouped(announce: Callable[[Windows | None], None]) -> Callable[..., None]:
    def enter(module: Any, inputs: tuple[Any, ...]) -> None:
        tokens, (rows, columns) = inputs
        side = module.ws
        places = _padded(_places((rows, columns), tokens.device), (side, side))
        index = window_partition(places, (side, side)).flatten()
        # Only the joint layer of queries, keys and values runs on [B, rows, columns, side, side].
        announce(Windows((rows, columns), index, dimensions=5))

    return enter


def _places(grid: tuple[int, int], device: torch.device) -> Tensor:
    return torch.arange(grid[0] * grid[1], device=device).view(1, *grid, 1)


def _padded(places: Tensor, window: tuple[int, int]) -> Tensor:
    below, right = -places.shape[1] % window[0], -places.shape[2] % window[1]
    return F.pad(places, (0, 0, 0, right, 0, below), value=-1)
