"""Every constant that a network adds, met where it is added, with the gradient there."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from timm.models.coat import CoaT
from timm.models.pit import PoolingVisionTransformer
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from pairlens_server.recording.balanced import batch_norm, batch_norm_scale
from pairlens_server.recording.cells import CellSums
from pairlens_server.recording.modes import HookedMode
from pairlens_server.recording.windows import Windows, window_hooks


@dataclass(frozen=True)
class _Tokens:
    """Tokens [B, T]: some without a place, then a grid."""

    prefix: int
    grid: tuple[int, int]


class ConstantTap(HookedMode):
    """Has each constant that joins the picture's part of the network reported by its gradient.

    Parameters are frozen, so that what requires a gradient is what depends on the picture.
    Gradients are read by hooks as they pass and are not kept. A mode that changes functions
    is entered before this one, which sees each call first and passes it on.

    Args:
        network: What runs.
        batch: Pictures in the pass.
        sums: Takes constant times gradient of each place, in the backward pass.

    Attributes:
        after_features: Set when the head begins: a map of one place is then a pooled vector.
    """

    def __init__(self, network: nn.Module, batch: int, sums: CellSums):
        super().__init__()
        self.after_features = False
        self._network = network
        self._batch = batch
        self._sums = sums
        self._prefix = _prefix(network)
        self._windows: Windows | None = None
        self._grids: dict[int, tuple[int, int]] = {}  # by number of places, the latest last

    def hooks(self) -> Iterable[RemovableHandle]:
        """See `HookedMode.hooks`."""
        return window_hooks(self._network, self._set_windows)

    def __torch_function__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        """See `TorchFunctionMode`."""
        kwargs = kwargs or {}
        report = _REPORTS.get(function)
        if report is None:
            return function(*args, **kwargs)
        # In-place functions change what they are given.
        given = [_depends(arg) for arg in args]
        output = (batch_norm if function is F.batch_norm else function)(*args, **kwargs)
        if output.requires_grad:
            report(self, output, given, *args, **kwargs)
        return output

    def channels_last(self, output: Tensor, constant: Tensor | None) -> None:
        """A constant [channels] was added to [..., channels]."""
        shape = output.shape[:-1]
        if len(shape) == 3:
            self.note(shape[1:])
        if constant is not None:
            fixed = constant.detach()
            place = self._locate(shape)
            _on_gradient(output, lambda slope: self._add(slope @ fixed, place))

    def channels_first(self, output: Tensor, constant: Tensor | None) -> None:
        """A constant [channels] was added to [B, channels, ...]."""
        shape = (output.shape[0], *output.shape[2:])
        if len(shape) == 3:
            self.note(shape[1:])
        if constant is not None:
            fixed = constant.detach()
            place = self._locate(shape)
            # [channels] @ [B, channels, places], where a vector has one place.
            _on_gradient(
                output,
                lambda slope: self._add(fixed @ slope.reshape(*slope.shape[:2], -1), place),
            )

    def everywhere(self, output: Tensor, constant: Tensor) -> None:
        """A constant that broadcasts was added to tokens, or to a map."""
        fixed = constant.detach()
        fixed = fixed.view(*(1,) * (output.ndim - fixed.ndim), *fixed.shape)
        # Channels are last in tokens, and in maps where the constant differs nowhere else.
        last = output.ndim == 3 or fixed.shape[-1] == fixed.numel() > 1
        axis = -1 if last else 1
        by_channel = fixed.numel() == fixed.shape[axis]
        shape = (*output.shape[:-1],) if last else (output.shape[0], *output.shape[2:])
        if len(shape) == 3 and not by_channel and (self._windows or not self._is_map(shape)):
            return  # attention scores [B, heads, T, T], whose bias has no place
        place = self._locate(shape)
        _on_gradient(output, lambda slope: self._add((slope * fixed).sum(axis), place))

    def nowhere(self, output: Tensor, constant: Tensor, start: int, axis: int) -> None:
        """A constant stands in part of [B, ...]."""
        fixed, length = constant.detach(), constant.shape[axis]
        _on_gradient(
            output, lambda slope: self._sums.add_rest(slope.narrow(axis, start, length) * fixed)
        )

    def note(self, size: Sequence[int]) -> None:
        """Keep the size of a map: tokens that follow may be its places in a row."""
        grid = (int(size[0]), int(size[1]))
        if not (self.after_features and grid == (1, 1)):
            self._grids.pop(grid[0] * grid[1], None)
            self._grids[grid[0] * grid[1]] = grid

    def _is_map(self, shape: Sequence[int]) -> bool:
        return (int(shape[1]), int(shape[2])) in self._grids.values()

    def _set_windows(self, windows: Windows | None) -> None:
        self._windows = windows

    def _locate(self, shape: Sequence[int]) -> Windows | _Tokens | None:
        """Where [B, ...] places lie; None is nowhere."""
        if self._windows is not None and len(shape) == self._windows.dimensions:
            return self._windows
        if len(shape) == 3:
            grid = (int(shape[1]), int(shape[2]))
            return None if self.after_features and grid == (1, 1) else _Tokens(0, grid)
        if len(shape) != 2 or shape[1] == self._prefix:
            return None
        for places, grid in reversed(self._grids.items()):
            if places in (shape[1], shape[1] - self._prefix):
                return _Tokens(int(shape[1]) - places, grid)
        return None

    def _add(self, values: Tensor, place: Windows | _Tokens | None) -> None:
        if place is None:
            self._sums.add_rest(values.reshape(self._batch, -1))
            return
        values = values.reshape(self._batch, -1)
        if isinstance(place, Windows):
            inside, outside = place.unfolded(values)
            self._sums.add_map(inside)
            self._sums.add_rest(outside)
            return
        if place.prefix:
            self._sums.add_rest(values[:, : place.prefix])
        self._sums.add_map(values[:, place.prefix :].reshape(-1, *place.grid))


def _on_gradient(output: Any, read: Callable[[Tensor], None]) -> None:
    output.register_hook(read)


def _prefix(network: Any) -> int:
    if isinstance(network, PoolingVisionTransformer):
        return int(network.num_tokens)
    return 1 if isinstance(network, CoaT) else int(getattr(network, "num_prefix_tokens", 0))


def _depends(value: Any) -> bool:
    return isinstance(value, Tensor) and value.requires_grad


def _argument(number: int, name: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    return args[number] if len(args) > number else kwargs.get(name)


# Each of these is told the output, which arguments depended on the picture, and the arguments.


def _linear(tap: ConstantTap, output: Tensor, _: object, *args: Any, **kwargs: Any) -> None:
    tap.channels_last(output, _argument(2, "bias", args, kwargs))


def _layer_norm(tap: ConstantTap, output: Tensor, _: object, *args: Any, **kwargs: Any) -> None:
    tap.channels_last(output, _argument(3, "bias", args, kwargs))


def _conv2d(tap: ConstantTap, output: Tensor, _: object, *args: Any, **kwargs: Any) -> None:
    tap.channels_first(output, _argument(2, "bias", args, kwargs))


def _group_norm(tap: ConstantTap, output: Tensor, _: object, *args: Any, **kwargs: Any) -> None:
    tap.channels_first(output, _argument(3, "bias", args, kwargs))


def _conv1d(tap: ConstantTap, output: Tensor, _: object, *args: Any, **kwargs: Any) -> None:
    bias = _argument(2, "bias", args, kwargs)
    if bias is not None:
        tap.nowhere(output, bias[:, None].expand(output.shape[1:]), 0, -1)


def _batch_norm(
    tap: ConstantTap,
    output: Tensor,
    _: object,
    input: Tensor,
    running_mean: Tensor,
    running_var: Tensor,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> None:
    shift = -running_mean * batch_norm_scale(running_var, weight, eps)
    tap.channels_first(output, shift if bias is None else shift + bias)


def _add(
    tap: ConstantTap, output: Tensor, given: list[bool], input: Any, other: Any, **_: Any
) -> None:
    for constant, depends in ((input, given[0]), (other, given[1])):
        if isinstance(constant, Tensor) and not depends and output.ndim in (2, 3, 4):
            tap.everywhere(output, constant)


def _addcmul(
    tap: ConstantTap, output: Tensor, given: list[bool], input: Tensor, *_: Any, **__: Any
) -> None:
    if not given[0]:
        tap.everywhere(output, input)


def _cat(
    tap: ConstantTap, output: Tensor, _: object, tensors: Sequence[Tensor], dim: int = 0
) -> None:
    start = 0
    for tensor in tensors:
        if not tensor.requires_grad:
            tap.nowhere(output, tensor, start, dim)
        start += tensor.shape[dim]


_REPORTS: dict[Any, Callable[..., None]] = {
    F.linear: _linear,
    F.layer_norm: _layer_norm,
    F.conv2d: _conv2d,
    F.group_norm: _group_norm,
    F.conv1d: _conv1d,
    F.batch_norm: _batch_norm,
    torch.add: _add,
    Tensor.add: _add,
    Tensor.add_: _add,
    torch.addcmul: _addcmul,
    torch.cat: _cat,
}
