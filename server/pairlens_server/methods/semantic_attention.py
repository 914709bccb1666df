"""Semantic attention: how attention relates patches with and without SIFT keypoints."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from pairlens_server.methods.base import ExplanationMethod, Findings, HeadInterrelation
from pairlens_server.methods.interrelation import (
    LineRule,
    PatchWeighting,
    focus_index,
    interrelations,
    keypoint_shares,
    patch_scores,
)
from pairlens_server.methods.parameters import Parameter, choices
from pairlens_server.recording.activations import Activation, Derived
from pairlens_server.recording.facts import ModelFacts
from pairlens_server.recording.primitives import AttentionMatrix, KeypointCounts
from pairlens_server.recording.targets import ScoreTarget

# Recorded numbers must be finite; shares that are defined lie in [0, 1].
_UNDEFINED = -1.0


@dataclass(frozen=True)
class KeypointShares(Derived):
    """[heads, cells]: share of keypoint patches among those that each patch attends to.

    φ of `interrelation.keypoint_shares`; -1 where a patch attends to nothing.
    """

    block: int
    line_rule: LineRule
    line: float
    weighting: PatchWeighting
    attention_weighted: bool
    dedupe: bool

    def inputs(self, facts: ModelFacts) -> tuple[Activation, ...]:
        """See `Derived.inputs`."""
        return (AttentionMatrix(self.block), KeypointCounts(self.dedupe))

    def derive(self, recorded: Mapping[Activation, Tensor], facts: ModelFacts) -> Tensor:
        """See `Derived.derive`."""
        shares = keypoint_shares(
            _between_patches(recorded[AttentionMatrix(self.block)], facts),
            recorded[KeypointCounts(self.dedupe)],
            rule=self.line_rule,
            line=self.line,
            weighting=self.weighting,
            attention_weighted=self.attention_weighted,
        )
        return shares.nan_to_num(nan=_UNDEFINED)


@dataclass(frozen=True)
class FocusIndex(Derived):
    """[heads]: how broadly each head attends; see `interrelation.focus_index`."""

    block: int
    renormalised: bool

    def inputs(self, facts: ModelFacts) -> tuple[Activation, ...]:
        """See `Derived.inputs`."""
        return (AttentionMatrix(self.block),)

    def derive(self, recorded: Mapping[Activation, Tensor], facts: ModelFacts) -> Tensor:
        """See `Derived.derive`."""
        attention = _between_patches(recorded[AttentionMatrix(self.block)], facts)
        return focus_index(attention, renormalised=self.renormalised)


@dataclass(frozen=True)
class SemanticAttention(ExplanationMethod):
    """Scores patches by how much of what they attend to holds keypoints.

    The map is S_i, the mean over a block's heads of φ_i (`interrelation.patch_scores`); 0
    also where a patch attends to nothing in every head.

    Attributes:
        block: 0-based block of the map; None for the last.
        line_rule: Statistic of the detection line.
        line: Its factor λ in [0, 10]; None for 1.
        weighting: What an attended patch counts for.
        attention_weighted: Weigh attended patches by attention, too.
        dedupe: Count a keypoint of several orientations once.
        renormalised: Scale rows to sum 1 before the entropy of the focus index.
    """

    name: ClassVar[str] = "semantic_attention"
    revision: ClassVar[int] = 1
    summary: ClassVar[str] = "how far each patch attends to patches with SIFT keypoints"
    paper: ClassVar[str] = (
        "Demystify Self-Attention in Vision Transformers from a Semantic Perspective, "
        "arXiv 2211.08543, 2022"
    )
    caution: ClassVar[str] = (
        "equations 2 to 5 of the paper are reconstructed; compare no numbers with its figures"
    )

    block: int | None = None
    line_rule: LineRule = LineRule.MEAN
    line: float | None = None
    weighting: PatchWeighting = PatchWeighting.COUNT
    attention_weighted: bool = False
    dedupe: bool = False
    renormalised: bool = False

    @classmethod
    def refusal(cls, facts: ModelFacts) -> str:
        """See `Method.refusal`."""
        return facts.refusals.matrix

    @classmethod
    def forward_passes(cls, facts: ModelFacts) -> float:
        """See `Method.forward_passes`: the attention of all blocks is recomputed beside one."""
        return 1.1

    @classmethod
    def parameters(cls, facts: ModelFacts) -> tuple[Parameter, ...]:
        """See `Method.parameters`."""
        last = facts.blocks - 1
        return (
            Parameter("block", "int", last, "0-based block of the map", 0, last, noun="block"),
            Parameter(
                "line_rule",
                "enum",
                LineRule.MEAN,
                "what a patch's attention must exceed to count as attended",
                choices=choices(LineRule),
            ),
            Parameter("line", "float", 1.0, "factor of the line", 0, 10),
            Parameter(
                "weighting",
                "enum",
                PatchWeighting.COUNT,
                "an attended patch counts for its keypoints (1 without any), or for one more",
                choices=choices(PatchWeighting),
            ),
            Parameter("attention_weighted", "bool", False, "weigh patches by attention, too"),
            Parameter("dedupe", "bool", False, "count a keypoint of several orientations once"),
            Parameter("renormalised", "bool", False, "entropy of rows that are scaled to sum 1"),
        )

    def needs(self, facts: ModelFacts, target: ScoreTarget | None) -> tuple[Activation, ...]:
        """See `ExplanationMethod.needs`."""
        per_block = (
            activation
            for block in range(facts.blocks)
            for activation in (self._shares(block), FocusIndex(block, self.renormalised))
        )
        return (KeypointCounts(self.dedupe), *per_block)

    def explain(
        self,
        recorded: Mapping[Activation, Tensor],
        facts: ModelFacts,
        target: ScoreTarget | None,
    ) -> Findings:
        """See `ExplanationMethod.explain`; values of the map lie in [0, 1]."""
        assert self.block is not None
        grid = (facts.layout.rows, facts.layout.columns)
        counts = recorded[KeypointCounts(self.dedupe)]
        heads: list[HeadInterrelation] = []
        for block in range(facts.blocks):
            shares = _defined(recorded[self._shares(block)])
            focus = recorded[FocusIndex(block, self.renormalised)]
            heads += _by_head(block, shares, counts, focus)
        scores = patch_scores(_defined(recorded[self._shares(self.block)]).unsqueeze(0))[0]
        return Findings(
            scores.nan_to_num(nan=0.0).reshape(grid),
            interrelations=tuple(heads),
            keypoints=counts.round().long().reshape(grid),
        )

    def _shares(self, block: int) -> KeypointShares:
        assert self.line is not None
        return KeypointShares(
            block,
            self.line_rule,
            self.line,
            self.weighting,
            self.attention_weighted,
            self.dedupe,
        )


def _between_patches(attention: Tensor, facts: ModelFacts) -> Tensor:
    """Drop rows and columns of prefix tokens: [B, heads, T, T] to [B, heads, cells, cells]."""
    prefix = facts.layout.prefix
    return attention[:, :, prefix:, prefix:]


def _defined(shares: Tensor) -> Tensor:
    return shares.masked_fill(shares == _UNDEFINED, torch.nan)


def _by_head(block: int, shares: Tensor, counts: Tensor, focus: Tensor) -> list[HeadInterrelation]:
    """Equation 4 of one block: from shares [heads, cells], counts [cells] and focus [heads]."""
    found = interrelations(shares.unsqueeze(0), counts.unsqueeze(0))
    kk, kn, nk, nn = ([_or_none(v) for v in x[0].tolist()] for x in found)
    return [
        HeadInterrelation(block, head, kk[head], kn[head], nk[head], nn[head], float(focus[head]))
        for head in range(len(kk))
    ]


def _or_none(value: float) -> float | None:
    return None if value != value else value  # NaN alone differs from itself
