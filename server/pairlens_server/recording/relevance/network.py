"""Which networks TIBAV's rules cover, and a forward pass that keeps what the rules need.

No hook is set and no parameter changes: layers are called one by one, with weights cast to the
dtype asked for where it differs from the network's.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from timm.layers import LayerScale, Mlp
from timm.layers.activations import GELU, GELUTanh, QuickGELU
from timm.models.deit import VisionTransformerDistilled
from timm.models.vision_transformer import Attention, Block, VisionTransformer
from torch import Tensor, nn
from torch.nn import functional as F

Rows = slice | list[int]
"""Some of the tokens, as in `tokens[:, rows]`."""

# None gives exact zeros, which `through_linear` relies on: its denominators cannot all but vanish.
_ACTIVATIONS = (nn.GELU, nn.SiLU, GELU, GELUTanh, QuickGELU)


def refusal(network: nn.Module) -> str:
    """Why TIBAV's rules do not cover this network, or "".

    Covered: timm's `VisionTransformer` and distilled DeiT with plain blocks (with or without
    q/k norm and layer scale), reading a class token, both tokens of a DeiT, or a mean.
    """
    if type(network) not in (VisionTransformer, VisionTransformerDistilled):
        return f"relevance rules are known for plain vision transformers, not {_name(network)}"
    plain: Any = network
    if plain.global_pool not in ("token", "avg"):
        return f"{plain.global_pool or 'no'} pooling has no relevance rule"
    return next(filter(None, map(_block_refusal, plain.blocks)), "")


def _block_refusal(block: Any) -> str:
    if type(block) is not Block:
        return f"blocks of type {_name(block)} have no relevance rules"
    attention, mlp = block.attn, block.mlp
    if type(attention) is not Attention:
        return f"attention of type {_name(attention)} has no relevance rules"
    if attention.gate is not None or not isinstance(attention.norm, nn.Identity):
        return "attention with a gate or a norm before its projection has no relevance rules"
    if type(mlp) is not Mlp or not isinstance(mlp.fc1, nn.Linear):
        return f"feed-forward layers of type {_name(mlp)} have no relevance rules"
    if not isinstance(mlp.norm, nn.Identity):
        return "feed-forward layers with a norm inside have no relevance rules"
    if not isinstance(mlp.act, _ACTIVATIONS):
        return f"the activation {_name(mlp.act)} has no relevance rule"
    return ""


def _name(module: nn.Module) -> str:
    return type(module).__name__


def in_dtype(module: nn.Module, dtype: torch.dtype) -> Any:
    """Return the module, or a copy if its parameters have another dtype. For small modules."""
    if all(parameter.dtype == dtype for parameter in module.parameters()):
        return module
    return copy.deepcopy(module).to(dtype)


class Dense(NamedTuple):
    """A linear layer's parameters in the dtype of the pass: [out, in], and [out] or None."""

    weight: Tensor
    bias: Tensor | None

    @classmethod
    def of(cls, layer: Any, dtype: torch.dtype, outputs: slice = slice(None)) -> Dense:
        """Parameters of an `nn.Linear`, or of some of its outputs."""
        bias = None if layer.bias is None else layer.bias[outputs].to(dtype)
        return cls(layer.weight[outputs].to(dtype), bias)

    def __call__(self, inputs: Tensor) -> Tensor:
        """Apply the layer: [..., out] from [..., in]."""
        return F.linear(inputs, self.weight, self.bias)


@dataclass(frozen=True, eq=False)
class BlockTrace:
    """What a forward pass through a block leaves behind. B pictures, T tokens, C features.

    R are the rows of the tokens that anything above the block reads: T, but for the last block.

    Attributes:
        entered: [B, T, C], input of the block.
        normed: [B, T, C], input of the attention.
        raw_queries: [B, R, heads·d], output of the query layer.
        raw_keys_values: [B, T, 2·heads·d], output of the key and value layers.
        queries, keys, values: [B, heads, R or T, d], after q/k norm.
        scores: [B, heads, R, T], scale · queries @ keysᵀ.
        attention: [B, heads, R, T], softmax of the scores.
        mixed: [B, heads, R, d], attention @ values.
        merged: [B, R, heads·d], the same, heads side by side.
        projected: [B, R, C], output of the projection.
        attended: [B, R, C], the same after layer scale: what is added to the stream.
        middle: [B, R, C], the stream between attention and feed-forward layers.
        middle_normed: [B, R, C].
        hidden: [B, R, hidden], before the activation.
        active: [B, R, hidden], after it.
        reduced: [B, R, C], output of the second feed-forward layer.
        added: [B, R, C], the same after layer scale.
        left: [B, R, C], output of the block.
    """

    entered: Tensor
    normed: Tensor
    raw_queries: Tensor
    raw_keys_values: Tensor
    queries: Tensor
    keys: Tensor
    values: Tensor
    scores: Tensor
    attention: Tensor
    mixed: Tensor
    merged: Tensor
    projected: Tensor
    attended: Tensor
    middle: Tensor
    middle_normed: Tensor
    hidden: Tensor
    active: Tensor
    reduced: Tensor
    added: Tensor
    left: Tensor


def _scaled(scale: Any, tensor: Tensor) -> Tensor:
    return tensor * scale.gamma.to(tensor.dtype) if isinstance(scale, LayerScale) else tensor


def trace_block(block: Any, entered: Tensor, rows: Rows, *, cut: bool = False) -> BlockTrace:
    """Run one timm `Block`, with its attention in the open.

    Args:
        block: One that `refusal` does not name.
        entered: [B, T, C], in the dtype to compute in.
        rows: Tokens whose output is wanted.
        cut: Whether the attention starts the graph: it becomes a leaf, and nothing before
            it is differentiated.
    """
    dtype, attn = entered.dtype, block.attn
    batch, _, width = entered.shape[0], entered.shape[1], attn.attn_dim
    with torch.set_grad_enabled(torch.is_grad_enabled() and not cut):
        normed = in_dtype(block.norm1, dtype)(entered)
        raw_queries = Dense.of(attn.qkv, dtype, slice(width))(normed[:, rows])
        raw_keys_values = Dense.of(attn.qkv, dtype, slice(width, None))(normed)
        split = (batch, -1, attn.num_heads, attn.head_dim)
        queries = raw_queries.view(split).transpose(1, 2)
        keys, values = (part.view(split).transpose(1, 2) for part in raw_keys_values.chunk(2, -1))
        queries = in_dtype(attn.q_norm, dtype)(queries)
        keys = in_dtype(attn.k_norm, dtype)(keys)
        scores = (queries * attn.scale) @ keys.mT
        attention = scores.softmax(dim=-1)
    if cut:
        attention = attention.detach().requires_grad_()
    mixed = attention @ values
    merged = mixed.transpose(1, 2).reshape(batch, -1, width)
    projected = Dense.of(attn.proj, dtype)(merged)
    attended = _scaled(block.ls1, projected)
    middle = entered[:, rows] + attended
    middle_normed = in_dtype(block.norm2, dtype)(middle)
    hidden = Dense.of(block.mlp.fc1, dtype)(middle_normed)
    active = block.mlp.act(hidden)
    reduced = Dense.of(block.mlp.fc2, dtype)(active)
    added = _scaled(block.ls2, reduced)
    return BlockTrace(
        entered=entered,
        normed=normed,
        raw_queries=raw_queries,
        raw_keys_values=raw_keys_values,
        queries=queries,
        keys=keys,
        values=values,
        scores=scores,
        attention=attention,
        mixed=mixed,
        merged=merged,
        projected=projected,
        attended=attended,
        middle=middle,
        middle_normed=middle_normed,
        hidden=hidden,
        active=active,
        reduced=reduced,
        added=added,
        left=middle + added,
    )


def embed(network: Any, pixels: Tensor) -> Tensor:
    """Run the layers before the first block: [B, T, C] from [B, 3, H, W], in the pixels' dtype."""
    tokens = network._pos_embed(in_dtype(network.patch_embed, pixels.dtype)(pixels))
    tokens = network.patch_drop(tokens.to(pixels.dtype))
    tokens = in_dtype(network.norm_pre, pixels.dtype)(tokens)
    assert isinstance(tokens, Tensor)
    return tokens
