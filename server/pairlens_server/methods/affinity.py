"""Affinity: how much a place looks like another picture as a whole."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from pairlens_server.methods.base import ExplanationMethod, Findings, patch_grid
from pairlens_server.recording.activations import Activation
from pairlens_server.recording.facts import ModelFacts
from pairlens_server.recording.primitives import ProjectedTokens
from pairlens_server.recording.targets import ScoreTarget, Similarity


@dataclass(frozen=True)
class Affinity(ExplanationMethod):
    """Cosine of each place's own projected feature with the other embedding."""

    name: ClassVar[str] = "affinity"
    revision: ClassVar[int] = 1
    summary: ClassVar[str] = "how much each place, read alone, looks like the other picture"
    paper: ClassVar[str] = "pairlens, for class-token models; does not sum to the similarity"
    takes_similarity: ClassVar[bool] = True

    @classmethod
    def refusal(cls, facts: ModelFacts) -> str:
        """See `Method.refusal`."""
        return facts.refusals.places

    def needs(self, facts: ModelFacts, target: ScoreTarget | None) -> tuple[Activation, ...]:
        """See `ExplanationMethod.needs`."""
        return (ProjectedTokens(),)

    def explain(
        self,
        recorded: Mapping[Activation, Tensor],
        facts: ModelFacts,
        target: ScoreTarget | None,
    ) -> Findings:
        """See `ExplanationMethod.explain`; in [-1, 1] for each picture of the target."""
        assert isinstance(target, Similarity)
        tokens = recorded[ProjectedTokens()]
        lengths = tokens.norm(dim=-1)
        cosines = tokens @ target.vector / lengths
        return Findings(patch_grid(torch.where(lengths > 0, cosines, 0.0), facts))
