"""Norms and activations with their usual values and a gradient that takes one factor as fixed.

Each is x times a factor (1/σ of a norm, f(x)/x of an activation) whose own dependence on x
the backward pass leaves out. The forward pass is torch's own kernel; weights that multiply
get no gradient, biases theirs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import Function
from torch.overrides import TorchFunctionMode


def layer_norm(
    input: Tensor,
    normalized_shape: Sequence[int],
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
    cudnn_enable: bool = True,
) -> Tensor:
    """`F.layer_norm` as (x - mean) / σ · weight + bias with 1/σ fixed."""
    output: Tensor = _LayerNorm.apply(input, tuple(normalized_shape), weight, bias, eps)
    return output


def group_norm(
    input: Tensor,
    num_groups: int,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
    cudnn_enabled: bool = True,
) -> Tensor:
    """`F.group_norm` as (x - mean) / σ · weight + bias with 1/σ fixed."""
    output: Tensor = _GroupNorm.apply(input, num_groups, weight, bias, eps)
    return output


def rms_norm(
    input: Tensor,
    normalized_shape: Sequence[int],
    weight: Tensor | None = None,
    eps: float | None = None,
) -> Tensor:
    """`F.rms_norm` as x / rms · weight with 1/rms fixed."""
    output: Tensor = _RmsNorm.apply(input, tuple(normalized_shape), weight, eps)
    return output


def gated(
    function: Callable[..., Tensor],
    at_zero: float,
    input: Tensor,
    *args: Any,
    inplace: bool = False,
    **kwargs: Any,
) -> Tensor:
    """An activation f with f(0) = 0 as x · (f(x) / x) with the ratio fixed.

    Args:
        function: f, elementwise.
        at_zero: Limit of f(x) / x at 0.
        input: x.
        *args: For f.
        inplace: Taken and left out: a new tensor has the same values.
        **kwargs: For f.
    """

    def values(x: Tensor) -> Tensor:
        return function(x, *args, **kwargs)

    output: Tensor = _Gated.apply(input, values, at_zero)
    return output


def batch_norm(
    input: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    """`F.batch_norm`, whose own backward pass is wrong for a single picture on the CPU.

    In eval mode torch (seen in 2.15) misreads a gradient [1, C, H, W] that lies in memory as
    tokens [1, H · W, C], which is what XCiT's stem gets from its first block: gradients of the
    input and of the bias are then off by as much as they are large. Here it is the same
    linear function with a backward pass of one product.
    """
    if training or running_mean is None or running_var is None:
        # Statistics of the tensor itself, as of standardised weights.
        return F.batch_norm(input, running_mean, running_var, weight, bias, training, momentum, eps)
    output: Tensor = _BatchNorm.apply(input, running_mean, running_var, weight, bias, eps)
    return output


def batch_norm_scale(running_var: Tensor, weight: Tensor | None, eps: float) -> Tensor:
    """What eval mode multiplies by: [C]."""
    inverse = (running_var + eps).rsqrt()
    return inverse if weight is None else inverse * weight


def partly_fixed(input: Tensor, count: int) -> Tensor:
    """The same [..., channels] with no gradient to the first `count` channels."""
    output: Tensor = _PartlyFixed.apply(input, count)
    return output


class SoundBatchNorm(TorchFunctionMode):
    """Gives a forward pass on this thread the backward pass of `batch_norm` above."""

    def __torch_function__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        """See `TorchFunctionMode`."""
        called = batch_norm if function is F.batch_norm else function
        return called(*args, **(kwargs or {}))


class _PartlyFixed(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, count: int) -> Tensor:
        ctx.count = count
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        slope = gradients[0].clone()
        slope[..., : ctx.count] = 0
        return slope, None


class _LayerNorm(Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        shape: tuple[int, ...],
        weight: Tensor | None,
        bias: Tensor | None,
        eps: float,
    ) -> Tensor:
        output, _, inverse = torch.native_layer_norm(x, shape, weight, bias, eps)
        ctx.save_for_backward(inverse.to(x.dtype), weight)
        ctx.dims = tuple(range(-len(shape), 0))
        return output

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        (gradient,) = gradients
        inverse, weight = ctx.saved_tensors
        slope = gradient if weight is None else gradient * weight
        slope = (slope - slope.mean(ctx.dims, keepdim=True)).mul_(inverse)
        return slope, None, None, _of_bias(ctx, 3, gradient, ctx.dims), None


class _GroupNorm(Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, groups: int, weight: Tensor | None, bias: Tensor | None, eps: float
    ) -> Tensor:
        batch, channels = x.shape[:2]
        places = x[0, 0].numel()
        output, _, inverse = torch.native_group_norm(
            x.contiguous(), weight, bias, batch, channels, places, groups, eps
        )
        ctx.save_for_backward(inverse.to(x.dtype), weight)
        return output

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        (gradient,) = gradients
        inverse, weight = ctx.saved_tensors
        slope = gradient
        if weight is not None:
            slope = slope * weight.view(-1, *(1,) * (gradient.ndim - 2))
        slope = slope.reshape(*inverse.shape, -1)
        slope = (slope - slope.mean(-1, keepdim=True)).mul_(inverse.unsqueeze(-1))
        return slope.view(gradient.shape), None, None, _of_bias(ctx, 3, gradient, (1,)), None


class _BatchNorm(Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        mean: Tensor,
        variance: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        eps: float,
    ) -> Tensor:
        ctx.save_for_backward(batch_norm_scale(variance, weight, eps).to(x.dtype))
        return F.batch_norm(x, mean, variance, weight, bias, False, 0.0, eps)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        (gradient,) = gradients
        (scale,) = ctx.saved_tensors
        slope = gradient * scale.view(-1, *(1,) * (gradient.ndim - 2))
        return slope, None, None, None, _of_bias(ctx, 4, gradient, (1,)), None


class _RmsNorm(Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, shape: tuple[int, ...], weight: Tensor | None, eps: float | None
    ) -> Tensor:
        dims = tuple(range(-len(shape), 0))
        # Half precision squares overflow.
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        floor = torch.finfo(x.dtype).eps if eps is None else eps
        inverse = wide.square().mean(dims, keepdim=True).add_(floor).rsqrt_()
        ctx.save_for_backward(inverse.to(x.dtype), weight)
        return F.rms_norm(x, shape, weight, eps)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        (gradient,) = gradients
        inverse, weight = ctx.saved_tensors
        slope = gradient * inverse
        return (slope if weight is None else slope.mul_(weight)), None, None, None


class _Gated(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, values: Callable[[Tensor], Tensor], at_zero: float) -> Tensor:
        output = values(x)
        # 0/0 is the only NaN; the ratio costs less than the gate's own formula again.
        ctx.save_for_backward((output / x).nan_to_num_(nan=at_zero))
        return output

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        (gradient,) = gradients
        (gate,) = ctx.saved_tensors
        return gradient * gate, None, None


def _of_bias(ctx: Any, argument: int, gradient: Tensor, kept: tuple[int, ...]) -> Tensor | None:
    """Sum over all but some dimensions, if the bias, an argument of that number, wants it."""
    if not ctx.needs_input_grad[argument]:
        return None
    stay = {dim % gradient.ndim for dim in kept}
    return gradient.sum([dim for dim in range(gradient.ndim) if dim not in stay])
