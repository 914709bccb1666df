"""Activations that one attention layer gives, read off it while the pass goes by."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor, nn

from pairlens_server.models.loaded import TokenLayout
from pairlens_server.recording.attention import AttentionReading, DotProductReading
from pairlens_server.recording.primitives import (
    AttentionMatrix,
    FusedAttention,
    KeyNorms,
    ReadoutAttention,
    ReadoutLogAttention,
    ReadoutScores,
)

OfAttention = (
    ReadoutAttention
    | ReadoutScores
    | ReadoutLogAttention
    | KeyNorms
    | FusedAttention
    | AttentionMatrix
)


def read(
    activation: OfAttention, reading: AttentionReading, pictures: Sequence[int], layout: TokenLayout
) -> Tensor:
    """An activation of some pictures of the pass: float32 [len(pictures), ...]."""
    if isinstance(activation, FusedAttention):
        return pad_matrix(reading.fused(activation.fusion, pictures), layout)
    if isinstance(activation, AttentionMatrix):
        return pad_matrix(reading.matrix(pictures), layout)
    missing = _missing(reading.keys, layout)
    readout = [token - missing for token in layout.readout]
    if isinstance(activation, ReadoutAttention):
        rows = reading.readout_weights(readout, pictures)
    elif isinstance(activation, ReadoutScores):
        rows = reading.readout_scores(readout, pictures)
    elif isinstance(activation, ReadoutLogAttention):
        rows = reading.readout_log_weights(readout, pictures)
    else:
        rows = reading.key_norms(pictures)
    return nn.functional.pad(rows, (missing, 0)) if missing else rows


def attend_in_the_open(
    wanted: Mapping[OfAttention, Sequence[int]], reading: AttentionReading, layout: TokenLayout
) -> tuple[OfAttention, Tensor, Tensor] | None:
    """The layer's output along with its fused matrices, where that beats having both apart.

    Args:
        wanted: What the layer is to give, each with its pictures, in a pass for nothing else.
        reading: The layer, in a pass without a graph.
        layout: Of the model's tokens.

    Returns:
        The activation that came with it, its value, and the output [B, heads, T, head_dim];
        None where the kernel is to run.
    """
    if not isinstance(reading, DotProductReading) or not reading.can_stand_in:
        return None
    for activation, pictures in wanted.items():
        # For fewer pictures, those that want none would pay for it.
        if isinstance(activation, FusedAttention) and len(pictures) == len(reading.values):
            matrix, output = reading.attend(activation.fusion)
            return activation, pad_matrix(matrix, layout), output
    return None


def pad_matrix(matrix: Tensor, layout: TokenLayout) -> Tensor:
    """A matrix [..., T, T] with rows and columns of zeros for tokens that joined later."""
    missing = _missing(matrix, layout)
    return nn.functional.pad(matrix, (missing, 0, missing, 0)) if missing else matrix


def _missing(tensor: Tensor, layout: TokenLayout) -> int:
    """Tokens that have not joined [..., T, any] yet and stand in front once they have."""
    return layout.tokens - tensor.shape[-2]
