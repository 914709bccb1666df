"""Attention rollout, as a map of one picture and as the mixing of tokens by a whole model.

Abnar and Zuidema 2020. Each block's head-mean attention plus the identity, rows
normalised, S_l, is how the block mixes its input tokens (columns) into its output
tokens (rows). STRICT multiplies S_L ··· S_1, so that rows of the product are output
tokens of the model. The thesis of Reppas prints (eqs 2.33, 2.34) and runs S_1 ··· S_L.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from pairlens_server.errors import InvalidParameterError
from pairlens_server.methods.base import ExplanationMethod, Findings, patch_grid
from pairlens_server.methods.parameters import Parameter, Profile, choices
from pairlens_server.recording.activations import Activation, Derived
from pairlens_server.recording.attention import HeadFusion
from pairlens_server.recording.facts import ModelFacts
from pairlens_server.recording.primitives import FusedAttention
from pairlens_server.recording.targets import ScoreTarget

# A ratio arrives as a float32: 0.9 of 10 × 10 entries are 89.9999976, and mean 90.
_ROUNDING = 1e-7


def mixing(attention: Tensor) -> Tensor:
    """S = (A + I), rows normalised to 1: [..., T, T] to [..., T, T]."""
    identity = torch.eye(attention.shape[-1], dtype=attention.dtype, device=attention.device)
    mixed = attention + identity
    return mixed / mixed.sum(dim=-1, keepdim=True)


def rollout_matrix(attentions: Sequence[Tensor], *, first_block_left: bool = False) -> Tensor:
    """Product of the blocks' mixing matrices: [B, T, T].

    Args:
        attentions: Head-mean attention [B, T, T] of each block, first block first.
        first_block_left: S_1 ··· S_L instead of S_L ··· S_1.
    """
    ordered = attentions if first_block_left else tuple(reversed(attentions))
    product = mixing(ordered[0])
    for attention in ordered[1:]:
        product = product @ mixing(attention)
    return product


def rollout_row(
    attentions: Sequence[Tensor], readout: Sequence[int], *, first_block_left: bool = False
) -> Tensor:
    """Mean of the product's rows of the readout tokens: [B, T].

    A chain of vectors times matrices, 2·L·T² operations instead of 2·L·T³. The mixing
    step of each block is applied to the vector, so no S is ever held:
    r·S = (r / rowsum)·A + r / rowsum.
    """
    ordered = attentions if first_block_left else tuple(reversed(attentions))
    batch, tokens, _ = ordered[0].shape
    row = ordered[0].new_zeros(batch, 1, tokens)
    row[:, :, list(readout)] = 1 / len(readout)
    for attention in ordered:
        scaled = row / (attention.sum(dim=-1) + 1).unsqueeze(1)
        row = scaled @ attention + scaled
    return row[:, 0]


def discard_smallest(attention: Tensor, ratio: float) -> Tensor:
    """Set the smallest entries of each matrix to zero: [B, T, T] to [B, T, T].

    floor(T²·ratio) entries go; the readout's attention to itself, the first entry, stays
    (Gildenblat's vit-explain, for a whole batch rather than its first picture).
    """
    count = math.floor((ratio + _ROUNDING) * attention.shape[-1] ** 2)
    if count == 0:
        return attention
    flat = attention.flatten(1)
    smallest = flat.argsort(dim=1, stable=True)[:, :count]
    kept = flat.scatter(1, smallest, 0.0)
    kept[:, 0] = flat[:, 0]
    return kept.view_as(attention)


@dataclass(frozen=True)
class RolloutRow(Derived):
    """[tokens]: the readout's row of the rollout over a range of blocks, both inclusive."""

    start_block: int
    end_block: int
    first_block_left: bool
    fusion: HeadFusion
    discard_ratio: float

    def inputs(self, facts: ModelFacts) -> tuple[Activation, ...]:
        """See `Derived.inputs`."""
        blocks = range(self.start_block, self.end_block + 1)
        return tuple(FusedAttention(block, self.fusion) for block in blocks)

    def derive(self, recorded: Mapping[Activation, Tensor], facts: ModelFacts) -> Tensor:
        """See `Derived.derive`."""
        attentions = [discard_smallest(recorded[a], self.discard_ratio) for a in self.inputs(facts)]
        return rollout_row(attentions, facts.layout.readout, first_block_left=self.first_block_left)


@dataclass(frozen=True)
class Rollout(ExplanationMethod):
    """Attention rollout of the readout over a range of blocks.

    Attributes:
        start_block: First block, 0-based, inclusive; None for 0.
        end_block: Last block, inclusive; None for the last. Rollout over one block is,
            up to scale, that block's raw attention (Reppas 2022, Rollout_a-a).
        profile: STRICT: last block on the left (Abnar and Zuidema, eq. 1). REFERENCE
            and PAPER: first block on the left (the thesis' code and its printed form).
        fusion: How heads become one matrix.
        discard_ratio: Part of the smallest entries that count as zero, in [0, 1).
    """

    name: ClassVar[str] = "rollout"
    revision: ClassVar[int] = 2
    summary: ClassVar[str] = "attention followed from the readout through a range of blocks"
    paper: ClassVar[str] = "Abnar and Zuidema, ACL 2020"

    start_block: int | None = None
    end_block: int | None = None
    profile: Profile = Profile.STRICT
    fusion: HeadFusion = HeadFusion.MEAN
    discard_ratio: float | None = None

    @classmethod
    def refusal(cls, facts: ModelFacts) -> str:
        """See `Method.refusal`."""
        return facts.refusals.readout or facts.refusals.matrix

    @classmethod
    def forward_passes(cls, facts: ModelFacts) -> float:
        """See `Method.forward_passes`."""
        return 1.1

    @classmethod
    def parameters(cls, facts: ModelFacts) -> tuple[Parameter, ...]:
        """See `Method.parameters`."""
        last = facts.blocks - 1
        return (
            Parameter("start_block", "int", 0, "first block, inclusive", 0, last, noun="block"),
            Parameter("end_block", "int", last, "last block, inclusive", 0, last, noun="block"),
            Parameter(
                "profile",
                "enum",
                Profile.STRICT,
                "strict: last block on the left; reference and paper: first block on the left",
                choices=choices(Profile),
            ),
            Parameter(
                "fusion",
                "enum",
                HeadFusion.MEAN,
                "how heads become one matrix",
                choices=choices(HeadFusion),
            ),
            Parameter(
                "discard_ratio",
                "float",
                0.0,
                "part of the attention, the smallest, that counts as zero",
                minimum=0,
                below=1,
            ),
        )

    def resolve(self, facts: ModelFacts) -> Rollout:
        """See `Method.resolve`."""
        resolved = super().resolve(facts)
        check_order(resolved.start_block, resolved.end_block, self.name)
        return resolved

    def needs(self, facts: ModelFacts, target: ScoreTarget | None) -> tuple[Activation, ...]:
        """See `ExplanationMethod.needs`."""
        return (self._row,)

    @property
    def _row(self) -> RolloutRow:
        assert self.start_block is not None
        assert self.end_block is not None
        assert self.discard_ratio is not None
        first_block_left = self.profile is not Profile.STRICT
        return RolloutRow(
            self.start_block, self.end_block, first_block_left, self.fusion, self.discard_ratio
        )

    def explain(
        self,
        recorded: Mapping[Activation, Tensor],
        facts: ModelFacts,
        target: ScoreTarget | None,
    ) -> Findings:
        """See `ExplanationMethod.explain`; values in [0, 1]."""
        return Findings(patch_grid(recorded[self._row], facts))


def check_order(start: int | None, end: int | None, method: str) -> None:
    """Refuse a range of blocks that ends before it starts.

    Raises:
        InvalidParameterError: It does.
    """
    if start is not None and end is not None and start > end:
        raise InvalidParameterError(
            f"start_block {start} comes after end_block {end}",
            field=f"method.{method}.start_block",
        )
