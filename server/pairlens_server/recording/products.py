"""Products with weights by the faster of the two libraries that torch carries for CPUs.

torch multiplies float32 matrices on x86 by MKL, which keeps its best kernels for processors of
its own maker. oneDNN, which torch has for convolutions and half precision, takes what the
processor offers: products of a ViT ran 2.2 times as fast on an AMD EPYC with AVX-512. They agree
but for rounding. Which is faster is measured, once in a process.

oneDNN compiles a kernel for each shape that it meets, which takes about 10 ms and 0.7 MiB, and
keeps the last 1,024 of all kinds (ONEDNN_PRIMITIVE_CACHE_CAPACITY): four for each size of batch
of a ViT, eight with gradients.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import Function
from torch.overrides import TorchFunctionMode

_log = logging.getLogger(__name__)

# Multiplications, and rows, up to which a call of oneDNN may cost more than its product saves.
_LIGHT = 2**22
_FEW = 3
# Rows, inputs and outputs of the products that are timed; the size of a ViT's, a few milliseconds.
_TIMED = (394, 768, 768)
_TURNS = 5
_WORTH = 1.15
_CLOSE = 1e-5


def products(device: torch.device) -> AbstractContextManager[object]:
    """What to run a network in, for its products with weights to be the faster ones.

    Inside it, linear layers and `@` of this thread that multiply float32 tensors on the CPU by a
    matrix are left to oneDNN, if that is worth it; their backward passes, too. It has no state:
    it can be entered again and again, and on several threads.

    Args:
        device: Where the network is.
    """
    faster = device.type == "cpu" and onednn_is_faster()
    return OneDnnProducts() if faster else nullcontext()


@cache
def onednn_is_faster() -> bool:
    """Whether oneDNN multiplies faster here than what torch calls by itself, and as exactly.

    Measured on the thread that asks first, with as many threads as that computes with.
    """
    rows, inputs, outputs = _TIMED
    generator = torch.Generator().manual_seed(0)
    given = torch.randn(rows, inputs, generator=generator)
    weight = torch.randn(outputs, inputs, generator=generator)
    with torch.no_grad():
        try:
            found = _multiplied(given, weight, None)
        except (AttributeError, RuntimeError) as error:
            _log.info("this torch has no oneDNN to multiply by weights: %s", error)
            return False
        expected = F.linear(given, weight)
        if not torch.allclose(found, expected, rtol=_CLOSE, atol=_CLOSE * inputs):
            _log.warning("oneDNN multiplies with less than float32's precision: not used")
            return False
        # The least of turns that take each other's place: what else runs only adds to it.
        pairs = [
            (_seconds(_multiplied, given, weight, None), _seconds(F.linear, given, weight))
            for _ in range(_TURNS)
        ]
    gain = min(torchs for _, torchs in pairs) / min(ours for ours, _ in pairs)
    _log.info("oneDNN multiplies by weights %.1f times as fast as torch's usual library", gain)
    return gain > _WORTH


def _seconds(multiply: Callable[..., Tensor], *arguments: object) -> float:
    started = time.perf_counter()
    multiply(*arguments)
    return time.perf_counter() - started


class OneDnnProducts(TorchFunctionMode):
    """Has products of float32 tensors on the CPU with matrices computed by oneDNN.

    Modes that read or change a network's functions are entered inside this one.
    """

    def __torch_function__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        """See `TorchFunctionMode`."""
        if function is F.linear:
            found = _linear(*args, **(kwargs or {}))
        elif function in _PRODUCTS and not kwargs:
            found = _product(*args)
        else:
            found = None
        return function(*args, **(kwargs or {})) if found is None else found


_PRODUCTS = frozenset({Tensor.__matmul__, Tensor.matmul, torch.matmul})


def _linear(input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor | None:
    if not _is_worth_it(input, weight):
        return None
    if bias is not None and not _is_plain_bias(bias, weight.shape[0]):
        return None
    return _with_gradients(input, weight, bias)


def _product(left: Any, right: Any) -> Tensor | None:
    if not isinstance(left, Tensor) or not isinstance(right, Tensor):
        return None
    if right.ndim != 2 or not _is_dense_float32(right) or not _is_worth_it(left, right.mT):
        return None
    return _with_gradients(left, right.mT, None)


def _is_worth_it(input: Tensor, weight: Tensor) -> bool:
    """Whether it is a product [..., in] by [out, in] for oneDNN; odd shapes are told by torch."""
    return (
        _is_dense_float32(input)
        and _is_dense_float32(weight)
        and weight.ndim == 2
        and input.ndim >= 2
        and input.shape[-1] == weight.shape[-1]
        and input.numel() * weight.shape[0] > _LIGHT
        and input.numel() > _FEW * input.shape[-1]
        # Others are multiplied by a kernel for any strides, a thousand times slower.
        and (weight.is_contiguous() or weight.mT.is_contiguous())
        and not weight.requires_grad
    )


def _is_plain_bias(bias: Tensor, outputs: int) -> bool:
    # Of others oneDNN would read what lies next to the first number.
    return (
        _is_dense_float32(bias)
        and bias.shape == (outputs,)
        and bias.is_contiguous()
        and not bias.requires_grad
    )


def _is_dense_float32(tensor: Tensor) -> bool:
    return (
        tensor.dtype is torch.float32
        and tensor.device.type == "cpu"
        and tensor.layout is torch.strided
    )


def _with_gradients(input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    if not (input.requires_grad and torch.is_grad_enabled()):
        return _multiplied(input, weight, bias)
    output: Tensor = _Product.apply(input, weight, bias)
    return output


def _multiplied(input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """[..., out] from [..., in], [out, in] and [out]; knows no gradients."""
    # An operator of torch's compiler, which has had this signature since torch 2.0.
    output: Tensor = torch.ops.mkldnn._linear_pointwise.default(input, weight, bias, "none", [], "")
    return output


class _Product(Function):
    """The same with gradients for the input; weights are frozen."""

    @staticmethod
    def forward(ctx: Any, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(weight)
        return _multiplied(input, weight, bias)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        (weight,) = ctx.saved_tensors
        slope, transposed = gradients[0], weight.mT
        if _is_worth_it(slope, transposed):
            return _with_gradients(slope, transposed, None), None, None
        return slope @ weight, None, None
