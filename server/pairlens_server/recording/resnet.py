"""Recorder of ResNets (timm `ResNet`, and `ResNetV2` with BiT)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from pairlens_server.models.loaded import LoadedModel
from pairlens_server.recording import parts
from pairlens_server.recording.activations import (
    Activation,
    Embedding,
    FeatureGradient,
    FeatureMap,
    Logits,
    PooledParts,
    Wanted,
)
from pairlens_server.recording.facts import ModelFacts
from pairlens_server.recording.gradients import backward, class_indices

_NO_ATTENTION = "a ResNet has no attention"


def _linear_head(network: Any, pooling: str) -> Tensor | None:
    """Rows [classes, channels] of the class head if the logits are linear in the features."""
    head = network.get_classifier()
    if pooling != "avg" or not isinstance(head, (nn.Linear, nn.Conv2d)):
        return None
    return head.weight.detach().flatten(1).float()


class ResNetRecorder:
    """Takes activations from one forward pass of a ResNet.

    The feature map is what `forward_features` gives: the last stage's output of a ResNet
    (`layer4[-1]`, after the residual sum and ReLU), the final norm and activation of a
    ResNetV2. Under average pooling and a linear head the gradient of a logit there is the
    class's row over the number of cells, so no backward pass runs.
    """

    def __init__(self, model: LoadedModel):
        self._network: Any = model.network
        self._projection = model.projection
        self._pooling = model.pooling
        self._device, self._dtype = model.device, model.dtype
        self._head_rows = _linear_head(model.network, model.pooling) if model.classes else None
        refusal = ""
        if model.pooling not in ("avg", "max"):
            refusal = f"{model.pooling or 'no'} pooling has no decomposition; use avg or max"
        self.facts = ModelFacts(
            layout=model.layout,
            blocks=0,
            heads=0,
            classes=model.classes,
            embedding_constant=parts.embedding_constant(
                None, model.projection, model.embedding_size
            ),
            pooled=() if refusal else tuple(range(model.layout.cells)),
            attention_refusal=_NO_ATTENTION,
            parts_refusal=refusal,
            gradient_refusal=""
            if model.classes
            else "the model has no class head, so there is no logit to differentiate",
        )

    def record(self, pixels: Tensor, wanted: Wanted) -> dict[Activation, Tensor]:
        """See `Recorder.record`."""
        gradients = {a: list(p) for a, p in wanted.items() if isinstance(a, FeatureGradient)}
        with torch.no_grad():
            pixels = pixels.to(self._device, self._dtype, non_blocking=True)
            features = self._network.forward_features(pixels)
        found: dict[Activation, Tensor] = {}
        if gradients:
            found |= self._gradients(features, gradients)
        with torch.no_grad():
            for activation, rows in wanted.items():
                pictures = list(rows)
                if isinstance(activation, Logits):
                    found[activation] = self._network.forward_head(features[pictures]).float()
                elif isinstance(activation, Embedding):
                    found[activation] = self._embedding(features[pictures])
                elif isinstance(activation, PooledParts):
                    found[activation] = self._parts(features[pictures].float())
                elif isinstance(activation, FeatureMap):
                    found[activation] = features[pictures].float()
        return found

    def _gradients(
        self, features: Tensor, wanted: dict[FeatureGradient, list[int]]
    ) -> dict[Activation, Tensor]:
        if self._head_rows is not None:
            return self._linear_gradients(features, wanted, self._head_rows)
        with torch.enable_grad():
            leaf = features.detach().requires_grad_(True)
            logits = self._network.forward_head(leaf)
            slopes = backward(leaf, logits, wanted)
        return {a: torch.stack(s).float() for a, s in slopes.items()}

    def _linear_gradients(
        self, features: Tensor, wanted: dict[FeatureGradient, list[int]], head_rows: Tensor
    ) -> dict[Activation, Tensor]:
        with torch.no_grad():
            logits = self._network.forward_head(features)
            shape = features.shape[1:]
            found: dict[Activation, Tensor] = {}
            for gradient, pictures in wanted.items():
                chosen = class_indices([gradient.class_index] * len(pictures), logits[pictures])
                rows = head_rows[chosen] / (shape[1] * shape[2])
                found[gradient] = rows[:, :, None, None].expand(-1, *shape)
        return found

    def _embedding(self, features: Tensor) -> Tensor:
        if not self.facts.parts_refusal:
            # The sum of the parts, in float32, so that they add up in half precision too.
            constant = self.facts.embedding_constant.to(features.device)
            return self._parts(features.float()).sum(dim=1) + constant
        pooled = self._network.forward_head(features, pre_logits=True).flatten(1)
        embedding: Tensor = pooled if self._projection is None else self._projection(pooled)
        return embedding.float()

    def _parts(self, features: Tensor) -> Tensor:
        cells = features.flatten(2).mT
        split = parts.mean_parts(cells) if self._pooling == "avg" else parts.max_parts(cells)
        return parts.project(split, self._projection)
