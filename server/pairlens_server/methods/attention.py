"""Raw attention: what the readout attends to in one block."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

from torch import Tensor

from pairlens_server.methods.base import Parameter, check_range
from pairlens_server.recording.activations import Activation, ReadoutAttention
from pairlens_server.recording.facts import ModelFacts


@dataclass(frozen=True)
class RawAttention:
    """Attention of the readout to each patch, of one head or the mean over heads.

    The class token's row of the post-softmax attention without the prefix columns
    (Reppas 2022, Raw_l; `l` is 1-based there, `block` 0-based here).

    Attributes:
        block: 0-based block; None for the last.
        head: 0-based head; None for the mean over heads.
    """

    name: ClassVar[str] = "raw_attention"
    revision: ClassVar[int] = 1
    summary: ClassVar[str] = "attention of the readout (class token) to each patch in one block"
    takes_target: ClassVar[bool] = False

    block: int | None = None
    head: int | None = None

    @classmethod
    def refusal(cls, facts: ModelFacts) -> str:
        """See `Method.refusal`."""
        return facts.attention_refusal

    @classmethod
    def parameters(cls, facts: ModelFacts) -> tuple[Parameter, ...]:
        """See `Method.parameters`."""
        last = facts.blocks - 1
        return (
            Parameter("block", "int", str(last), "0-based block; unset: the last", 0, last),
            Parameter("head", "int", "", "0-based head; unset: the mean", 0, facts.heads - 1),
        )

    def resolve(self, facts: ModelFacts) -> RawAttention:
        """See `Method.resolve`."""
        block = facts.blocks - 1 if self.block is None else self.block
        check_range(block, facts.blocks - 1, "method.raw_attention.block", "block")
        if self.head is not None:
            check_range(self.head, facts.heads - 1, "method.raw_attention.head", "head")
        return replace(self, block=block)

    def needs(self, class_index: int | None) -> tuple[Activation, ...]:
        """See `ExplanationMethod.needs`."""
        assert self.block is not None
        return (ReadoutAttention(self.block),)

    def heatmap(
        self, recorded: Mapping[Activation, Tensor], facts: ModelFacts, class_index: int | None
    ) -> Tensor:
        """See `ExplanationMethod.heatmap`; values in [0, 1]."""
        (needed,) = self.needs(class_index)
        attention = recorded[needed]  # [B, heads, tokens]
        row = attention.mean(dim=1) if self.head is None else attention[:, self.head]
        return patch_grid(row, facts)


def patch_grid(tokens: Tensor, facts: ModelFacts) -> Tensor:
    """Drop the prefix and lay patches out row by row: [B, tokens] to [B, rows, columns]."""
    layout = facts.layout
    return tokens[:, layout.prefix :].reshape(-1, layout.rows, layout.columns)
