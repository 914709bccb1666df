"""Attention rollout, as a map of one picture and as the mixing of tokens by a whole model.

Abnar and Zuidema 2020. Each block's head-mean attention plus the identity, rows
normalised, S_l, is how the block mixes its input tokens (columns) into its output
tokens (rows). STRICT multiplies S_L ··· S_1, so that rows of the product are output
tokens of the model. The thesis of Reppas prints (eqs 2.33, 2.34) and runs S_1 ··· S_L.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from pairlens_server.errors import InvalidParameterError
from pairlens_server.methods.attention import patch_grid
from pairlens_server.methods.base import PROFILE_CHOICES, Parameter, Profile, check_range
from pairlens_server.recording.activations import Activation, Derived, MeanAttention
from pairlens_server.recording.facts import ModelFacts


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


@dataclass(frozen=True)
class RolloutRow(Derived):
    """[tokens]: the readout's row of the rollout over a range of blocks, both inclusive."""

    start_block: int
    end_block: int
    first_block_left: bool

    def inputs(self, facts: ModelFacts) -> tuple[Activation, ...]:
        """See `Derived.inputs`."""
        return tuple(MeanAttention(b) for b in range(self.start_block, self.end_block + 1))

    def derive(self, recorded: Mapping[Activation, Tensor], facts: ModelFacts) -> Tensor:
        """See `Derived.derive`."""
        attentions = [recorded[a] for a in self.inputs(facts)]
        return rollout_row(attentions, facts.layout.readout, first_block_left=self.first_block_left)


@dataclass(frozen=True)
class Rollout:
    """Attention rollout of the readout over a range of blocks.

    Attributes:
        start_block: First block, 0-based, inclusive; None for 0.
        end_block: Last block, inclusive; None for the last. Rollout over one block is,
            up to scale, that block's raw attention (Reppas 2022, Rollout_a-a).
        profile: STRICT: last block on the left (Abnar and Zuidema, eq. 1). REFERENCE
            and PAPER: first block on the left (the thesis' code and its printed form).
    """

    name: ClassVar[str] = "rollout"
    revision: ClassVar[int] = 1
    summary: ClassVar[str] = "attention followed from the readout through a range of blocks"
    takes_target: ClassVar[bool] = False

    start_block: int | None = None
    end_block: int | None = None
    profile: Profile = Profile.STRICT

    @classmethod
    def refusal(cls, facts: ModelFacts) -> str:
        """See `Method.refusal`."""
        return facts.attention_refusal

    @classmethod
    def parameters(cls, facts: ModelFacts) -> tuple[Parameter, ...]:
        """See `Method.parameters`."""
        last = facts.blocks - 1
        return (
            Parameter("start_block", "int", "0", "first block, 0-based, inclusive", 0, last),
            Parameter("end_block", "int", str(last), "last block, inclusive", 0, last),
            Parameter(
                "profile",
                "enum",
                Profile.STRICT.value,
                "strict: last block on the left; reference and paper: first block on the left",
                choices=PROFILE_CHOICES,
            ),
        )

    def resolve(self, facts: ModelFacts) -> Rollout:
        """See `Method.resolve`."""
        last = facts.blocks - 1
        start = 0 if self.start_block is None else self.start_block
        end = last if self.end_block is None else self.end_block
        check_range(start, last, "method.rollout.start_block", "block")
        check_range(end, last, "method.rollout.end_block", "block")
        if start > end:
            raise InvalidParameterError(
                f"start_block {start} comes after end_block {end}",
                field="method.rollout.start_block",
            )
        return replace(self, start_block=start, end_block=end)

    def needs(self, class_index: int | None) -> tuple[Activation, ...]:
        """See `ExplanationMethod.needs`."""
        assert self.start_block is not None
        assert self.end_block is not None
        first_block_left = self.profile is not Profile.STRICT
        return (RolloutRow(self.start_block, self.end_block, first_block_left),)

    def heatmap(
        self, recorded: Mapping[Activation, Tensor], facts: ModelFacts, class_index: int | None
    ) -> Tensor:
        """See `ExplanationMethod.heatmap`; values in [0, 1]."""
        (needed,) = self.needs(class_index)
        return patch_grid(recorded[needed], facts)
