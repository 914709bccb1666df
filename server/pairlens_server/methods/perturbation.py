"""Methods that change the picture and look at the score: occlusion and paths to a baseline."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from pairlens_server.errors import InvalidParameterError
from pairlens_server.methods.base import Findings
from pairlens_server.methods.parameters import Parameter, choices
from pairlens_server.methods.targeted import TargetedMethod, given
from pairlens_server.recording import probes
from pairlens_server.recording.activations import Activation
from pairlens_server.recording.baselines import Baseline, Fill
from pairlens_server.recording.facts import ModelFacts
from pairlens_server.recording.probes import Probe
from pairlens_server.recording.targets import ScoreTarget

_STEPS = 32  # points of a path
_GRADIENT = 3  # forward passes that a pass with its gradient costs, about
_MAX_SEED = 2**32 - 1


def _fill(name: str, description: str) -> Parameter:
    return Parameter(name, "enum", Fill.MEAN, description, choices=choices(Fill))


def _seed() -> Parameter:
    return Parameter("seed", "int", 0, "of noise", 0, _MAX_SEED)


@dataclass(frozen=True)
class ProbingMethod(TargetedMethod):
    """A method that needs nothing but scores of changed pictures."""

    # A changed copy may be predicted as something else.
    class_first: ClassVar[bool] = True

    @classmethod
    def refusal(cls, facts: ModelFacts) -> str:
        """See `Method.refusal`: every model can be asked."""
        return ""

    def needs(self, facts: ModelFacts, target: ScoreTarget | None) -> tuple[Activation, ...]:
        """See `ExplanationMethod.needs`."""
        return ()


@dataclass(frozen=True)
class IntegratedGradients(ProbingMethod):
    """Integrated gradients, summed over channels and the pixels of each cell.

    Attributes:
        steps: Points of the quadrature; None for 32.
        baseline: Where the path starts.
        seed: Of noise; None for 0.
    """

    name: ClassVar[str] = "integrated_gradients"
    revision: ClassVar[int] = 1
    summary: ClassVar[str] = "what each region adds to the score on the way from an empty picture"
    paper: ClassVar[str] = "Sundararajan et al., ICML 2017"

    steps: int | None = None
    baseline: Fill = Fill.MEAN
    seed: int | None = None

    @classmethod
    def forward_passes(cls, facts: ModelFacts) -> float:
        """See `Method.forward_passes`."""
        return _STEPS * _GRADIENT + 2

    @classmethod
    def parameters(cls, facts: ModelFacts) -> tuple[Parameter, ...]:
        """See `Method.parameters`."""
        steps = Parameter("steps", "int", _STEPS, "points of the path", 2, 512)
        return (steps, _fill("baseline", "where the path starts"), _seed())

    def probe(
        self,
        recorded: Mapping[Activation, Tensor],
        facts: ModelFacts,
        target: ScoreTarget | None,
    ) -> Probe:
        """See `ExplanationMethod.probe`."""
        assert self.steps is not None
        baseline = Baseline(self.baseline, facts.black, self.seed or 0)
        return probes.PathGradients(given(target), facts.layout, baseline, self.steps)

    def explain(
        self,
        recorded: Mapping[Activation, Tensor],
        facts: ModelFacts,
        target: ScoreTarget | None,
    ) -> Findings:
        """See `ExplanationMethod.explain`; signed, in units of the score."""
        result = recorded[self.probed(given(target))]
        heatmap = result[:-1].reshape(facts.layout.rows, facts.layout.columns)
        return Findings(heatmap, completeness_error=float(result[-1]))


@dataclass(frozen=True)
class Occlusion(ProbingMethod):
    """Occlusion: how far the score falls when the window around a cell is filled.

    Attributes:
        window: Side of the window in cells, odd; None for 1.
        fill: What the window shows.
        seed: Of noise; None for 0.
    """

    name: ClassVar[str] = "occlusion"
    revision: ClassVar[int] = 1
    summary: ClassVar[str] = "how far the score falls when a region is hidden; model-free yardstick"
    paper: ClassVar[str] = "Zeiler and Fergus, ECCV 2014"
    caution: ClassVar[str] = "one forward pass for each cell of the grid"

    window: int | None = None
    fill: Fill = Fill.MEAN
    seed: int | None = None

    @classmethod
    def forward_passes(cls, facts: ModelFacts) -> float:
        """See `Method.forward_passes`."""
        return 1.0 + facts.layout.cells

    @classmethod
    def parameters(cls, facts: ModelFacts) -> tuple[Parameter, ...]:
        """See `Method.parameters`."""
        widest = max(1, min(facts.layout.rows, facts.layout.columns))
        window = Parameter("window", "int", 1, "side in cells, odd", 1, widest)
        return (window, _fill("fill", "what the window shows"), _seed())

    def resolve(self, facts: ModelFacts) -> Occlusion:
        """See `Method.resolve`."""
        resolved = super().resolve(facts)
        if resolved.window is not None and resolved.window % 2 == 0:
            raise InvalidParameterError(
                f"window {resolved.window} has no cell at its centre; give an odd number",
                field="method.occlusion.window",
            )
        return resolved

    def probe(
        self,
        recorded: Mapping[Activation, Tensor],
        facts: ModelFacts,
        target: ScoreTarget | None,
    ) -> Probe:
        """See `ExplanationMethod.probe`."""
        assert self.window is not None
        baseline = Baseline(self.fill, facts.black, self.seed or 0)
        return probes.OcclusionScores(given(target), facts.layout, self.window, baseline)

    def explain(
        self,
        recorded: Mapping[Activation, Tensor],
        facts: ModelFacts,
        target: ScoreTarget | None,
    ) -> Findings:
        """See `ExplanationMethod.explain`; signed, in units of the score."""
        scores = recorded[self.probed(given(target))]
        return Findings(probes.occlusion_map(scores, facts.layout.rows, facts.layout.columns))
