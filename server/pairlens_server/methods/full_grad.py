"""FullGrad: everything that adds to a score, put where it adds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from pairlens_server.methods.base import Findings
from pairlens_server.methods.cam import check_rule, rule_parameter
from pairlens_server.methods.parameters import Parameter
from pairlens_server.methods.targeted import TargetedMethod, given
from pairlens_server.recording.activations import Activation
from pairlens_server.recording.facts import ModelFacts
from pairlens_server.recording.primitives import GradientContributions, GradientRule
from pairlens_server.recording.targets import ScoreTarget


@dataclass(frozen=True)
class FullGrad(TargetedMethod):
    """FullGrad: input and biases times their gradients, by place, over all layers.

    Attributes:
        rule: Of the gradients; under LIBRA the signed sum, with what lies on no cell, is the
            score.
        absolute: Take absolute values of each layer's map before the sum.
    """

    name: ClassVar[str] = "full_grad"
    revision: ClassVar[int] = 1
    summary: ClassVar[str] = "input and biases times their gradients over all layers, by place"
    paper: ClassVar[str] = "Srinivas and Fleuret, NeurIPS 2019; rule libra: Mehri et al., CVPR 2025"

    rule: GradientRule | None = None
    absolute: bool = False

    @classmethod
    def refusal(cls, facts: ModelFacts) -> str:
        """See `Method.refusal`."""
        return facts.refusals.contributions

    @classmethod
    def forward_passes(cls, facts: ModelFacts) -> float:
        """See `Method.forward_passes`."""
        return 3.0

    @classmethod
    def parameters(cls, facts: ModelFacts) -> tuple[Parameter, ...]:
        """See `Method.parameters`."""
        rule = GradientRule.PLAIN if facts.refusals.libra else GradientRule.LIBRA
        absolute = Parameter(
            "absolute", "bool", False, "absolute values of each layer's map before the sum"
        )
        return (rule_parameter(rule), absolute)

    def resolve(self, facts: ModelFacts) -> FullGrad:
        """See `Method.resolve`."""
        resolved = super().resolve(facts)
        assert resolved.rule is not None
        check_rule(resolved.rule, facts, self.name)
        return resolved

    def needs(self, facts: ModelFacts, target: ScoreTarget | None) -> tuple[Activation, ...]:
        """See `ExplanationMethod.needs`."""
        assert self.rule is not None
        return (GradientContributions(given(target), self.rule, self.absolute),)

    def explain(
        self,
        recorded: Mapping[Activation, Tensor],
        facts: ModelFacts,
        target: ScoreTarget | None,
    ) -> Findings:
        """See `ExplanationMethod.explain`; signed, or at least 0 with `absolute`."""
        (needed,) = self.needs(facts, target)
        sums = recorded[needed]
        heatmap = sums[:-2].reshape(facts.layout.rows, facts.layout.columns)
        error = None if self.absolute else float(sums[:-1].double().sum() - sums[-1])
        return Findings(heatmap, completeness_error=error)
