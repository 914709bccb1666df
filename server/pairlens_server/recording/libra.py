"""LibraGrad: gradients for which a network is linear in its input and its constants.

Mehri et al., "LibraGrad: Balancing Gradient Flow for Universally Better Vision Transformer
Attributions" (CVPR 2025). What makes a gradient lose balance are products of things that
both depend on the picture: attention weights by values, a norm's scale by its input, a
gate by what it lets through. One factor of each counts as a constant:

- softmax weights, hence queries and keys of fused attention;
- 1/σ of layer, group, instance and RMS norm, and the length in an L2 normalisation or a
  cosine similarity;
- sigmoid gates, and the ratio f(x)/x of GELU, SiLU and their like;
- in gated MLPs (GLU, SwiGLU) the whole activated branch, σ(g)·g, that gates the other;
- the queries of CoaT's factorised attention, and ConvNeXt V2's response norms.

ReLU, pooling and batch norm in eval mode are linear where they stand already. The score is
then Σ input ⊙ gradient + Σ constants ⊙ gradients exactly (the paper's FG-completeness),
the constants being biases, position embeddings and class tokens.

The functions are met where they are called, whatever module calls them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.nn.functional as F
from timm.layers import GluMlp, HardMish, SwiGLU
from timm.layers.evo_norm import EvoNorm2dB0, EvoNorm2dB1, EvoNorm2dB2
from timm.layers.lambda_layer import LambdaLayer
from timm.models.coat import FactorAttnConvRelPosEnc
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from pairlens_server.recording.balanced import (
    batch_norm,
    gated,
    group_norm,
    layer_norm,
    partly_fixed,
    rms_norm,
)
from pairlens_server.recording.modes import HookedMode

# Their results count as constants.
_CONSTANTS = frozenset(
    {
        *(F.softmax, torch.softmax, Tensor.softmax, torch.special.softmax),
        *(torch.sigmoid, torch.sigmoid_, Tensor.sigmoid, Tensor.sigmoid_),
        *(F.sigmoid, F.hardsigmoid, torch.special.expit),
        # Norms that timm writes out: 1/σ, and lengths.
        *(torch.rsqrt, Tensor.rsqrt, torch.sqrt, Tensor.sqrt),
        *(torch.var, Tensor.var, torch.std, Tensor.std),
        *(torch.norm, Tensor.norm, torch.linalg.norm, torch.linalg.vector_norm),
    }
)
# Activations f with f(0) = 0, and the limit of f(x)/x at 0.
_GATES: dict[Callable[..., Tensor], float] = {
    F.gelu: 0.5,
    F.silu: 0.5,
    F.hardswish: 0.5,
    F.mish: 0.6,
    F.elu: 1.0,
    F.relu6: 0.0,
    F.tanh: 1.0,
    torch.tanh: 1.0,
    Tensor.tanh: 1.0,
}
# Products of two parts of the picture with no gate to tell from the gated.
_UNBALANCED = (LambdaLayer, EvoNorm2dB0, EvoNorm2dB1, EvoNorm2dB2, HardMish)


class LibraGradients(HookedMode):
    """Gives a forward pass LibraGrad's gradients and leaves its values as they are.

    Whatever is computed on this thread inside the context, a score of the features
    included, follows the rule; the backward pass may run inside or after it. Weights that
    multiply in a norm get no gradients.

    Args:
        network: What runs. Hooks stand on its few modules where functions do not tell the
            gate from the gated; see `refusal`.
    """

    def __init__(self, network: nn.Module):
        super().__init__()
        self._network = network

    def hooks(self) -> Iterator[RemovableHandle]:
        """See `HookedMode.hooks`."""
        for module in self._network.modules():
            if isinstance(module, (GluMlp, SwiGLU)):
                yield module.act.register_forward_hook(_constant)
            elif isinstance(module, FactorAttnConvRelPosEnc):
                yield module.qkv.register_forward_hook(_constant_queries)

    def __torch_function__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        """See `TorchFunctionMode`."""
        kwargs = kwargs or {}
        if not torch.is_grad_enabled():
            return function(*args, **kwargs)
        if function in _CONSTANTS:
            return function(*args, **kwargs).detach()
        if function in _GATES:
            return gated(function, _GATES[function], *args, **kwargs)
        balanced = _BALANCED.get(function)
        return function(*args, **kwargs) if balanced is None else balanced(*args, **kwargs)


def refusal(network: nn.Module) -> str:
    """Say why the rule cannot hold for a network, "" if it does."""
    for module in network.modules():
        if isinstance(module, _UNBALANCED):
            return f"LibraGrad has no rule for the network's {type(module).__name__} layers"
    return ""


def _constant(_module: nn.Module, _inputs: object, output: Tensor) -> Tensor:
    return output.detach()


def _constant_queries(_module: nn.Module, _inputs: object, output: Tensor) -> Tensor:
    """Of queries, keys and values [..., 3 · width] in one; the keys meet a softmax."""
    return partly_fixed(output, output.shape[-1] // 3)


def _attention(query: Tensor, key: Tensor, value: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    return F.scaled_dot_product_attention(query.detach(), key.detach(), value, *args, **kwargs)


def _normalize(
    input: Tensor, p: float = 2.0, dim: int = 1, eps: float = 1e-12, out: None = None
) -> Tensor:
    length = torch.linalg.vector_norm(input.detach(), p, dim, keepdim=True)
    output: Tensor = input / length.clamp_min(eps)
    return output


def _cosine_similarity(x1: Tensor, x2: Tensor, dim: int = 1, eps: float = 1e-8) -> Tensor:
    # Linear in the first, as long as the second is a fixed embedding.
    return (_normalize(x1, dim=dim, eps=eps) * _normalize(x2, dim=dim, eps=eps)).sum(dim)


def _instance_norm(
    input: Tensor,
    running_mean: Tensor | None = None,
    running_var: Tensor | None = None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    use_input_stats: bool = True,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    if use_input_stats:
        return group_norm(input, input.shape[1], weight, bias, eps)
    return batch_norm(input, running_mean, running_var, weight, bias, False, momentum, eps)


_BALANCED: dict[Any, Callable[..., Tensor]] = {
    F.scaled_dot_product_attention: _attention,
    F.normalize: _normalize,
    F.cosine_similarity: _cosine_similarity,
    F.layer_norm: layer_norm,
    torch.layer_norm: layer_norm,
    F.group_norm: group_norm,
    torch.group_norm: group_norm,
    F.instance_norm: _instance_norm,
    F.batch_norm: batch_norm,
    F.rms_norm: rms_norm,
    torch.rms_norm: rms_norm,
}
