"""Recorder of plain vision transformers (timm `VisionTransformer`, distilled DeiT)."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import torch
from timm.models.vision_transformer import Attention
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from pairlens_server.models.loaded import LoadedModel
from pairlens_server.recording import parts
from pairlens_server.recording.activations import (
    Activation,
    Embedding,
    FeatureGradient,
    FeatureMap,
    Logits,
    MeanAttention,
    PooledParts,
    ReadoutAttention,
    Wanted,
)
from pairlens_server.recording.attention import QueriesKeys
from pairlens_server.recording.facts import ModelFacts
from pairlens_server.recording.gradients import backward

_CLASS_TOKEN_HINT = (
    "the embedding is the class token, which is no sum over patches; "
    "load the model with mean pooling (pooling: avg)"
)


def _attention_refusal(network: Any) -> str:
    if network.global_pool not in ("token", "avg"):
        return f"under {network.global_pool or 'no'} pooling no token's attention is the readout's"
    for block in network.blocks:
        attention = getattr(block, "attn", None)
        if not isinstance(attention, Attention):
            return f"blocks of type {type(block).__name__} have no plain self-attention to read"
    return ""


def _parts_refusal(network: Any) -> str:
    if network.global_pool == "token":
        return _CLASS_TOKEN_HINT
    if network.global_pool != "avg":
        return f"{network.global_pool or 'no'} pooling over tokens has no decomposition here"
    norm = network.fc_norm
    if not isinstance(norm, (nn.Identity, nn.LayerNorm)):
        return f"the {type(norm).__name__} after pooling has no exact split over tokens"
    return ""


def _gradient_refusal(network: Any, classes: int) -> str:
    if not classes:
        return "the model has no class head, so there is no logit to differentiate"
    if not hasattr(network.blocks[-1], "norm1"):
        return f"blocks of type {type(network.blocks[-1]).__name__} have no norm1"
    return ""


class ViTRecorder:
    """Takes activations from one forward pass of a plain ViT; fused attention stays on.

    Attention is recomputed beside the pass from each block's `qkv` output. The CAM layer
    is `norm1` of the last block: its output is cut from the graph there, so that a
    gradient runs through the last block and the head alone (parameters need none).
    """

    def __init__(self, model: LoadedModel):
        network: Any = model.network
        self._network: Any = network
        self._projection = model.projection
        self._device, self._dtype = model.device, model.dtype
        refusal = _parts_refusal(network)
        norm = network.fc_norm if isinstance(network.fc_norm, nn.LayerNorm) else None
        self._pooled_norm = norm
        self.facts = ModelFacts(
            layout=model.layout,
            blocks=model.blocks,
            heads=model.heads,
            classes=model.classes,
            embedding_constant=parts.embedding_constant(
                norm, model.projection, model.embedding_size
            ),
            pooled=() if refusal else model.layout.readout,
            attention_refusal=_attention_refusal(network),
            parts_refusal=refusal,
            gradient_refusal=_gradient_refusal(network, model.classes),
        )

    def record(self, pixels: Tensor, wanted: Wanted) -> dict[Activation, Tensor]:
        """See `Recorder.record`."""
        gradients = {a: list(p) for a, p in wanted.items() if isinstance(a, FeatureGradient)}
        found: dict[Activation, Tensor] = {}
        leaves: list[Tensor] = []
        with ExitStack() as stack, torch.set_grad_enabled(bool(gradients)):
            for handle in self._hooks(wanted, found, leaves):
                stack.callback(handle.remove)
            pixels = pixels.to(self._device, self._dtype, non_blocking=True)
            tokens = self._network.forward_features(pixels)
            logits = self._network.forward_head(tokens) if self.facts.classes else None
            if gradients:
                assert logits is not None
                slopes = backward(leaves[0], logits, gradients)
                found.update({a: self._grid(torch.stack(s)) for a, s in slopes.items()})
        with torch.no_grad():
            self._read_out(wanted, found, tokens.detach(), logits, leaves)
        return found

    def _hooks(
        self,
        wanted: Wanted,
        found: dict[Activation, Tensor],
        leaves: list[Tensor],
    ) -> list[RemovableHandle]:
        handles = []
        by_block: dict[int, list[Activation]] = {}
        for activation in wanted:
            if isinstance(activation, (ReadoutAttention, MeanAttention)):
                by_block.setdefault(activation.block, []).append(activation)
        for block, activations in by_block.items():
            attention = self._network.blocks[block].attn
            tap = self._attention_tap(attention, activations, wanted, found)
            handles.append(attention.qkv.register_forward_hook(tap))
        if any(isinstance(a, (FeatureMap, FeatureGradient)) for a in wanted):

            def cut(_module: nn.Module, _inputs: object, output: Tensor) -> Tensor:
                leaves.append(output.detach().requires_grad_(torch.is_grad_enabled()))
                return leaves[0]

            handles.append(self._network.blocks[-1].norm1.register_forward_hook(cut))
        return handles

    def _attention_tap(
        self,
        attention: Any,
        activations: list[Activation],
        wanted: Wanted,
        found: dict[Activation, Tensor],
    ) -> Callable[[nn.Module, object, Tensor], None]:
        readout = self.facts.layout.readout

        def tap(_module: nn.Module, _inputs: object, qkv: Tensor) -> None:
            with torch.no_grad():
                queries_keys = QueriesKeys(attention, qkv)
                for activation in activations:
                    pictures = list(wanted[activation])
                    if isinstance(activation, MeanAttention):
                        found[activation] = queries_keys.head_mean(pictures)
                    else:
                        found[activation] = queries_keys.rows(readout, pictures)

        return tap

    def _read_out(
        self,
        wanted: Wanted,
        found: dict[Activation, Tensor],
        tokens: Tensor,
        logits: Tensor | None,
        leaves: list[Tensor],
    ) -> None:
        for activation, rows in wanted.items():
            pictures = list(rows)
            if isinstance(activation, Logits):
                assert logits is not None
                found[activation] = logits.detach()[pictures].float()
            elif isinstance(activation, Embedding):
                found[activation] = self._embedding(tokens[pictures])
            elif isinstance(activation, PooledParts):
                found[activation] = self._parts(tokens[pictures].float())
            elif isinstance(activation, FeatureMap):
                found[activation] = self._grid(leaves[0].detach()[pictures])

    def _embedding(self, tokens: Tensor) -> Tensor:
        if not self.facts.parts_refusal:
            # The sum of the parts, in float32, so that they add up in half precision too.
            constant = self.facts.embedding_constant.to(tokens.device)
            return self._parts(tokens.float()).sum(dim=1) + constant
        pooled = self._network.forward_head(tokens, pre_logits=True)
        embedding: Tensor = pooled if self._projection is None else self._projection(pooled)
        return embedding.float()

    def _parts(self, tokens: Tensor) -> Tensor:
        pooled = list(self.facts.pooled)
        split = parts.mean_parts(tokens[:, pooled])
        if self._pooled_norm is not None:
            split = parts.normed_parts(split, self._pooled_norm)
        split = parts.project(split, self._projection)
        everywhere = split.new_zeros(len(split), tokens.shape[1], split.shape[2])
        everywhere[:, pooled] = split
        return everywhere

    def _grid(self, tokens: Tensor) -> Tensor:
        layout = self.facts.layout
        patches = tokens[:, layout.prefix :].float()
        return patches.mT.reshape(len(tokens), -1, layout.rows, layout.columns)
