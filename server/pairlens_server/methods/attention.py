"""Attention maps of one block: what the readout attends to, and how long the keys are.

The class token's row of a block's attention without the prefix columns, after the
softmax (Raw), before it (Raw*), as a logarithm (Raw-Log) or a power (Raw-Pow), the
length of each patch's key (Keys-norm), and the product of the last with Raw*
(Reppas 2022, chapter 3; `l` is 1-based there, `block` 0-based here).
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import ClassVar

from torch import Tensor

from pairlens_server.methods.base import ExplanationMethod, Findings, Panel
from pairlens_server.methods.parameters import Parameter, choices
from pairlens_server.recording.activations import Activation
from pairlens_server.recording.facts import ModelFacts
from pairlens_server.recording.primitives import (
    KeyNorms,
    ReadoutAttention,
    ReadoutLogAttention,
    ReadoutScores,
)
from pairlens_server.recording.targets import ScoreTarget

_REPPAS = "Reppas, On visual explanation of supervised and self-supervised learning, 2022"


class Each(str, Enum):
    """Further maps, one for each of these."""

    NONE = "none"
    HEAD = "head"
    BLOCK = "block"
    BLOCK_AND_HEAD = "block_and_head"


@dataclass(frozen=True)
class BlockMap(ExplanationMethod):
    """A map of one block, of one head or over all heads.

    Attributes:
        block: 0-based block; None for the last.
        head: 0-based head; None for all heads together.
        each: Which further maps to give.
    """

    revision: ClassVar[int] = 1
    paper: ClassVar[str] = _REPPAS

    block: int | None = None
    head: int | None = None
    each: Each = Each.NONE

    @classmethod
    def refusal(cls, facts: ModelFacts) -> str:
        """See `Method.refusal`."""
        return facts.refusals.readout

    @classmethod
    def parameters(cls, facts: ModelFacts) -> tuple[Parameter, ...]:
        """See `Method.parameters`."""
        first, last = facts.first_readout_block, facts.blocks - 1
        return (
            Parameter("block", "int", last, "0-based block", first, last, noun="block"),
            Parameter(
                "head",
                "int",
                None,
                "0-based head; unset: all heads together",
                0,
                facts.heads - 1,
                noun="head",
            ),
            Parameter(
                "each",
                "enum",
                Each.NONE,
                "further maps in panels, one for each head, block or both",
                choices=choices(Each),
            ),
        )

    @abstractmethod
    def sources(self, block: int) -> tuple[Activation, ...]:
        """What the map of a block is made of."""

    @abstractmethod
    def row(self, recorded: Mapping[Activation, Tensor], block: int, head: int | None) -> Tensor:
        """[cells]: values of a block, of one head or (None) over all heads.

        Args:
            recorded: `sources`, of the patches alone.
            block: 0-based.
            head: 0-based, or None.
        """

    def needs(self, facts: ModelFacts, target: ScoreTarget | None) -> tuple[Activation, ...]:
        """See `ExplanationMethod.needs`."""
        return tuple(s for block in self._blocks(facts) for s in self.sources(block))

    def panels(self, facts: ModelFacts) -> int:
        """See `ExplanationMethod.panels`."""
        if self.each is Each.NONE:
            return 0
        return len(self._blocks(facts)) * len(self._heads(facts))

    def explain(
        self,
        recorded: Mapping[Activation, Tensor],
        facts: ModelFacts,
        target: ScoreTarget | None,
    ) -> Findings:
        """See `ExplanationMethod.explain`."""
        assert self.block is not None
        patches = {a: values[..., facts.layout.prefix :] for a, values in recorded.items()}
        grid = (facts.layout.rows, facts.layout.columns)
        panels: list[Panel] = []
        if self.each is not Each.NONE:
            for block in self._blocks(facts):
                for head in self._heads(facts):
                    heatmap = self.row(patches, block, head).reshape(grid)
                    panels.append(Panel(heatmap, block=block, head=head))
        heatmap = self.row(patches, self.block, self.head).reshape(grid)
        return Findings(heatmap, tuple(panels))

    def _heads(self, facts: ModelFacts) -> tuple[int | None, ...]:
        by_head = self.each in (Each.HEAD, Each.BLOCK_AND_HEAD)
        return tuple(range(facts.heads)) if by_head else (self.head,)

    def _blocks(self, facts: ModelFacts) -> tuple[int, ...]:
        assert self.block is not None
        if self.each in (Each.BLOCK, Each.BLOCK_AND_HEAD):
            return tuple(range(facts.first_readout_block, facts.blocks))
        return (self.block,)


def over_heads(values: Tensor, head: int | None) -> Tensor:
    """One head's row, or the mean over heads: [heads, cells] to [cells]."""
    return values.mean(dim=0) if head is None else values[head]


@dataclass(frozen=True)
class RawAttention(BlockMap):
    """Raw: attention after the softmax, in [0, 1]."""

    name: ClassVar[str] = "raw_attention"
    summary: ClassVar[str] = "attention of the readout to each patch in one block"

    def sources(self, block: int) -> tuple[Activation, ...]:
        """See `BlockMap.sources`."""
        return (ReadoutAttention(block),)

    def row(self, recorded: Mapping[Activation, Tensor], block: int, head: int | None) -> Tensor:
        """See `BlockMap.row`."""
        return over_heads(recorded[ReadoutAttention(block)], head)


@dataclass(frozen=True)
class RawScores(BlockMap):
    """Raw*: q·k / √head_dim before the softmax, signed."""

    name: ClassVar[str] = "raw_scores"
    summary: ClassVar[str] = "attention of the readout before the softmax, which flattens peaks"

    def sources(self, block: int) -> tuple[Activation, ...]:
        """See `BlockMap.sources`."""
        return (ReadoutScores(block),)

    def row(self, recorded: Mapping[Activation, Tensor], block: int, head: int | None) -> Tensor:
        """See `BlockMap.row`."""
        return over_heads(recorded[ReadoutScores(block)], head)


@dataclass(frozen=True)
class RawLog(BlockMap):
    """Raw-Log: mean over heads of log A.

    Min-max scaled it is Raw*: log A is the score less one number for the whole row.
    """

    name: ClassVar[str] = "raw_log"
    summary: ClassVar[str] = "logarithm of the readout's attention; shows weak regions, too"

    def sources(self, block: int) -> tuple[Activation, ...]:
        """See `BlockMap.sources`."""
        return (ReadoutLogAttention(block),)

    def row(self, recorded: Mapping[Activation, Tensor], block: int, head: int | None) -> Tensor:
        """See `BlockMap.row`."""
        return over_heads(recorded[ReadoutLogAttention(block)], head)


@dataclass(frozen=True)
class RawPower(BlockMap):
    """Raw-Pow(p): mean over heads of Aᵖ, the power taken head by head.

    Attributes:
        power: p in (0, 1]; None for 0.5.
    """

    name: ClassVar[str] = "raw_power"
    summary: ClassVar[str] = "a power of the readout's attention, between Raw and Raw-Log"

    power: float | None = None

    @classmethod
    def parameters(cls, facts: ModelFacts) -> tuple[Parameter, ...]:
        """See `Method.parameters`."""
        power = Parameter("power", "float", 0.5, "exponent; 1 is raw attention", above=0, maximum=1)
        return (*super().parameters(facts), power)

    def sources(self, block: int) -> tuple[Activation, ...]:
        """See `BlockMap.sources`."""
        return (ReadoutAttention(block),)

    def row(self, recorded: Mapping[Activation, Tensor], block: int, head: int | None) -> Tensor:
        """See `BlockMap.row`."""
        assert self.power is not None
        return over_heads(recorded[ReadoutAttention(block)] ** self.power, head)


@dataclass(frozen=True)
class KeyNorm(BlockMap):
    """Keys-norm: ‖mean over heads of the key‖, or of one head's key."""

    name: ClassVar[str] = "key_norm"
    summary: ClassVar[str] = "length of each patch's key: how loudly it offers itself"

    def sources(self, block: int) -> tuple[Activation, ...]:
        """See `BlockMap.sources`."""
        return (KeyNorms(block),)

    def row(self, recorded: Mapping[Activation, Tensor], block: int, head: int | None) -> Tensor:
        """See `BlockMap.row`."""
        return recorded[KeyNorms(block)][0 if head is None else 1 + head]


@dataclass(frozen=True)
class ScoresTimesKeyNorm(BlockMap):
    """Raw* times Keys-norm, place by place.

    Attributes:
        premap: Scale both to [0, 1] over the patches first.
    """

    name: ClassVar[str] = "scores_times_key_norm"
    summary: ClassVar[str] = "attention before the softmax times the length of each patch's key"

    premap: bool = False

    @classmethod
    def parameters(cls, facts: ModelFacts) -> tuple[Parameter, ...]:
        """See `Method.parameters`."""
        premap = Parameter("premap", "bool", False, "scale both maps to [0, 1] before the product")
        return (*super().parameters(facts), premap)

    def sources(self, block: int) -> tuple[Activation, ...]:
        """See `BlockMap.sources`."""
        return (ReadoutScores(block), KeyNorms(block))

    def row(self, recorded: Mapping[Activation, Tensor], block: int, head: int | None) -> Tensor:
        """See `BlockMap.row`."""
        scores = over_heads(recorded[ReadoutScores(block)], head)
        norms = recorded[KeyNorms(block)][0 if head is None else 1 + head]
        return min_max(scores) * min_max(norms) if self.premap else scores * norms


def min_max(values: Tensor) -> Tensor:
    """(x - min) / (max - min) over all values; zeros where they are all equal."""
    span = values.max() - values.min()
    return (values - values.min()) / span if bool(span > 0) else values.new_zeros(values.shape)
