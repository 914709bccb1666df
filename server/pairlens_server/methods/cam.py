"""Class activation maps: features weighed by what a class's logit owes them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from pairlens_server.methods.base import Parameter
from pairlens_server.recording.activations import (
    Activation,
    FeatureGradient,
    FeatureMap,
    Logits,
)
from pairlens_server.recording.facts import ModelFacts


def grad_cam(features: Tensor, gradients: Tensor) -> Tensor:
    """ReLU(Σ_k w_k A_k), w_k the mean gradient of channel k (Selvaraju et al. 2017).

    Args:
        features: [B, channels, rows, columns].
        gradients: [B, channels, rows, columns], of the logit by the features.

    Returns:
        [B, rows, columns], at least 0.
    """
    weights = gradients.mean(dim=(2, 3), keepdim=True)
    return (weights * features).sum(dim=1).relu()


@dataclass(frozen=True)
class GradCam:
    """GradCAM of a class at the model's default layer."""

    name: ClassVar[str] = "grad_cam"
    revision: ClassVar[int] = 1
    summary: ClassVar[str] = "regions whose features speak for a class"
    takes_target: ClassVar[bool] = True

    @classmethod
    def refusal(cls, facts: ModelFacts) -> str:
        """See `Method.refusal`."""
        return facts.gradient_refusal

    @classmethod
    def parameters(cls, facts: ModelFacts) -> tuple[Parameter, ...]:
        """See `Method.parameters`."""
        return ()

    def resolve(self, facts: ModelFacts) -> GradCam:
        """See `Method.resolve`."""
        return self

    def needs(self, class_index: int | None) -> tuple[Activation, ...]:
        """See `ExplanationMethod.needs`."""
        return (FeatureMap(), FeatureGradient(class_index), Logits())

    def heatmap(
        self, recorded: Mapping[Activation, Tensor], facts: ModelFacts, class_index: int | None
    ) -> Tensor:
        """See `ExplanationMethod.heatmap`; values at least 0."""
        return grad_cam(recorded[FeatureMap()], recorded[FeatureGradient(class_index)])
