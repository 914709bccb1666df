"""One instrumented forward pass for everything that a batch asks for."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor

from pairlens_server.models.loaded import Family, LoadedModel
from pairlens_server.recording.activations import Activation, Wanted
from pairlens_server.recording.facts import ModelFacts
from pairlens_server.recording.resnet import ResNetRecorder
from pairlens_server.recording.vit import ViTRecorder


class Recorder(Protocol):
    """Knows one family of models and how to take activations from a forward pass.

    A recorder hooks into its model while `record` runs, so only one thread may use it.
    """

    facts: ModelFacts

    def record(self, pixels: Tensor, wanted: Wanted) -> dict[Activation, Tensor]:
        """Run the model once over a batch and keep what is wanted.

        Args:
            pixels: float32 [B, 3, H, W], normalised, on any device.
            wanted: Primitive activations, each with the pictures that want it.

        Returns:
            float32 tensors on the model's device, [len(wanted[a]), ...] for activation a.
        """
        ...


def recorder_for(model: LoadedModel) -> Recorder:
    """The recorder of a model's family."""
    if model.family is Family.VIT:
        return ViTRecorder(model)
    return ResNetRecorder(model)
