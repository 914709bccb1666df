"""Relevance: attention weighed by what a target's score owes it, over all blocks."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from pairlens_server.methods.base import Findings, patch_grid
from pairlens_server.methods.parameters import Parameter
from pairlens_server.methods.targeted import TargetedMethod, given
from pairlens_server.recording.activations import Activation, Derived
from pairlens_server.recording.facts import ModelFacts
from pairlens_server.recording.primitives import (
    GradientWeightedAttention,
    LayerScoreGradient,
    TransformerAttributionRow,
)
from pairlens_server.recording.targets import ScoreTarget


def relevance_row(contributions: Sequence[Tensor], readout: Sequence[int]) -> Tensor:
    """Mean of the readout tokens' rows of R - I, with R ← R + C·R over the blocks: [B, T].

    R = (I + C_L) ··· (I + C_1), so that a row of it is a chain of vectors times matrices. The
    identity's own row is left out: under mean pooling it adds the same to every patch, beside
    which a small relevance would vanish in float32.

    Args:
        contributions: C [B, T, T] of each block, first block first.
        readout: Tokens that the head reads.
    """
    batch, tokens, _ = contributions[0].shape
    own = contributions[0].new_zeros(batch, 1, tokens)
    own[:, :, list(readout)] = 1 / len(readout)
    rest = torch.zeros_like(own)
    for contribution in reversed(contributions):
        rest = rest + (own + rest) @ contribution
    return rest[:, 0]


@dataclass(frozen=True)
class RelevanceRow(Derived):
    """[tokens]: the readout's row of generic attention relevance."""

    start_block: int
    target: ScoreTarget

    def inputs(self, facts: ModelFacts) -> tuple[Activation, ...]:
        """See `Derived.inputs`."""
        blocks = range(self.start_block, facts.blocks)
        return tuple(GradientWeightedAttention(block, self.target) for block in blocks)

    def derive(self, recorded: Mapping[Activation, Tensor], facts: ModelFacts) -> Tensor:
        """See `Derived.derive`."""
        return relevance_row([recorded[a] for a in self.inputs(facts)], facts.layout.readout)


@dataclass(frozen=True)
class RelevanceMethod(TargetedMethod):
    """A method that follows a target through the blocks, to a row of the readout.

    Attributes:
        start_block: First block that counts; None for 0.
    """

    start_block: int | None = None

    @classmethod
    def forward_passes(cls, facts: ModelFacts) -> float:
        """See `Method.forward_passes`."""
        return 2.5

    @classmethod
    def parameters(cls, facts: ModelFacts) -> tuple[Parameter, ...]:
        """See `Method.parameters`."""
        last = facts.blocks - 1
        start = Parameter("start_block", "int", 0, "first block that counts", 0, last, noun="block")
        return (start,)

    @abstractmethod
    def row(self, start_block: int, target: ScoreTarget) -> Activation:
        """What the map is made of."""

    def needs(self, facts: ModelFacts, target: ScoreTarget | None) -> tuple[Activation, ...]:
        """See `ExplanationMethod.needs`."""
        assert self.start_block is not None
        return (self.row(self.start_block, given(target)),)

    def explain(
        self,
        recorded: Mapping[Activation, Tensor],
        facts: ModelFacts,
        target: ScoreTarget | None,
    ) -> Findings:
        """See `ExplanationMethod.explain`; values at least 0."""
        (needed,) = self.needs(facts, target)
        return Findings(patch_grid(recorded[needed], facts))


@dataclass(frozen=True)
class AttentionRelevance(RelevanceMethod):
    """Generic attention relevance: the readout's row of R - I, see `relevance_row`."""

    name: ClassVar[str] = "attention_relevance"
    revision: ClassVar[int] = 1
    summary: ClassVar[str] = "attention followed through all blocks where it speaks for the target"
    paper: ClassVar[str] = "Chefer et al., Generic Attention-model Explainability, ICCV 2021"

    @classmethod
    def refusal(cls, facts: ModelFacts) -> str:
        """See `Method.refusal`."""
        return facts.refusals.relevance

    def row(self, start_block: int, target: ScoreTarget) -> Activation:
        """See `RelevanceMethod.row`."""
        return RelevanceRow(start_block, target)


@dataclass(frozen=True)
class TransformerAttribution(RelevanceMethod):
    """TIBAV: layer-wise relevance times gradient, rolled out.

    Attributes:
        single_precision: Compute in float32. The rules divide by numbers of any sign that may
            be near 0: of 12 maps of a trained network, 4 in float32 had a correlation below
            0.9 with those in float64.
    """

    name: ClassVar[str] = "transformer_attribution"
    revision: ClassVar[int] = 1
    summary: ClassVar[str] = "layer-wise relevance and gradients of attention, over all blocks"
    paper: ClassVar[str] = (
        "Chefer et al., Transformer Interpretability Beyond Attention Visualization, CVPR 2021"
    )
    caution: ClassVar[str] = (
        "contains LRP rules, over which a patent is claimed for commercial use; float64, since a "
        "third of float32 maps differ visibly (single_precision halves the cost)"
    )

    # In float64 another class may be the largest than in the model's own dtype.
    class_first: ClassVar[bool] = True

    single_precision: bool = False

    @classmethod
    def refusal(cls, facts: ModelFacts) -> str:
        """See `Method.refusal`."""
        return facts.refusals.attribution

    @classmethod
    def forward_passes(cls, facts: ModelFacts) -> float:
        """See `Method.forward_passes`."""
        return 10.0

    @classmethod
    def parameters(cls, facts: ModelFacts) -> tuple[Parameter, ...]:
        """See `Method.parameters`."""
        single = Parameter("single_precision", "bool", False, "float32: half the cost, less exact")
        return (*super().parameters(facts), single)

    def row(self, start_block: int, target: ScoreTarget) -> Activation:
        """See `RelevanceMethod.row`."""
        return TransformerAttributionRow(start_block, target, self.single_precision)

    def explain(
        self,
        recorded: Mapping[Activation, Tensor],
        facts: ModelFacts,
        target: ScoreTarget | None,
    ) -> Findings:
        """See `ExplanationMethod.explain`; values at least 0."""
        (needed,) = self.needs(facts, target)
        row, drift = recorded[needed][:-1], recorded[needed][-1]
        return Findings(patch_grid(row, facts), relevance_drift=float(drift))


@dataclass(frozen=True)
class LayerScoreRow(Derived):
    """[tokens]: mean over blocks of LeGrad's rows."""

    start_block: int
    target: ScoreTarget

    def inputs(self, facts: ModelFacts) -> tuple[Activation, ...]:
        """See `Derived.inputs`."""
        blocks = range(self.start_block, facts.blocks)
        return tuple(LayerScoreGradient(block, self.target) for block in blocks)

    def derive(self, recorded: Mapping[Activation, Tensor], facts: ModelFacts) -> Tensor:
        """See `Derived.derive`."""
        return torch.stack([recorded[a] for a in self.inputs(facts)]).mean(dim=0)


@dataclass(frozen=True)
class LeGrad(RelevanceMethod):
    """LeGrad: positive gradients of each block's own score by its attention."""

    name: ClassVar[str] = "le_grad"
    revision: ClassVar[int] = 1
    # Each block's own score would be the largest of another class.
    class_first: ClassVar[bool] = True
    summary: ClassVar[str] = "where more attention in any block would raise that block's own score"
    paper: ClassVar[str] = "Bousselham et al., ICCV 2025"

    @classmethod
    def refusal(cls, facts: ModelFacts) -> str:
        """See `Method.refusal`."""
        return facts.refusals.layer_scores

    def row(self, start_block: int, target: ScoreTarget) -> Activation:
        """See `RelevanceMethod.row`."""
        return LayerScoreRow(start_block, target)
